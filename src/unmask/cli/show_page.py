"""The page of `unmask data show --html`: for each row its columns, conversation, pictures and tokens."""

import json
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from unmask.cli.show import TEXT_ROLES
from unmask.cli.show_walk import Corridor, Seen, Settings, Walk
from unmask.data.boxes import COLOURS, draw_boxes
from unmask.data.conversation import Conversation, ImageSlot, Infill, Located, MicroConditions, Turn, Undrawn
from unmask.data.tokenize import ChatTokenizer, Role, TokenSample
from unmask.page import picture, write_page
from unmask.train.objective import masked_tokens

MEANINGS = {
    "PROMPT": "prompt: seen, never learned",
    "ANSWER": "answer: text to learn",
    "PICTURE": "picture: codes to learn",
    "REFERENCE": "reference: codes of a given picture",
    "FEATURE": "features: a picture that is read",
}
KINDS = {"image": "to read", "image_gen_enc": "reference", "image_gen": "to draw"}
_MARKS = re.compile(r"<box_p>|</box_p>|<LOC_BEGIN>(?:\s*<LOC_\d+>)*\s*<LOC_END>")
_STYLE = """
:root { --prompt: #5b6b7f; --prompt-bg: #e9eef5; --answer: #16713f; --answer-bg: #dcf3e4; --picture: #8a2d8f; --picture-bg: #f6e3f7;
  --reference: #9a5b00; --reference-bg: #fbeed6; --feature: #0b6a78; --feature-bg: #d9f1f4; }
@media (prefers-color-scheme: dark) { :root { --prompt: #a9b8ca; --prompt-bg: #262e38; --answer: #79d9a0; --answer-bg: #173324;
  --picture: #e2a0e6; --picture-bg: #3a1f3c; --reference: #ecbf76; --reference-bg: #3a2c14; --feature: #7fd3df; --feature-bg: #12323a; } }
body { max-width: 1120px; }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 14px 0 8px; font-size: 13px; }
nav a { color: var(--text); text-decoration: none; border: 1px solid var(--line); border-radius: 6px; padding: 2px 10px;
  background: var(--card); }
nav a.bad { color: var(--bad); border-color: var(--bad); }
section.row { border-top: 1px solid var(--line); margin-top: 40px; } section.row > h2 { margin: 24px 0 0; }
section.row > .note { margin-bottom: 12px; font-size: 13px; max-width: none; }
h3 { font-size: 12px; font-weight: 600; letter-spacing: 0.06em; text-transform: uppercase; color: var(--quiet); margin: 26px 0 8px; }
.columns th { width: 1%; white-space: nowrap; color: var(--quiet); vertical-align: top; padding-right: 24px; }
.columns td { overflow-wrap: anywhere; } .columns th, .columns td { padding-top: 5px; padding-bottom: 5px; font-size: 14px; }
.null { color: var(--quiet); font-style: italic; }
.turn { display: grid; grid-template-columns: 64px minmax(0, 1fr); margin: 0 0 8px; align-items: start; }
.turn b { color: var(--quiet); font-weight: 500; font-size: 13px; padding-top: 9px; }
.turn p { margin: 0; padding: 8px 14px; border-radius: 10px; background: var(--prompt-bg); white-space: pre-wrap; overflow-wrap: anywhere;
  width: fit-content; max-width: 100%; } .turn.gpt p { background: var(--answer-bg); }
.chip { display: inline-block; font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace; border-radius: 5px; padding: 0 7px;
  background: var(--picture-bg); color: var(--picture); }
.chip.facts { background: var(--card); color: var(--quiet); border: 1px dashed var(--line); } .loc { color: var(--quiet); font-size: 12px; }
details { font-size: 13px; color: var(--quiet); margin-top: 8px; } summary { cursor: pointer; }
details pre { color: var(--text); white-space: pre-wrap; }
.pictures { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.pictures figure { width: 248px; } .pictures figure.wide { width: 420px; max-width: 100%; }
.pictures figcaption { margin-top: 8px; color: var(--quiet); overflow-wrap: anywhere; }
.pictures figcaption b { color: var(--text); font-weight: 550; }
img { width: 100%; height: auto; display: block; border-radius: 8px; border: 1px solid var(--line); } img.small { image-rendering: pixelated; }
ul.boxes { list-style: none; margin: 4px 0 0; padding: 0; }
.boxes i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.tokens { font: 13px/2.1 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tokens span { padding: 2px 1px; margin-right: 1px; border-radius: 3px; white-space: pre-wrap; }
.prompt { color: var(--prompt); background: var(--prompt-bg); } .answer { color: var(--answer); background: var(--answer-bg); }
.picture { color: var(--picture); background: var(--picture-bg); } .reference { color: var(--reference); background: var(--reference-bg); }
.feature { color: var(--feature); background: var(--feature-bg); }
.tokens .run { padding: 2px 8px; white-space: nowrap; } .legend .masked { color: var(--ground); background: var(--text); }
.tokens .prompt.masked { color: var(--ground); background: var(--prompt); }
.tokens .answer.masked { color: var(--ground); background: var(--answer); }
.tokens .reference.masked { color: var(--ground); background: var(--reference); }
.tokens .feature.masked { color: var(--ground); background: var(--feature); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 16px; font-size: 13px; color: var(--quiet); margin: 6px 0 0; }
.legend span { border-radius: 3px; padding: 0 7px; }
.error { color: var(--bad); border-left: 3px solid var(--bad); padding: 2px 0 2px 12px; margin: 18px 0 0; overflow-wrap: anywhere; }
"""


