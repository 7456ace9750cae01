"""Rows at every stop of the corridor: columns, conversation, tokens, pixels as cropped and as masked, boxes drawn on their pictures.

  unmask data show config/data/mine.yaml --row 17
  unmask data show config/data/mine.yaml --entry coyo --rows 0:8 --html rows.html      a page that stands alone
  unmask data show config/data/mine.yaml --draw 'default#4711' --stage runs/s2-256/stage.yaml
  unmask data show config/data/mine.yaml --row 17 --png row.png

--row and --rows count the rows of the entry's record files, filters aside. --draw makes the very sample that a run has seen under that
name in its faults.jsonl or in `unmask data order`: take the settings of the run with --stage, or give --seed, --size and --model. If a
row goes no further than some stop, the reason is an error and the exit code 1; the stops before it are shown.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from unmask.cli import data_file
from unmask.cli.data_file import open_mixture
from unmask.data.tokenize import ChatTokenizer, Role, TokenSample

if TYPE_CHECKING:
    from PIL import Image

    from unmask.cli.show_walk import Corridor, Walk

STYLES = {
    Role.PROMPT: "cyan",
    Role.ANSWER: "bold green",
    Role.PICTURE: "bold magenta",
    Role.FEATURE: "yellow",
    Role.REFERENCE: "blue",
}
LEGEND = "prompt (seen)  answer (text target)  picture (code targets)  feature, reference (seen)"
TEXT_ROLES = (Role.PROMPT, Role.ANSWER)
"""Roles whose tokens are words; runs of others are shown as one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows, of which run, and where to."""
    data_file.add_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--row", type=int, default=0, help="row of the entry's record files, from 0 (default 0)")
    which.add_argument("--rows", metavar="A:B", help="several rows, from A up to B, which is not among them")
    which.add_argument("--draw", metavar="GROUP#N", help="the sample that a run makes of draw N of a group")
    parser.add_argument("--entry", help="name of the data set (default: the first)")
    parser.add_argument(
        "--stage", type=Path, help="stage file of a run, e.g. runs/s2-256/stage.yaml: its model, size, seed and noise"
    )
    parser.add_argument("--model", help="whose tokenizers to use (default: of the stage, else tiny)")
    parser.add_argument(
        "--size", type=int, help="side of the picture in pixels (default: of the stage, else 64 for tiny and 256)"
    )
    parser.add_argument("--seed", type=int, help="of crop and masks (default: of the stage, else 0)")
    parser.add_argument("--html", type=Path, help="write a page instead")
    parser.add_argument("--png", type=Path, help="also write the picture of the last row, as cropped and as masked")


def run(options: argparse.Namespace, console: Console) -> None:
    """Walk the rows; print them or write a page."""
    from unmask.cli.data_check import Findings  # noqa: PLC0415  (`--help` and `check` stay quick)
    from unmask.cli.show_page import write_rows_page  # noqa: PLC0415
    from unmask.cli.show_walk import Corridor, chosen_draw, chosen_entry, chosen_rows, settings  # noqa: PLC0415

    how = settings(options)
    mixture = open_mixture(options, how.seed, how.mode)
    if options.draw:
        draw = chosen_draw(mixture, options.draw)
        corridor = Corridor(mixture, how)
        walks = [corridor.draw(draw)]
    else:
        dataset = chosen_entry(mixture, options.entry)
        rows = chosen_rows(dataset, options.rows, options.row)
        corridor = Corridor(mixture, how)
        walks = [corridor.row(dataset, row) for row in rows]
    if options.html:
        with data_file.written(options.html):
            write_rows_page(options.html, str(options.file), corridor, walks)
        console.print(f"written: {options.html}", soft_wrap=True)
    else:
        for walk in walks:
            print_walk(walk, corridor, console)
    if options.png:
        _write_png(walks[-1], options.png, console)
    errors = [walk.error for walk in walks if walk.error is not None]
    if errors:
        raise Findings(errors)


def print_walk(walk: "Walk", corridor: "Corridor", console: Console) -> None:
    """One row, stop by stop."""
    for fault in walk.replaced:
        console.print(Text(f"replaced: {fault.source}: {fault.what}"), soft_wrap=True)
    console.rule(Text(f"columns: {walk.record.source}"))
    console.print(walk.record.describe(), markup=False)
    if walk.conversation is not None:
        console.rule("conversation")
        console.print_json(json.dumps(walk.conversation.to_llava(markers=True), ensure_ascii=False))
    _print_boxes(walk, console)
    if walk.sample is not None and walk.noise is not None:
        console.rule(Text(f"tokens: {walk.sample.describe()}"))
        console.print(_coloured(corridor.builder.encoder.chat, walk.sample))
        console.rule("pixels: as cropped, and with its codes masked")
        for image in side_by_side(walk):
            console.print(_half_blocks(image, console.width))


def side_by_side(walk: "Walk") -> list["Image.Image"]:
    """Each picture to draw, as cropped and as masked."""
    import numpy as np  # noqa: PLC0415  (`--help` and `check` stay quick)
    from PIL import Image  # noqa: PLC0415

    pictures = walk.sample.pictures if walk.sample is not None else ()
    return [
        Image.fromarray(np.concatenate([picture, np.full((picture.shape[0], 4, 3), 255, np.uint8), hidden], axis=1))
        for picture, hidden in zip(pictures, walk.masked, strict=True)
    ]


def _print_boxes(walk: "Walk", console: Console) -> None:
    from unmask.data.boxes import draw_boxes  # noqa: PLC0415  (`--help` and `check` stay quick)

    for seen in walk.seen:
        if seen.image is None or not seen.boxes:
            continue
        console.rule(Text(f"boxes on {seen.url}"))
        for box in seen.boxes:
            corners = ", ".join(f"{corner:.0f}" for corner in box.pixels(*seen.image.size))
            console.print(Text(f"{box.phrase or '(no phrase)'}: {corners} px"))
        console.print(_half_blocks(draw_boxes(seen.image, seen.boxes, side=min(512, 2 * console.width)), console.width))


def _write_png(walk: "Walk", path: Path, console: Console) -> None:
    """The pictures of a row in one file, one below the other."""
    from PIL import Image  # noqa: PLC0415  (`--help` and `check` stay quick)

    from unmask.data.boxes import draw_boxes  # noqa: PLC0415

    pictures = [draw_boxes(seen.image, seen.boxes) for seen in walk.seen if seen.image is not None and seen.boxes]
    pictures += side_by_side(walk)
    if not pictures:
        return
    sheet = Image.new("RGB", (max(image.width for image in pictures), sum(image.height for image in pictures)), "white")
    top = 0
    for image in pictures:
        sheet.paste(image, (0, top))
        top += image.height
    with data_file.written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    console.print(f"written: {path}", soft_wrap=True)


def _coloured(chat: ChatTokenizer, sample: TokenSample) -> Text:
    text = Text()
    run = 0
    before = Role.PROMPT
    for number, role in zip([*sample.ids_L.tolist(), None], [*sample.roles_L.tolist(), Role.PROMPT], strict=True):
        if run and role != before:
            text.append(f"[{run} {before.name.lower()} tokens]", STYLES[before])
            run = 0
        before = Role(role)
        if before not in TEXT_ROLES:
            run += 1
        elif number is not None:
            text.append(chat.pretty(number).replace("\n", "\\n"), STYLES[before])
            text.append("|", "dim")
    text.append(f"\n{LEGEND}", "dim")
    return text


def _half_blocks(image: "Image.Image", columns: int) -> Text:
    """A picture in a terminal: each character is two pixels, one above the other."""
    import numpy as np  # noqa: PLC0415  (`--help` and `check` stay quick)

    width = min(columns - 1, image.width)
    height = max(2, round(image.height * width / image.width) // 2 * 2)
    pixels = np.asarray(image.resize((width, height)))
    text = Text()
    for row in range(0, height, 2):
        for upper, lower in zip(pixels[row].tolist(), pixels[row + 1].tolist(), strict=True):
            text.append("▀", "rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower))
        text.append("\n")
    return text
