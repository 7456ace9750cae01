"""The command line of `unmask prepare`: one parser for each data set, the table of sets, the report for people."""

import argparse
import json
import re
import time
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unmask.cli.picked import picked
from unmask.cli.prepare_bar import Bar, report_table
from unmask.cli.prepare_passes import add_passes, pair
from unmask.errors import DataError
from unmask.prepare.converter import Converter, Job, readable
from unmask.prepare.entry import entry_text
from unmask.prepare.mapping import columns_by_task
from unmask.prepare.report import dumps
from unmask.prepare.run import prepare, report_path
from unmask.prepare.sets import CONVERTERS

_ADDRESS = re.compile(r"https://[^\s,;()]+")


def add_sets(parser: argparse.ArgumentParser) -> None:
    """`list`, and one command for each data set."""
    sets = parser.add_subparsers(dest="set", required=True, metavar="NAME")
    listing = sets.add_parser("list", help="every set: licence, size, rows, what it is for, how to get it")
    listing.add_argument("--json", action="store_true", help="for programs")
    add_passes(sets)
    for name in CONVERTERS:
        converter = CONVERTERS.get(name)
        sub = sets.add_parser(
            name,
            help=converter.title if name == converter.name else f"the same as {converter.name}",
            description=_description(converter),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common(sub, converter)
        for option in converter.options:
            flag = f"--{option.name}"
            if isinstance(option.default, bool):
                sub.add_argument(flag, action="store_true", dest=f"own_{option.name}", help=option.help)
                continue
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            sub.add_argument(
                flag,
                type=type(option.default),
                choices=option.choices or None,
                default=option.default,
                dest=f"own_{option.name}",
                metavar=option.name.upper(),
                help=f"{option.help}{choices}" + (f" (default {option.default})" if option.default != "" else ""),
            )
        sub.set_defaults(converter=converter, error=sub.error)


def _add_common(sub: argparse.ArgumentParser, converter: Converter) -> None:
    """What every set understands."""
    what = "the data set as downloaded" if converter.get else "your data"
    sub.add_argument("src", nargs="?", type=Path, metavar="SRC", help=what)
    sub.add_argument("out", nargs="?", type=Path, metavar="OUT.parquet", help="the record file to write")
    modes = {"archive": "leave pictures in their tars", "folder": "pictures are files, unpacked if need be"}
    said = "; ".join(f"{mode}: {modes[mode]}" for mode in converter.modes)
    sub.add_argument(
        "--images", choices=("archive", "folder"), default=converter.modes[0], help=f"{said} (default {converter.modes[0]})"
    )
    sub.add_argument(
        "--unpack", type=Path, metavar="FOLDER", help="where to unpack (default OUT-images); several conversions may share one"
    )
    sub.add_argument("--pictures", type=Path, metavar="FOLDER", help="where the pictures are, if not in SRC")
    sub.add_argument(
        "--prefix",
        default="",
        metavar="TEXT",
        help="put before each path, e.g. s3://bucket/folder; pictures are then not looked for",
    )
    sub.add_argument(
        "--sizes", action=argparse.BooleanOptionalAction, default=True, help="read width and height from the pictures' headers"
    )
    sub.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="pictures to leave out, one name or COCO number a line",
    )
    sub.add_argument(
        "--refcoco", type=Path, metavar="FOLDER", help="RefCOCO annotations; the pictures of their val and test are left out"
    )
    sub.add_argument("--keep-evaluation-pictures", action="store_true", help="do not leave those out")
    sub.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes (default 1); the result is the same for any number"
    )
    sub.add_argument("--print-entry", action="store_true", help="only print the entry of a data file that fits OUT")
    sub.add_argument("--json", action="store_true", help="print the report for programs")
    if converter.guess is not None:
        ours = columns_by_task() if any(option.name == "task" for option in converter.options) else "caption"
        said = f"name a column, where the guess is wrong; may be given again. OURS: {ours}"
        sub.add_argument("--map", action="append", default=[], metavar="OURS=THEIRS", help=said)


