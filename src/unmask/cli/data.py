"""Look at a data file before a model does.

  unmask data check config/data/mine.yaml                     every key, file, column and function; rows left by each rule
  unmask data check config/data/mine.yaml --probe 20          also fetch and decode 20 pictures of each entry
  unmask data show config/data/mine.yaml --row 17             that row at every stop: columns, conversation, tokens, pixels
  unmask data show config/data/mine.yaml --rows 0:8 --html rows.html
  unmask data stats config/data/mine.yaml --html stats.html   lengths of texts, sizes, scores, duplicates
  unmask data bench config/data/mine.yaml --workers 2         samples a second by stage; what binds
  unmask data order config/data/mine.yaml --steps 0:10        which rows the first steps of a run hold
  unmask data functions text_to_image                         what a preprocess function reads, and what a row becomes

Each has a --help with examples. `check` needs no model; it leaves with code 1 and one line for every mistake, with file:line and the remedy.
"""

import argparse
import importlib
from types import ModuleType

from rich.console import Console

ACTIONS = {
    "check": "check every key, file and column; count rows by rule",
    "show": "one row, or several, at every stop of the corridor",
    "stats": "lengths of texts, sizes, scores, nulls and duplicates",
    "bench": "samples a second by stage, and what binds",
    "order": "which rows the steps of a run hold, by rank",
    "functions": "what every preprocess function reads, takes and says",
}
MODULES = {"show": "unmask.cli.show"}
"""Where an action is, if not in `unmask.cli.data_ACTION`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, text in ACTIONS.items():
        module = module_of(name)
        action = actions.add_parser(
            name, help=text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(action)


def run(options: argparse.Namespace, console: Console) -> None:
    """Do what was asked."""
    module_of(options.action).run(options, console)


def module_of(action: str) -> ModuleType:
    """The file of an action; each has `add_arguments` and `run`."""
    return importlib.import_module(MODULES.get(action, f"unmask.cli.data_{action}"))