def write_rows_page(path: Path, file: str, corridor: Corridor, walks: Sequence[Walk]) -> None:
    """Write the page.

    Args:
        path: of the page.
        file: the data file, for the heading.
        corridor: that was walked.
        walks: the rows.
    """
    sections = [_lead(file, corridor, walks)]
    sections += [_row(number, walk, corridor) for number, walk in enumerate(walks)]
    write_page(path, f"Rows of {Path(file).name}", sections, _STYLE)


def _lead(file: str, corridor: Corridor, walks: Sequence[Walk]) -> str:
    how: Settings = corridor.settings
    facts = f"model {how.model.name}, pictures of {how.encoding.image_size} px, seed {how.seed}, "
    facts += f"masks by the {how.corruption.image_policy} policy"
    shifts = {what: how.corruption.shift(edits=what == "edits") for what in ("drawings", "edits")}
    facts += "".join(f", those of {what} shifted by {shift:g}" for what, shift in shifts.items() if shift != 1)
    links = [
        f'<a href="#row-{number}"{" class=bad" if walk.error else ""}>{escape(_name(walk))}</a>'
        for number, walk in enumerate(walks)
    ]
    nav = f"<nav>{''.join(links)}</nav>" if len(walks) > 1 else ""
    return f'<p class="note">{escape(file)}: {escape(facts)}.</p>{_legend(walks)}{nav}'


def _legend(walks: Sequence[Walk]) -> str:
    used = {int(role) for walk in walks if walk.sample is not None for role in walk.sample.roles_L.tolist()}
    words = [
        f"<span class={role.name.lower()}>{escape(MEANINGS.get(role.name, role.name.lower()))}</span>"
        for role in Role
        if int(role) in used
    ]
    if any(walk.noise is not None for walk in walks):
        words.append("<span class=masked>masked in this draw</span>")
    return f'<p class="legend">{"".join(words)}</p>' if words else ""


def _name(walk: Walk) -> str:
    source = walk.record.source
    return f"{source.dataset} / {source.row}"


def _row(number: int, walk: Walk, corridor: Corridor) -> str:
    source = walk.record.source
    facts = f"{source.file}, row {source.row}; draw {walk.draw}, function {walk.dataset.spec.preprocess_fn}"
    parts = [
        f'<section class="row" id="row-{number}"><h2>{escape(_name(walk))}</h2><p class="note">{escape(facts)}</p>',
        *(f'<p class="error">replaced: {escape(f"{fault.source}: {fault.what}")}</p>' for fault in walk.replaced),
        f"<h3>Columns</h3>{_columns(walk)}",
    ]
    if walk.conversation is not None:
        parts.append(f"<h3>Conversation</h3>{_conversation(walk.conversation)}")
    figures = [_stored(seen) for seen in walk.seen if seen.image is not None] + _crops(walk)
    if figures:
        parts.append(f'<h3>Pictures</h3><div class="pictures">{"".join(figures)}</div>')
    if walk.sample is not None:
        note = escape(_counts(walk))
        parts.append(f'<h3>Tokens</h3><p class="note">{note}</p>{_tokens(walk, corridor.builder.encoder.chat)}')
    if walk.error is not None:
        parts.append(f'<p class="error">It goes no further: {escape(str(walk.error))}</p>')
    return "\n".join([*parts, "</section>"])


def _counts(walk: Walk) -> str:
    """Tokens by role, and the mask ratios that were drawn."""
    sample, noise = walk.sample, walk.noise
    assert sample is not None and noise is not None
    counts = [f"{int((sample.roles_L == role).sum())} {role.name.lower()}" for role in Role if (sample.roles_L == role).any()]
    ratios = [f"of the text {noise.text_ratio:.0%}"] if len(noise.text_mask_K) else []
    ratios += [f"of the picture {noise.image_ratio:.0%}"] if len(noise.code_mask_C) else []
    dropped = ", and the whole prompt is masked" if noise.prompt_dropped else ""
    return f"{len(sample)} tokens: {', '.join(counts)}. Mask ratios drawn: {', '.join(ratios) or 'none'}{dropped}."


def _columns(walk: Walk) -> str:
    lines = []
    for name, value in walk.record.values.items():
        text = '<span class="null">null</span>' if value is None else escape(value if isinstance(value, str) else repr(value))
        lines.append(f'<tr><th scope="row">{escape(name)}</th><td>{text}</td></tr>')
    return f'<table class="columns"><tbody>{"".join(lines)}</tbody></table>'


