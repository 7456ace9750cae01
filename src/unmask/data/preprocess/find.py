"""A name in a data YAML -> the preprocess function: registered here, announced by an installed package, or in a module of the user's.

A package announces its functions in the entry point group `unmask.preprocess`. `package.module:function` is looked for in the folder of the
data YAML, in the working directory and among the installed packages.
"""

import importlib
import inspect
import sys
import traceback
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from unmask.data.preprocess.base import PREPROCESS_FUNCTIONS, Function, Preprocess
from unmask.errors import ConfigError, did_you_mean

ENTRY_POINTS = "unmask.preprocess"


def find_preprocess(name: str, folder: Path | None = None) -> Preprocess:
    """The preprocess function of that name.

    Args:
        name: a registered name, the name of an entry point, or `package.module:function`.
        folder: the folder of the data YAML, from which modules may be imported.

    Raises:
        ConfigError: there is none; its module is not found or cannot be imported; it is not a function of a row and a generator.
    """
    if name in PREPROCESS_FUNCTIONS:
        return PREPROCESS_FUNCTIONS.get(name)
    if ":" in name:
        return _from_module(name, (folder or Path()).resolve(), Path().resolve())
    announced = _announced()
    if name not in announced:
        fix = did_you_mean(name, [*PREPROCESS_FUNCTIONS, *announced])
        raise ConfigError(f"unknown preprocess function '{name}'", fix=fix)
    return _from_entry_point(name, announced[name])


@lru_cache
def _from_module(name: str, *folders: Path) -> Preprocess:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ConfigError(f"'{name}' is no function of a module", fix="write package.module:function")
    module = _import(module_name, folders)
    if not hasattr(module, attribute):
        public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        fix = did_you_mean(attribute, public) or "it holds none"
        raise ConfigError(f"module '{module_name}' ({_file(module)}) has no function '{attribute}'", fix=fix)
    return _declared(getattr(module, attribute), name)


@lru_cache
def _from_entry_point(name: str, point: EntryPoint) -> Preprocess:
    where = f"the package '{point.dist.name}'" if point.dist else "a package"
    try:
        found = point.load()
    except Exception as error:  # noqa: BLE001  (another package's code may raise anything)
        raise ConfigError(f"preprocess function '{name}' of {where} cannot be imported: {_reason(error)}") from None
    return _declared(found, name)


@lru_cache
def _announced() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _declared(function: object, name: str) -> Preprocess:
    """What the function declared when it was registered; if it was not, that it reads every column."""
    if isinstance(function, Preprocess):
        return function
    for registered in PREPROCESS_FUNCTIONS:
        if PREPROCESS_FUNCTIONS.get(registered).function is function:
            return PREPROCESS_FUNCTIONS.get(registered)
    if not callable(function):
        raise ConfigError(f"'{name}' is {type(function).__name__}, not a function", fix="name a function f(row, rng)")
    _check_signature(function, name)
    return Preprocess(function, reads_every_column=True, names=(name,))


def _check_signature(function: Function, name: str) -> None:
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(function).parameters.values())
    first = [each for each in parameters[:2] if each.kind in places]
    if len(first) < 2 and not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
        written = inspect.signature(function)
        raise ConfigError(f"'{name}' is called with a row and a generator, but is f{written}", fix="begin it with f(row, rng)")


def _import(name: str, folders: tuple[Path, ...]) -> ModuleType:
    """A module, with the folders behind everything else on the path, where they stay for what it imports later.

    Raises:
        ConfigError: there is no such module, it fails, or another one has its name.
    """
    sys.path += [str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path]
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"module '{name}' cannot be imported: {_reason(error)}") from None
        near = did_you_mean(name, [path.stem for folder in folders for path in folder.glob("*.py")])
        looked = " and ".join(dict.fromkeys(map(str, folders)))
        fix = near if near and near.startswith("did you mean") else "put it beside the data YAML, or install its package"
        raise ConfigError(f"no module '{error.name}' in {looked}, and none is installed", fix=fix) from None
    except Exception as error:  # noqa: BLE001  (the user's module may raise anything)
        raise ConfigError(f"module '{name}' cannot be imported: {_reason(error)}") from None
    beside = next((path for path in (folder / f"{name.replace('.', '/')}.py" for folder in folders) if path.is_file()), None)
    if beside is not None and _file(module) != str(beside):
        raise ConfigError(f"'{name}' means {_file(module)}, not {beside}, which has the same name", fix="rename your module")
    return module


def _file(module: ModuleType) -> str:
    """Where a module comes from."""
    return str(Path(module.__file__).resolve()) if module.__file__ else "built in"


def _reason(error: Exception) -> str:
    """An error in a module that is not ours, on one line, with the place where it happened."""
    said = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {' '.join((error.msg or '').split())} ({error.filename}:{error.lineno})"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    theirs = [each for each in frames if each.filename != __file__ and "importlib" not in each.filename]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {said}{place}"
