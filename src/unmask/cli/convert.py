"""Import published weights, build the starting point of stage 1, export.

  unmask convert jacklishufan/LaViDa-O-v1.0 weights/lavida-o          published -> ours, from the hub (HF_TOKEN) or a folder
  unmask convert LLaDA-8B-Instruct weights/start --stage1 --vision google/siglip-so400m-patch14-384 --vq LaViDa-O-v1.0
  unmask convert lavida-llada-v1.0-instruct weights/start --stage1 --vq LaViDa-O-v1.0 --dtype bf16
  unmask convert runs/s2-256 release/ours --licence MIT               a run's newest checkpoint -> a folder to give away
  unmask convert runs/s2-256 release/theirs --to lavida-o             ours -> published names, for published tools
  unmask convert runs/s2-256 weights/smooth --ema                     the running means of what it learned (`ema` in the stage file)
  unmask convert runs/adapted release/merged --merge-lora             adapters added to the checkpoint that they adapt

A converted folder holds weights, sizes, tokenizer, image tokenizer and a model card; start from it or draw with it:

  unmask train config/stage/s2-256.yaml model=weights/start init=weights/start
  unmask generate weights/lavida-o "a cat"

What SRC is (LaViDa-O, LaViDa, LLaDA, or ours) is found out. Every tensor must be accounted for by name and shape; conversion.json in DST
says what became of each. A LaViDa or LLaDA checkpoint without --stage1 stays what it is: a part of a model. Weights are streamed, so memory
holds one shard; DST appears when it is whole.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import TimeElapsedColumn
from rich.table import Table

from unmask.cli.picked import picked
from unmask.cli.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, target, and what to make of it."""
    parser.add_argument("source", metavar="SRC", help="a folder, a run, or owner/name on the hub")
    parser.add_argument("target", metavar="DST", type=Path, help="a folder that is not there yet")
    layouts = ("native", "lavida-o", "lavida", "llada")
    parser.add_argument(
        "--to", choices=layouts, default="native", help="layout of DST (default native: what train and generate read)"
    )
    parser.add_argument("--stage1", action="store_true", help="build a whole model, the starting point of stage 1, from a part")
    parser.add_argument(
        "--model", default="lavida-o-8b", help="sizes of that model: a name in config/model or a file (default lavida-o-8b)"
    )
    parser.add_argument("--kind", choices=layouts[1:], help="what SRC is, where config and tensors disagree")
    parser.add_argument(
        "--vision", metavar="SIGLIP", help="SigLIP encoder for a text model; its config.json for an unknown encoder"
    )
    parser.add_argument("--vq", metavar="VQVAE", help="image tokenizer (a diffusers VQModel; subfolder vqvae is tried too)")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="where tokenizer.json is, if not in SRC; none for a folder without")
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp16", "fp32"),
        help="number type of the weights, not of the image tokenizer (default: as they are)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn anew (default 0)")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="of the pictures to draw (default 64 codes, 16 with --stage1)"
    )
    parser.add_argument("--shard-size", type=float, default=5.0, metavar="GB", help="of DST's shards (default 5)")
    parser.add_argument("--licence", "--license", help="of SRC's weights, for the model card; asked for if a person is there")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="PATTERN", help="tensors of SRC that may be left out: 'model.x.*'"
    )
    parser.add_argument("--ema", action="store_true", help="of a run: the running means of its weights, not the last ones")
    parser.add_argument("--merge-lora", action="store_true", help="of a run with adapters: a plain model with them added")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it is a folder that this command made")


def run(options: argparse.Namespace, console: Console) -> None:
    """Convert and report."""
    from unmask.errors import ConfigError  # noqa: PLC0415
    from unmask.infer import presets  # noqa: PLC0415
    from unmask.model.weights import convert as conversion  # noqa: PLC0415  (`--help` stays quick)
    from unmask.model.weights.source import Hints  # noqa: PLC0415
    from unmask.train.config import load_model_config  # noqa: PLC0415

    if not options.shard_size > 0:
        raise ConfigError(f"--shard-size is {options.shard_size:g}, and must be above 0")
    conversion.check_target(options.source, options.target, options.overwrite)
    wanted = conversion.Options(
        **picked(options, "to", "stage1", "dtype", "image_size", "seed", "overwrite"),
        model=load_model_config(options.model),
        hints=Hints(**picked(options, "kind", "vision", "vq", "tokenizer", "ema", "merge_lora"), ignore=tuple(options.ignore)),
        shard_bytes=int(options.shard_size * 1e9),
        licence=_licence(options, console),
        beside=lambda picture: presets.as_file(presets.of_published(picture)),
    )
    with progress_bar(console, TimeElapsedColumn()) as bar:
        task = bar.add_task("files of weights", total=None)
        report = conversion.convert(
            options.source, options.target, wanted, lambda done, total: bar.update(task, completed=done, total=total)
        )
    table = Table("", "tensors", "parameters", "how, or why", box=None, pad_edge=False)
    for what, tensors, parameters, how in report.rows():
        table.add_row(what, f"{tensors:,}" if tensors else "", f"{parameters:,}" if parameters else "", how)
    console.print(f"{report.source}: {report.kind}")
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    console.print(f"written: {options.target} ({report.parameters:,} parameters, layout {report.target})")


def _licence(options: argparse.Namespace, console: Console) -> str:
    """The licence that was given, or that a person types now; unknown otherwise."""
    from unmask.model.weights.card import UNKNOWN  # noqa: PLC0415

    if options.licence:
        return str(options.licence)
    if sys.stdin.isatty() and console.is_terminal:
        answer = console.input("Licence of the source's weights, e.g. MIT (empty: unknown, to be filled in later): ")
        return answer.strip() or UNKNOWN
    return UNKNOWN
