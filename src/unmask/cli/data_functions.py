"""What every preprocess function reads, takes and says.

unmask data functions                    all of them: columns, options
unmask data functions text_to_image      one, with a row and what it becomes
unmask data functions --json             all that they declare, for programs
"""

import argparse
import json
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from unmask.data.preprocess import PREPROCESS_FUNCTIONS, Description, Preprocess, find_preprocess


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which function, and how to print it."""
    parser.add_argument("name", nargs="?", help="one function: a registered name, or module:function (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs: all that is declared, with an example")


def run(options: argparse.Namespace, console: Console) -> None:
    """Print one function in full, or all of them.

    Raises:
        ConfigError: there is no function of that name.
    """
    every = (PREPROCESS_FUNCTIONS.get(name) for name in PREPROCESS_FUNCTIONS)
    chosen = distinct(every) if options.name is None else [find_preprocess(options.name)]
    described = [function.describe() for function in chosen]
    if options.json:
        text = json.dumps([each.as_dict() for each in described], ensure_ascii=False, indent=2)
        console.print(text, markup=False, soft_wrap=True)
    elif options.name is None:
        for about in described:
            _print_one(about, console, example=False)
            console.print()
        console.print("One in full, with an example: unmask data functions NAME", markup=False)
    else:
        _print_one(described[0], console, example=True)


def distinct(functions: Iterable[Preprocess]) -> list[Preprocess]:
    """Each function once, by its clean name."""
    return sorted({function.names[0]: function for function in functions}.values(), key=lambda function: function.names[0])


def columns_in_words(about: Description) -> str:
    """The columns, those that depend on an argument with it."""
    words = [_column(about, column) for column in about.required]
    for condition, columns in about.given.items():
        words += [_column(about, column, condition) for column in columns]
    words += [_column(about, column, "there") for column in about.optional]
    return ", ".join(words) or "every column of the file"


def _column(about: Description, column: str, condition: str = "") -> str:
    """A column by its name, or by its default name and the argument that names it."""
    argument = column.strip("{}") if column.startswith("{") else None
    name = about.options[argument]["default"] if argument else column
    remarks = ["picture"] if column in about.images else []
    if argument:
        remarks.append(f"or as {argument} says" if name else "only if it is given")
    if condition:
        remarks.append(f"if {condition}")
    said = "; ".join(remarks)
    return f"{name or argument} ({said})" if said else str(name)


def options_in_words(about: Description) -> str:
    """The arguments with their defaults and choices."""
    words = []
    for name, option in about.options.items():
        default = f"={json.dumps(option['default'], ensure_ascii=False)}" if "default" in option else " (required)"
        choices = f" ({', '.join(map(str, option['choices']))})" if "choices" in option else ""
        words.append(f"{name}{default}{choices}")
    return ", ".join(words) or "-"


def _print_one(about: Description, console: Console, *, example: bool) -> None:
    console.print(Text(", ".join(about.names), "bold"))
    console.print(Text(about.summary))
    console.print(Text(f"columns: {columns_in_words(about)}"))
    console.print(Text(f"options: {options_in_words(about)}"))
    for choice in about.random_choices:
        console.print(Text(f"random:  {choice}"))
    if example and about.conversation is not None:
        console.print(Text(f"\na row {json.dumps(about.row, ensure_ascii=False, indent=2)}"), soft_wrap=True)
        console.print(Text(f"becomes {json.dumps(about.conversation, ensure_ascii=False, indent=2)}"), soft_wrap=True)
