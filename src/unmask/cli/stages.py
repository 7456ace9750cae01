"""The stages of training side by side: what each starts from, what differs, what it runs with.

  unmask stages                                 as the paper has them, and what the published scripts say otherwise
  unmask stages --profile published-scripts     as the published scripts have them
  unmask stages config/stage/s1-gnd.yaml config/stage/s3-unified.yaml
  unmask stages --json

Any of it can be given to `unmask train` as a.b=c, a profile as profile=published-scripts. Where a number comes from stands beside it in the
stage file.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from unmask.train.config import StageConfig

FEW = 4
"""Mixing groups that are told one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stages, in which profile."""
    parser.add_argument("files", nargs="*", type=Path, help="stage files (default: those that Unmask ships)")
    parser.add_argument("--profile", help="of those files: paper (the default) or published-scripts")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")


def run(options: argparse.Namespace, console: Console) -> None:
    """Read the stage files and lay them side by side."""
    from unmask.train.stages import PAPER, in_order, profiles_of  # noqa: PLC0415  (`--help` stays quick)

    files = {path: profiles_of(path) for path in options.files or shipped()}
    named = sorted({profile for profiles in files.values() for profile in profiles})
    profile = options.profile or PAPER
    stages = {path: load(path, profile) for path, profiles in files.items() if profile in profiles or profile not in named}
    order = in_order([(stage.name, stage.accepts) for stage in stages.values()])
    stages = dict(sorted(stages.items(), key=lambda item: order.index(item[1].name)))
    absent = [path.stem for path in files if path not in stages]
    if options.json:
        plain = {"profile": profile, "stages": [as_json(*item) for item in stages.items()], "absent": absent}
        console.file.write(json.dumps(plain, ensure_ascii=False, indent=1) + "\n")
        return
    print_stages(stages, profile, console)
    for name in absent:
        console.print(f"{name} does not exist in this profile")
    for other in (each for each in named if each != profile and options.profile is None):
        console.print(Text.assemble("\n", (other, "bold"), f" says otherwise (profile={other}):"))
        for path, stage in stages.items():
            found = otherwise(stage, load(path, other)) if other in files[path] else ["does not exist"]
            console.print(Text(f"{stage.name}: " + ("; ".join(found) or "the same")), soft_wrap=True)


def shipped() -> list[Path]:
    """The stage files that come with Unmask, without those that train another model."""
    from unmask.config import read_yaml  # noqa: PLC0415
    from unmask.train.config import config_file  # noqa: PLC0415

    found = []
    for path in sorted(config_file("stage", "s1-gnd").parent.glob("*.yaml")):
        value = read_yaml(path).value
        if isinstance(value, dict) and "task" not in value:
            found.append(path)
    return found


def load(path: Path, profile: str) -> "StageConfig":
    """A stage in a profile; a file without profiles is itself in the default one."""
    from unmask.train.config import load_stage  # noqa: PLC0415
    from unmask.train.stages import PAPER  # noqa: PLC0415

    return load_stage(path, [] if profile == PAPER else [f"profile={profile}"])


def command(path: Path, stage: "StageConfig") -> str:
    """What runs a stage."""
    script = Path("scripts/train") / f"{path.stem}.sh"
    words = [str(script)] if script.is_file() else ["unmask", "train", str(path)]
    if stage.profile not in (None, "paper"):
        words.append(f"profile={stage.profile}")
    return " ".join(words)


def as_json(path: Path, stage: "StageConfig") -> dict[str, Any]:
    """A stage as plain values."""
    from unmask.config import dump  # noqa: PLC0415

    first = {"name": stage.name, "file": str(path), "command": command(path, stage), "accepts": list(stage.accepts)}
    return {**first, "weights": weights(stage.data), "settings": dump(stage)}


def print_stages(stages: Mapping[Path, "StageConfig"], profile: str, console: Console) -> None:
    """What differs in columns, then what does not, then the commands."""
    names = [stage.name for stage in stages.values()]
    settings = [{**leaves(stage), "weights": in_words(weights(stage.data))} for stage in stages.values()]
    keys = [key for key in dict.fromkeys(key for each in settings for key in each) if key not in {"name", "profile"}]
    table = Table(
        "", *(Column(name, overflow="fold") for name in names), title=f"stages, profile {profile}", title_justify="left"
    )
    same = Table.grid(padding=(0, 2))
    for key in keys:
        values = [each.get(key, "-") for each in settings]
        if len(set(values)) > 1:
            table.add_row(Text(key), *map(Text, values))
        elif values[0] != "-":
            same.add_row(Text(key), Text(values[0]))
    console.print(table)
    if len(names) > 1:
        console.print("The same in every stage:")
    console.print(same)
    console.print("\nOne after another:")
    for path, stage in stages.items():
        console.print(Text(f"  {command(path, stage)}"), soft_wrap=True)


def otherwise(stage: "StageConfig", other: "StageConfig") -> list[str]:
    """What another profile says, one text a setting."""
    before = {**leaves(stage), "weights": in_words(weights(stage.data))}
    after = {**leaves(other), "weights": in_words(weights(other.data))}
    keys = [key for key in {**before, **after} if key != "profile" and before.get(key) != after.get(key)]
    return [f"{key} {after.get(key, '-')}" for key in keys]


def leaves(stage: "StageConfig") -> dict[str, str]:
    """Dotted key -> value as one writes it; a list is one value."""
    from unmask.config import dump  # noqa: PLC0415

    flat: dict[str, str] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, child in value.items():
                walk(child, f"{path}.{key}" if path else key)
        else:
            flat[path] = shown(value)

    walk(dump(stage), "")
    return flat


def shown(value: object) -> str:
    """One value: 5e-6, not 5e-06; nothing as a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def weights(data: Path) -> dict[str, str] | None:
    """Mixing group -> its weight over the stage, from the data file; None if that is not here."""
    from unmask.data.spec import load_mixture  # noqa: PLC0415

    if not data.is_file():
        return None
    mixture = load_mixture(data)
    return {group: str(mixture.schedule(group)) for group in mixture.groups}


def in_words(groups: Mapping[str, str] | None) -> str:
    """The weights of a data file in a cell of a table."""
    if groups is None:
        return "-"
    if len(groups) == 1:
        return "one group"
    return f"{len(groups)} groups" if len(groups) > FEW else "; ".join(f"{name}: {weight}" for name, weight in groups.items())
