"""Options of a command line that have the name of what they set."""

import argparse
from typing import Any


def picked(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Name -> value, to be handed on as arguments."""
    return {name: getattr(options, name) for name in names}