def _description(converter: Converter) -> str:
    title, command = converter.title, f"  unmask prepare {converter.name} SRC OUT.parquet"
    public = (f"{title}. For: {converter.purpose}. Licence: {converter.licence}.", "", f"Get it:   {converter.get}")
    lines = (
        *(public if converter.get else (f"{title[0].upper()}{title[1:]}.", "")),
        f"SRC is    {converter.layout}.",
        "",
        command,
        *([f"{command} --map caption=THEIRS"] if converter.guess is not None else []),
        "",
        "Writes the rows to OUT.parquet; beside it OUT.report.json, which counts what was read, kept and left out, and why. Prints the entry",
        "of a data file that fits them. A run that was stopped goes on with the same command.",
    )
    return "\n".join(lines).replace("%", "%%")


def run(options: argparse.Namespace, console: Console) -> None:
    """List, do a pass over a record file, print an entry, or convert."""
    if options.set == "list":
        _list(options.json, console)
        return
    if "make" in options:
        options.make(options, console)
        return
    converter: Converter = options.converter
    if options.print_entry:
        console.print(_entry(options, converter), end="", markup=False, soft_wrap=True)
        return
    if options.src is None or options.out is None:
        options.error("SRC and OUT.parquet are needed")
    if options.workers < 1:
        options.error(f"--workers must be at least 1, not {options.workers}")
    job = _job(options, converter)
    with readable(job):
        guess = converter.guess(job) if converter.guess is not None and converter.shards(job) else {}
    if guess:
        guessed = ", ".join(f"{ours}={theirs}" for ours, theirs in guess.items())
        console.print(f"columns: {guessed}   (--map OURS=THEIRS changes this)", markup=False, soft_wrap=True)
    start = time.monotonic()
    with Bar(console) as bar:
        outcome = prepare(converter, job, options.workers, bar)
    if options.json:
        console.print(dumps(outcome.report.as_json()), end="", markup=False, soft_wrap=True)
        return
    seconds = time.monotonic() - start
    console.print(
        f"{options.out}: {outcome.report.kept:,} of {outcome.report.read:,} rows in {seconds:.1f} s", markup=False, soft_wrap=True
    )
    console.print(report_table(outcome.report))
    console.print(f"report: {outcome.report_file}\nentry of a data file, also with --print-entry:", markup=False, soft_wrap=True)
    console.print(outcome.entry, end="", markup=False, soft_wrap=True)


def _job(options: argparse.Namespace, converter: Converter) -> Job:
    own = {option.name: getattr(options, f"own_{option.name}") for option in converter.options}
    return Job(
        **picked(options, "src", "out", "images", "pictures", "prefix", "sizes", "refcoco"),
        unpack=options.unpack or options.out.with_name(f"{options.out.stem}-images"),
        exclude=tuple(options.exclude),
        keep_evaluation=options.keep_evaluation_pictures,
        mapping=tuple(pair(each, "--map", "s3_path=url") for each in getattr(options, "map", [])),
        options=converter.all_options(own),
    )


def _entry(options: argparse.Namespace, converter: Converter) -> str:
    """The entry that the report of OUT holds; without OUT, one to fill in."""
    if options.out is None:
        out = Path(f"/path/to/{converter.name}.parquet")
        options = argparse.Namespace(**{**vars(options), "src": Path("/path/to/src"), "out": out})
        return entry_text(converter, _job(options, converter))
    path = report_path(options.out)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["entry"])
    except FileNotFoundError:
        raise DataError(
            "there is no report yet, so nothing was converted", where=str(path), fix="leave --print-entry out first"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError("is no report of unmask prepare", where=str(path), fix="convert again") from None


def _list(as_json: bool, console: Console) -> None:
    names = sorted({CONVERTERS.get(name).name for name in CONVERTERS})
    fields = ("name", "title", "rows", "size", "licence", "purpose", "get")
    rows = [{field: getattr(CONVERTERS.get(name), field) for field in fields} for name in names]
    if as_json:
        console.print(json.dumps(rows, indent=1), markup=False, soft_wrap=True)
        return
    table = Table(
        Column("name", no_wrap=True), *(Column(title, overflow="fold") for title in ("rows", "size", "licence", "for", "from"))
    )
    for row in rows:
        address = " ".join(found.removeprefix("https://") for found in _ADDRESS.findall(row["get"])[:1])
        table.add_row(*(Text(row[field]) for field in ("name", "rows", "size", "licence", "purpose")), Text(address))
    console.print(table)
    console.print("unmask prepare NAME --help: how to get a set, what its folder has to look like, its own choices", markup=False)