def _conversation(conversation: Conversation) -> str:
    turns = [f'<div class="turn {turn.speaker}"><b>{turn.speaker}</b><p>{_turn(turn)}</p></div>' for turn in conversation.turns]
    record = json.dumps(conversation.to_llava(markers=True), ensure_ascii=False, indent=2)
    return f"{''.join(turns)}<details><summary>as a LLaVA record</summary><pre>{escape(record)}</pre></details>"


def _turn(turn: Turn) -> str:
    html = ""
    for part in turn.parts:
        if isinstance(part, ImageSlot):
            html += f'<span class="chip">&lt;{part.kind}&gt;</span>'
        elif isinstance(part, MicroConditions):
            html += '<span class="chip facts">facts about the crop</span>'
        elif isinstance(part, Undrawn):
            html += '<span class="chip">&lt;image_gen_fake&gt;</span>'
        elif not isinstance(part, Infill):
            html += _with_boxes(part.text if isinstance(part, Located) else part)
    return html.strip()


def _with_boxes(text: str) -> str:
    """A text with its box tokens small."""
    html, end = "", 0
    for match in _MARKS.finditer(text):
        numbers = " ".join(re.findall(r"<LOC_(\d+)>", match[0]))
        shown = f"[{numbers}]" if numbers else match[0]
        html += f'{escape(text[end : match.start()])}<span class="loc" title="{escape(match[0])}">{escape(shown)}</span>'
        end = match.end()
    return html + escape(text[end:])


def _stored(seen: Seen) -> str:
    assert seen.image is not None
    width, height = seen.image.size
    boxed = draw_boxes(seen.image, seen.boxes) if seen.boxes else _bounded(seen.image)
    items = [
        f'<li><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(box.phrase or str(number + 1))}</li>'
        for number, box in enumerate(seen.boxes)
    ]
    boxes = f'<ul class="boxes">{"".join(items)}</ul>' if items else ""
    facts = f"{width} x {height}, {seen.num_bytes:,} bytes<br>{escape(seen.url)}"
    caption = f"<b>as stored, {KINDS.get(seen.kind, seen.kind)}</b><br>{facts}{boxes}"
    return _figure(boxed, caption, seen.url, "wide" if seen.boxes else "")


def _crops(walk: Walk) -> list[str]:
    if walk.sample is None or walk.noise is None:
        return []
    figures = []
    for pixels, hidden in zip(walk.sample.pictures, walk.masked, strict=True):
        side = pixels.shape[0]
        figures.append(_figure(Image.fromarray(pixels), f"<b>as cropped</b><br>{side} x {side}", "the crop"))
        mask = walk.noise.code_mask_C
        share = f"<b>as masked</b><br>ratio {walk.noise.image_ratio:.0%}: {int(mask.sum())} of {mask.size} codes"
        figures.append(_figure(Image.fromarray(hidden), share, "the crop with masked codes grey"))
    for tiles in walk.sample.tiles:
        caption = f"<b>as read</b><br>{len(tiles)} tiles of {tiles.shape[1]} px; the first"
        figures.append(_figure(Image.fromarray(tiles[0]), caption, "the first tile"))
    for reference in walk.sample.references:
        dropped = ", masked in this draw" if walk.noise.references_dropped else ""
        caption = f"<b>as a reference</b><br>{reference.shape[0]} x {reference.shape[1]}, padded{dropped}"
        figures.append(_figure(Image.fromarray(reference), caption, "the reference"))
    return figures


def _figure(image: Image.Image, caption: str, description: str, kind: str = "") -> str:
    html = picture(image, description)
    if max(image.size) < 256:
        html = html.replace("<img ", '<img class="small" ')
    return f'<figure class="{kind}">' + f"{html}<figcaption>{caption}</figcaption></figure>"


def _bounded(image: Image.Image, side: int = 512) -> Image.Image:
    smaller = image.copy()
    smaller.thumbnail((side, side))
    return smaller


def _tokens(walk: Walk, chat: ChatTokenizer) -> str:
    sample, noise = walk.sample, walk.noise
    assert sample is not None and noise is not None
    masked_L = np.logical_or(*masked_tokens(sample.roles_L, noise))
    html = []
    for role, run in groupby(range(len(sample)), key=lambda at: Role(int(sample.roles_L[at]))):
        places = list(run)
        if role in TEXT_ROLES:
            html += [_token(chat, sample, at, bool(masked_L[at])) for at in places]
        else:
            name = role.name.lower()
            said, kind = (", masked", " masked") if masked_L[places].all() else ("", "")
            html.append(f'<span class="{name} run{kind}">{len(places)} {name} tokens{said}</span>')
    return f'<div class="tokens">{"".join(html)}</div>'


def _token(chat: ChatTokenizer, sample: TokenSample, at: int, masked: bool) -> str:
    role, number = Role(int(sample.roles_L[at])), int(sample.ids_L[at])
    text = escape(chat.pretty(number)).replace("\n", "↵")
    kind = f"{role.name.lower()}{' masked' if masked else ''}"
    return (
        f'<span class="{kind}" title="place {at}, id {number}, {role.name.lower()}{", masked" if masked else ""}">{text}</span>'
    )
