"""`convert`: a checkpoint in one layout -> a folder in another, streamed, sealed, with a report of every tensor."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unmask.config import to_yaml
from unmask.errors import CheckpointError, ConfigError
from unmask.model.config import ImageTokenizerConfig, ModelConfig, PictureConfig
from unmask.model.weights import beside, card, config_json, native, source, special_tokens, stage1
from unmask.model.weights.config_json import Kind
from unmask.model.weights.lavida_o import VQ_PREFIX, published_name
from unmask.model.weights.pieces import Piece, Progress, stream, with_dtype
from unmask.model.weights.report import LeftOut, Report
from unmask.model.weights.shards import DEFAULT_LIMIT, ShardWriter, Stored, scan
from unmask.model.weights.source import PUBLISHED, Hints, Opened
from unmask.storage import hub, sealed

Layout = Literal["native", "lavida-o", "lavida", "llada"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MARGIN = 64_000_000
"""Bytes beyond the weights that a folder may take: tokenizer, reports."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asks for.

    Attributes:
        to: layout of the target.
        stage1: build a whole model, the starting point of stage 1, from a part.
        model: the sizes of that model; of a part's source too, where a whole model is described.
        dtype: number type of the target's weights (not of the image tokenizer); None keeps each tensor's.
        image_size: side of the pictures that the model draws; None: 64 codes, and 16 for a starting point.
        seed: of what is drawn anew.
        shard_bytes: size of the target's shards.
        licence: of the source's weights.
        overwrite: replace a folder that this made before.
        beside: further files of a whole published model in our layout, by the pictures that it draws.
    """

    to: Layout = "native"
    stage1: bool = False
    model: ModelConfig | None = None
    hints: Hints = field(default_factory=Hints)
    dtype: str | None = None
    image_size: int | None = None
    seed: int = 0
    shard_bytes: int = DEFAULT_LIMIT
    licence: str = card.UNKNOWN
    overwrite: bool = False
    beside: Callable[[PictureConfig], Mapping[str, str]] = lambda _: {}


@dataclass
class _Target:
    """What is going to be written."""

    pieces: list[Piece]
    image_tokenizer: list[Piece]
    config: ModelConfig
    picture: PictureConfig | None
    report: Report
    files: dict[str, str] = field(default_factory=dict)
    tokenizer: Callable[[Path], None] | None = None


def convert(reference: str, folder: Path, options: Options, progress: Progress | None = None) -> Report:
    """Make `folder` from the checkpoint that `reference` names.

    Args:
        reference: a folder, a run, or owner/name on the hub.
        folder: appears when it is whole, and not before.
        options: see `Options`.
        progress: called with the source's files done, and all of them.

    Raises:
        UnmaskError: the source is not what it should be, or the target cannot be written; nothing was changed then.
    """
    check_target(reference, folder, options.overwrite)
    opened = source.open_source(reference, options.hints)
    target = _plan(opened, reference, folder, options)
    _check_space(folder, sum(piece.bytes for piece in (*target.pieces, *target.image_tokenizer)))
    sealed.write(folder, lambda unfinished: _write(target, opened, unfinished, options, progress))
    return target.report


def check_target(reference: str, folder: Path, overwrite: bool) -> None:
    """Refuse to write over anything that is not meant.

    Raises:
        ConfigError: the folder is there already, or is the source.
    """
    if Path(reference).exists() and folder.resolve() == Path(reference).resolve():
        raise ConfigError("SRC and DST are the same folder", where=str(folder), fix="write to another one")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ConfigError("is there already", where=str(folder), fix="choose another folder, or --overwrite it")
    if not source.sealed_here(folder):
        raise ConfigError("was not made by Unmask and is not overwritten", where=str(folder), fix="choose another folder")


def _check_space(folder: Path, needed: int) -> None:
    parent = next(each for each in folder.absolute().parents if each.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed + MARGIN:
        raise CheckpointError(
            f"the target takes {(needed + MARGIN) / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            where=str(parent),
            fix="free some space, or choose a folder on another disk",
        )


def _plan(opened: Opened, reference: str, folder: Path, options: Options) -> _Target:
    _refuse_unused(opened, options)
    kind = source.NAMES[opened.kind] + (", native layout" if opened.own else "")
    report = Report(reference, kind, options.to, options.seed, left_out=list(opened.left_out))
    if options.stage1:
        target = _plan_stage1(opened, report, options)
    else:
        if options.to not in ("native", opened.kind) and not _contains(opened.kind, options.to):
            raise ConfigError(
                f"a {source.NAMES[opened.kind]} checkpoint cannot be written as {options.to}: it lacks {' and '.join(_lacks(opened.kind))}",
                where=reference,
                fix="build the whole model with --stage1 first",
            )
        target = _plan_import(opened, report, options)
    if options.to == "native":
        target.config = beside.without_links(target.config)
    else:
        _as_published(target, opened, folder, options)
    dtype = DTYPES[options.dtype] if options.dtype else None
    first = next(piece.source for piece in target.pieces if piece.source is not None)
    target.pieces = with_dtype(target.pieces, dtype, first.dtype)
    twice = options.to == "lavida-o"  # the published layout holds the image tokenizer with the rest, and by itself
    for piece in (*target.pieces, *(() if twice else target.image_tokenizer)):
        piece.note(report)
    return target


def _refuse_unused(opened: Opened, options: Options) -> None:
    """Arguments that would change nothing are mistakes."""
    used_vq = options.stage1 or (opened.kind == "lavida-o" and not opened.own)
    used_vision = (options.stage1 and opened.kind == "llada") or (opened.kind != "llada" and not opened.own)
    for flag, value, used in (("--vq", options.hints.vq, used_vq), ("--vision", options.hints.vision, used_vision)):
        if value is not None and not used:
            own = " of our own" if opened.own else ""
            raise ConfigError(
                f"{flag} has no use for a {source.NAMES[opened.kind]} checkpoint{own}"
                + ("" if options.stage1 else " without --stage1"),
                fix="leave it out",
            )


def _contains(kind: Kind, other: str) -> bool:
    order = ["llada", "lavida", "lavida-o"]
    return order.index(other) <= order.index(kind)


def _lacks(kind: Kind) -> list[str]:
    return {"lavida-o": [], "lavida": ["the gen tower"], "llada": ["the gen tower", "the vision encoder"]}[kind]


def _plan_import(opened: Opened, report: Report, options: Options) -> _Target:
    """The tensors as they are; a part of a model stays a part."""
    config = opened.config or _described(opened, options)
    report.lacks = _lacks(opened.kind)
    pieces = [
        Piece(name, each.shape, each, opened.merges.get(name), "with its adapters" if name in opened.merges else "")
        for name, each in opened.weights.items()
    ]
    if opened.kind == "lavida" and "vision.pool.weight" not in opened.weights:
        whole = {name: each for name, each in opened.weights.items() if name.startswith("vision.siglip.")}
        width = next(each.shape[0] for name, each in whole.items() if name.endswith("patch_embedding.bias"))
        for name, shape in (("vision.pool.weight", (width, width, 2, 2)), ("vision.pool.bias", (width,))):
            pieces.append(stage1.made(name, shape))
    vq = [Piece(name, each.shape, each) for name, each in opened.image_tokenizer.items()]
    picture = opened.picture
    if picture is None and opened.kind == "lavida-o":
        size = options.image_size or 64 * config.image_tokenizer.factor
        picture = PictureConfig(size=size, compress=True, conditions=True, published_strings=True)
    target = _Target(pieces, vq, config, picture, report)
    if opened.tokenizer is not None:
        tokenizer = opened.tokenizer
        read = special_tokens.read_tokenizer(tokenizer)
        ids = int(read.get_vocab_size())
        if opened.kind == "lavida-o":
            if special_tokens.extend(read, config.vocab_size, tokenizer) != config.vocab_size:
                report.notes.append(
                    "the tokenizer lacked the coordinate and box tokens, which the tables have: added in the published order"
                )
                target.tokenizer = lambda where: special_tokens.write(read, tokenizer, where)
                return target
        elif ids > config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {ids} ids, the model's table {config.vocab_size} rows",
                where=str(tokenizer / "tokenizer.json"),
                fix="give the tokenizer that belongs to these weights with --tokenizer",
            )
        target.tokenizer = lambda where: special_tokens.copy(tokenizer, where)
    return target


def _described(opened: Opened, options: Options) -> ModelConfig:
    """The whole model that a part is to be a part of; its text tower must be the source's.

    Raises:
        CheckpointError: a size differs.
    """
    model = options.model
    if model is None:
        raise ConfigError("the sizes of the whole model are not known", where=str(opened.folder), fix="give --model NAME or FILE")
    where = str(opened.folder)
    if opened.kind == "lavida" and model.vision is None:
        raise CheckpointError(
            f"has a vision encoder, and the model '{model.name}' has none", where=where, fix="add `vision:` to the model file"
        )
    heads = config_json.heads_of(opened.published)
    if model.vision is not None and heads not in (None, model.vision.num_heads):
        raise CheckpointError(
            f"the vision encoder has {heads} heads, and the model '{model.name}' vision.num_heads={model.vision.num_heads}",
            where=where,
            fix="choose the model of these sizes with --model NAME or FILE",
        )
    given = config_json.text_sizes(opened.published)
    if not options.stage1:
        model = replace(model, vocab_size=given["vocab_size"], image_tokenizer=replace(model.image_tokenizer, weights=None))
    for name, value in given.items():
        if name != "vocab_size" and getattr(model, name) != value:
            raise CheckpointError(
                f"{config_json.KEYS[name]} is {value}, and the model '{model.name}' has {name}={getattr(model, name)}",
                where=str(opened.folder / "config.json"),
                fix="choose the model of these sizes with --model NAME or FILE",
            )
    return model


def _plan_stage1(opened: Opened, report: Report, options: Options) -> _Target:
    """A whole model from a part."""
    hints, where = options.hints, str(opened.folder)
    if opened.kind == "lavida-o":
        raise ConfigError(
            "--stage1 builds a whole model from LaViDa or LLaDA, and this is one", where=where, fix="leave --stage1 out"
        )
    if hints.vq is None:
        raise ConfigError("--stage1 needs an image tokenizer", where=where, fix="give --vq FOLDER of a diffusers VQModel")
    if opened.tokenizer is None:
        raise ConfigError("--stage1 needs a tokenizer", where=where, fix="give --tokenizer FOLDER")
    model = _described(opened, options)
    vq_folder = beside.vq_folder_of(hints.vq, "--vq")
    model = replace(model, image_tokenizer=config_json.image_tokenizer_config(vq_folder / "config.json"))
    held = dict(opened.weights)
    if opened.kind == "llada":
        vision, left = _open_vision(model, hints, where)
        held |= vision
        report.left_out += left
    tokenizer = special_tokens.read_tokenizer(opened.tokenizer)
    before = special_tokens.extend(tokenizer, model.vocab_size, opened.tokenizer)
    made = stage1.pieces(model, held, before, options.seed, where)
    unused = held.keys() - {piece.name for piece in made}
    why = "the model has fewer layers, or no such part"
    report.left_out += [LeftOut(held[name].name, held[name].shape, why) for name in sorted(unused)]
    vq = beside.open_image_tokenizer(vq_folder, model)
    size = options.image_size or 16 * model.image_tokenizer.factor
    report.notes.append(f"seed {options.seed}: the same seed makes the same folder")
    return _Target(
        made,
        [Piece(name, each.shape, each) for name, each in vq.items()],
        model,
        PictureConfig(size=size, compress=False, conditions=True),
        report,
        tokenizer=lambda folder: special_tokens.write(tokenizer, opened.tokenizer or folder, folder),
    )


def _open_vision(model: ModelConfig, hints: Hints, where: str) -> tuple[dict[str, Stored], list[LeftOut]]:
    """A SigLIP encoder by our names, and what of it has no place: its last layer, its head, its text half."""
    if model.vision is None:
        return {}, []
    if hints.vision is None:
        raise ConfigError("a LLaDA checkpoint has no eyes", where=where, fix="give --vision FOLDER of a SigLIP encoder")
    folder = hub.folder(hints.vision, *source.FILES, where="--vision")
    stored = scan(folder)
    config = config_json.read_json(folder / "config.json")
    given = config.get("vision_config") or config
    heads, named = model.vision.num_heads, given.get("num_attention_heads")
    if named not in (None, heads):
        raise CheckpointError(
            f"num_attention_heads is {named}, and the model '{model.name}' has {heads}",
            where=str(folder / "config.json"),
            fix="choose the model of these sizes with --model NAME or FILE",
        )
    ours = {name for name in source.model_shapes(model) if name.startswith("vision.siglip.")}
    by_name = {name.removeprefix("vision.siglip.").removeprefix("vision_model."): name for name in ours}
    inner = {name: name.removeprefix("vision_model.") for name in stored}
    held = {by_name[inner[name]]: each for name, each in stored.items() if inner[name] in by_name}
    why = "SigLIP's last layer, head and text half are not used"
    return held, [LeftOut(name, each.shape, why) for name, each in stored.items() if inner[name] not in by_name]


def _as_published(target: _Target, opened: Opened, folder: Path, options: Options) -> None:
    """Published names, and the files that published tools read."""
    assert options.to != "native"
    to: Kind = options.to
    names = [piece.name for piece in target.pieces]
    dropped = [piece for piece in target.pieces if not source.kind_holds(to, piece.name)]
    target.report.left_out += [LeftOut(piece.name, piece.shape, f"{source.NAMES[to]} has no such part") for piece in dropped]
    kept = [piece for piece in target.pieces if source.kind_holds(to, piece.name)]
    if not kept or len(set(names)) != len(names):
        raise CheckpointError("there is nothing to write", where=str(opened.folder))
    target.pieces = [replace(piece, name=published_name(piece.name)) for piece in kept]
    config: dict[str, Any] = config_json.published_json(to, target.config, opened.published)
    if to == "lavida-o":
        target.pieces += [replace(piece, name=VQ_PREFIX + piece.name) for piece in target.image_tokenizer]
        config.setdefault("mm_vqvae", str(folder.absolute()))
    else:
        target.image_tokenizer, target.picture = [], None
    target.report.lacks = _lacks(to)
    dtypes = {piece.dtype or (piece.source.dtype if piece.source else torch.float32) for piece in kept}
    if options.dtype or len(dtypes) == 1:
        dtype = DTYPES[options.dtype] if options.dtype else dtypes.pop()
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
    target.files["config.json"] = json.dumps(config, indent=2) + "\n"


def _write(target: _Target, opened: Opened, folder: Path, options: Options, progress: Progress | None) -> None:
    """Everything, into the unfinished folder."""
    main = ShardWriter(folder, limit=options.shard_bytes)
    vq = ShardWriter(folder / "vqvae", beside.VQ_BASE, limit=sys.maxsize)  # one file, whatever its size: so diffusers reads it
    writers = {piece.name: main for piece in target.pieces}
    own_vq = [replace(piece, name=f"vqvae/{piece.name}") for piece in target.image_tokenizer]
    writers |= {piece.name: vq for piece in own_vq}
    _stream(target.pieces + own_vq, writers, progress)
    main.finish()
    if own_vq:
        vq.finish()
        (folder / "vqvae" / "config.json").write_text(_vq_json(target.config.image_tokenizer))
    if target.tokenizer is not None:
        target.tokenizer(folder)
    if options.to == "native":
        target.files["model.yaml"] = to_yaml(target.config)
        if target.picture is not None:
            target.files["picture.yaml"] = to_yaml(target.picture)
            target.files.update(_decode_settings(opened, target.picture, options))
        if opened.own and (opened.folder / "stage.yaml").is_file():  # it still comes from that stage
            target.files["stage.yaml"] = (opened.folder / "stage.yaml").read_text()
        if opened.published:
            target.files[PUBLISHED] = json.dumps(opened.published, indent=1) + "\n"
    stage = _stage(opened, options)
    target.files["README.md"] = card.model_card(target.report, target.config, target.picture, options.licence, stage)
    target.files[native.CONVERSION] = json.dumps(target.report.as_json(), indent=1) + "\n"
    for name, text in target.files.items():
        (folder / name).write_text(text)


def _decode_settings(opened: Opened, picture: PictureConfig, options: Options) -> Mapping[str, str]:
    """Those of the source, where it is one of ours and has some."""
    own = opened.folder / native.DECODE
    if own.is_file():
        return {native.DECODE: own.read_text()}
    return {} if opened.own or options.stage1 else options.beside(picture)


def _stream(pieces: Sequence[Piece], writers: dict[str, ShardWriter], progress: Progress | None) -> None:
    stream(pieces, lambda name, tensor: writers[name].add(name.removeprefix("vqvae/"), tensor), progress)


def _vq_json(config: ImageTokenizerConfig) -> str:
    return json.dumps(config_json.image_tokenizer_json(config), indent=2) + "\n"


def _stage(opened: Opened, options: Options) -> str:
    """What training the weights have seen, in a sentence."""
    if options.stage1:
        return "It is the starting point of stage 1: the gen tower and the new tokens are untrained."
    state, stage = opened.folder / "state.json", opened.folder / "stage.yaml"
    if opened.own and state.is_file() and stage.is_file():
        name = next((line[6:].strip() for line in stage.read_text().splitlines() if line.startswith("name: ")), "unnamed")
        means = " These are the running means of its weights." if options.hints.ema else ""
        return f"It was trained in stage `{name}` for {json.loads(state.read_text())['step']} steps.{means}"
    return "Its training is that of its source."
