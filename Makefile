# `make demo` and `make test` set up what they need, once: a virtual environment in .venv with the versions of constraints.txt.
# Another Python: make test PYTHON=python3.12      More arguments: make test ARGS="-k tables" JOBS=8, make demo ARGS="--quick"

PYTHON ?= python3
ARGS ?=
JOBS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean

help:  ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(READY)  ## build .venv (demo, test and check do it by themselves)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unmask needs Python 3.11 or newer: make ... PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[train,dev]'
	@touch $@

demo: $(READY)  ## the whole story on a CPU: draw scenes, train, draw held-out captions, report
	$(BIN)/unmask demo $(ARGS)

test: $(READY)  ## run all tests, in JOBS processes (2)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(READY)  ## lint, format, types, floors, the rules of the house, the commands in the documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run scripts/*.sh scripts/*/*.sh
	$(BIN)/pytest -q tests/test_house.py tests/test_docs.py

clean:  ## remove .venv, caches and builds; runs, pictures and demo-out stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
