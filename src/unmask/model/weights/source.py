"""Opening what is to be converted: found out what it is, every tensor under our name, nothing read but headers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.errors import CheckpointError, ConfigError
from unmask.model import lora
from unmask.model.config import ImageTokenizerConfig, LoraConfig, ModelConfig, PictureConfig
from unmask.model.unified import UnifiedModel
from unmask.model.weights import config_json, lavida, llada, native
from unmask.model.weights.beside import (
    VQ_BASE,
    find_tokenizer,
    has_tokenizer,
    match_image_tokenizer,
    open_image_tokenizer,
    vq_folder_of,
)
from unmask.model.weights.config_json import Kind
from unmask.model.weights.lavida_o import IGNORED, VQ_PREFIX, our_names
from unmask.model.weights.pieces import Make
from unmask.model.weights.report import LeftOut
from unmask.model.weights.shards import Stored, match, read_one, scan
from unmask.storage import hub, sealed

FILES = ("*.safetensors", "*.json", "*.jinja", "vqvae/*.json", "vqvae/*.safetensors")
"""What to download of a checkpoint's repository."""
PUBLISHED = "published.json"
"""The `config.json` that imported weights came with; exporting gives it back."""
NAMES = {"lavida-o": "LaViDa-O", "lavida": "LaViDa", "llada": "LLaDA"}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Opened:
    """A checkpoint, of ours or published.

    Attributes:
        kind: which of the published systems it is a checkpoint of (`lavida-o`: a whole model; the others: parts of one).
        own: whether it is in our own layout.
        name: of the model.
        folder: where it is.
        weights: our name -> tensor, without the image tokenizer.
        image_tokenizer: diffusers' name -> tensor; empty if there is none.
        config: our sizes; None for a published part, which does not know the sizes of a whole model.
        published: the `config.json` that it came with, {} if it never had one.
        tokenizer: folder of its `tokenizer.json`, if it has one.
        picture: what it was trained to draw, if anything.
        left_out: tensors that our model has no place for.
        merges: our name -> what adds a layer's adapters to it.
    """

    kind: Kind
    own: bool
    name: str
    folder: Path
    weights: Mapping[str, Stored]
    image_tokenizer: Mapping[str, Stored]
    config: ModelConfig | None
    published: Mapping[str, Any]
    tokenizer: Path | None
    picture: PictureConfig | None = None
    left_out: tuple[LeftOut, ...] = field(default=())
    merges: Mapping[str, Make] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a user may add to a checkpoint that does not say everything.

    Attributes:
        kind: overrides what is found.
        vision: folder or hub id of a SigLIP encoder.
        vq: folder or hub id of a `VQModel` (subfolder `vqvae` is tried too).
        tokenizer: folder or hub id with a `tokenizer.json`.
        ignore: patterns of tensor names that may be left out.
        ema: of a run, the running means of what it learned in place of the last weights.
        merge_lora: of a run with adapters, add them to the checkpoint that they adapt.
    """

    kind: Kind | None = None
    vision: str | None = None
    vq: str | None = None
    tokenizer: str | None = None
    ignore: tuple[str, ...] = ()
    ema: bool = False
    merge_lora: bool = False


def open_source(reference: str, hints: Hints) -> Opened:
    """Open a folder, a run, or a repository of the hub.

    Raises:
        UnmaskError: it is none of the kinds, incomplete, damaged, or of a shape that is not supported.
    """
    if Path(reference).is_file():
        suffix = Path(reference).suffix
        raise CheckpointError(
            "is a file" if suffix == ".safetensors" else "is a file, and no safetensors",
            where=reference,
            fix="give the folder that holds config.json and the safetensors",
        )
    folder = hub.folder(reference, *FILES, where="SRC")
    if (folder / "model.yaml").is_file() or (folder / "checkpoints").is_dir():
        return _open_own(native.find(folder), reference, hints)
    for flag, given in (("--ema", hints.ema), ("--merge-lora", hints.merge_lora)):
        if given:
            raise ConfigError(f"{flag} is for checkpoints of our own runs", where=reference, fix="leave it out")
    return _open_published(folder, reference.rstrip("/").rpartition("/")[2], hints)


def _open_own(folder: Path, reference: str, hints: Hints) -> Opened:
    """One of ours, whole or a part."""
    config = native.read_config(folder, "model", ModelConfig)
    weights, merges = _own_weights(folder, reference, hints)
    whole = model_shapes(config)
    kind = kind_of_names(weights)
    expected = {name: shape for name, shape in whole.items() if kind_holds(kind, name)}
    match({name: each.shape for name, each in weights.items()}, expected, folder, "its model.yaml")
    vq: dict[str, Stored] = {}
    if kind == "lavida-o" and config.image_tokenizer.weights is not None:
        file = hub.locate(
            config.image_tokenizer.weights, *(f"{sub}{VQ_BASE}.safetensors" for sub in ("vqvae/", "")), where=reference
        )
        vq = open_image_tokenizer(file.parent, config)
    published = folder / PUBLISHED
    tokenizer = None
    if hints.tokenizer is not None:
        tokenizer = find_tokenizer(folder, hints.tokenizer)
    elif has_tokenizer(config, folder):
        tokenizer = hub.locate(config.tokenizer, "tokenizer.json", where=reference).parent
    return Opened(
        kind=kind,
        own=True,
        name=config.name,
        folder=folder,
        weights=weights,
        image_tokenizer=vq,
        config=config,
        published=config_json.read_json(published) if published.is_file() else {},
        tokenizer=tokenizer,
        picture=native.read_config(folder, "picture", PictureConfig) if (folder / "picture.yaml").is_file() else None,
        merges=merges,
    )


def _own_weights(folder: Path, reference: str, hints: Hints) -> tuple[dict[str, Stored], dict[str, Make]]:
    """Where every weight of a verified checkpoint lies; for those that are adapted also what adds the adapters."""
    if not (folder / lora.CONFIG).is_file():
        if hints.merge_lora:
            raise ConfigError(
                "--merge-lora has nothing to merge: there are no adapters here", where=reference, fix="leave it out"
            )
        return native.stored_weights(folder, ema=hints.ema), {}
    if not hints.merge_lora:
        raise CheckpointError(
            "holds adapters alone", where=reference, fix="add --merge-lora, which adds them to the checkpoint that they adapt"
        )
    adapters = native.read_config(folder, "adapters", lora.Adapters)
    adapters.check(folder)
    base = native.find(adapters.base)
    below = Hints(merge_lora=(base / lora.CONFIG).is_file())
    weights, merges = _own_weights(base, str(base), below)
    learned = {**native.stored_adapters(folder), **(native.stored_means(folder) if hints.ema else {})}
    for name, stored in learned.items():
        layer = lora.adapted_layer(name)
        if layer is not None:
            pair = (learned[name.replace(".lora_B.", ".lora_A.")], stored)
            merges[layer] = _merge(merges.get(layer), pair, adapters.lora)
        elif not lora.is_adapter(name):
            weights[name] = stored
            merges.pop(name, None)
    return weights, merges


def _merge(before: Make | None, pair: tuple[Stored, Stored], config: LoraConfig) -> Make:
    """Adds one pair of matrices, read when they are needed."""

    def make(weight: Tensor) -> Tensor:
        weight = weight if before is None else before(weight)
        return lora.added(weight, read_one(pair[0]), read_one(pair[1]), config)

    return make


def _open_published(folder: Path, name: str, hints: Hints) -> Opened:
    """A published checkpoint, strictly."""
    stored = scan(folder)
    config = config_json.read_json(folder / "config.json")
    where = str(folder / "config.json")
    kind = hints.kind or _agreed_kind(config, stored, where)
    config_json.check(kind, config, where)
    left = {each for each in stored if each.endswith(IGNORED) or any(fnmatch(each, pattern) for pattern in hints.ignore)}
    kept = {name: each for name, each in stored.items() if name not in left}
    inside = {each for each in kept if kind == "lavida-o" and each.startswith(VQ_PREFIX)}
    rest = {each: kept[each] for each in kept if each not in inside}
    sized, vq = _sized(kind, config, rest, {each.removeprefix(VQ_PREFIX): kept[each] for each in inside}, (folder, name, hints))
    shapes = {ours: shape for ours, shape in model_shapes(sized).items() if kind_holds(kind, ours)}
    if kind == "lavida":
        lacking = {ours for theirs, ours in our_names(shapes).items() if theirs not in rest and ours in lavida.OPTIONAL}
        shapes = {ours: shape for ours, shape in shapes.items() if ours not in lacking}
    names = our_names(shapes)
    match(
        {name: each.shape for name, each in rest.items()},
        {theirs: shapes[ours] for theirs, ours in names.items()},
        folder,
        "its config.json",
    )
    return Opened(
        kind=kind,
        own=False,
        name=name,
        folder=folder,
        weights={ours: rest[theirs] for theirs, ours in names.items()},
        image_tokenizer=vq,
        config=sized if kind == "lavida-o" else None,
        published=config,
        tokenizer=find_tokenizer(folder, hints.tokenizer),
        left_out=(
            *(LeftOut(each, stored[each].shape, "no parameter of the model, or ignored as asked") for each in sorted(left)),
            *(
                LeftOut(each, stored[each].shape, "the image tokenizer of --vq in its place")
                for each in sorted(inside if hints.vq else ())
            ),
        ),
    )


def _sized(
    kind: Kind,
    config: Mapping[str, Any],
    rest: Mapping[str, Stored],
    vq: Mapping[str, Stored],
    place: tuple[Path, str, Hints],
) -> tuple[ModelConfig, dict[str, Stored]]:
    """Our sizes of a published file, and its image tokenizer; a part gets a gen tower of no importance."""
    folder, name, hints = place
    where = str(folder / "config.json")
    vision = None
    blind = config.get("mm_vision_tower") is None and not siglip_names(rest)
    if kind == "lavida" or (kind == "lavida-o" and not blind):
        file = folder / "siglip_config.json"
        if hints.vision:
            file = hub.folder(hints.vision, "config.json", where="--vision") / "config.json"
        given = config_json.read_json(file) if hints.vision or file.is_file() else {}
        siglip = siglip_names(rest)
        vision = config_json.vision_config(config, siglip, given, where)
    vq_config = ImageTokenizerConfig(num_codes=1, block_channels=(1,), layers_per_block=1, latent_channels=1, norm_groups=1)
    found = dict(vq)
    if kind == "lavida-o":
        vq_folder = vq_folder_of(hints.vq, "--vq") if hints.vq else folder / "vqvae"
        flat = folder / "vqvae_config.json"
        file = flat if flat.is_file() and not hints.vq else vq_folder / "config.json"
        if not file.is_file():
            raise CheckpointError(
                "there is no vqvae/config.json, which says how the image tokenizer is built",
                where=str(folder),
                fix="download the vqvae folder too, or give --vq FOLDER",
            )
        vq_config = config_json.image_tokenizer_config(file)
    try:
        sized = config_json.lavida_o_config(config, name, vision, vq_config)
    except ValueError as error:
        raise CheckpointError(str(error), where=where, fix="use the published file") from None
    if kind == "lavida-o":
        found = scan(vq_folder, VQ_BASE) if hints.vq or not found else found
        match_image_tokenizer(found, sized, vq_folder)
    return sized, found


def siglip_names(published: Mapping[str, Stored]) -> dict[str, Stored]:
    """SigLIP's tensors of a published checkpoint, by our names but for the prefix that `transformers` may add."""
    prefix = "model.vision_tower.vision_tower.vision_model."
    return {f"vision.siglip.{name.removeprefix(prefix)}": each for name, each in published.items() if name.startswith(prefix)}


def model_shapes(config: ModelConfig) -> Shapes:
    """Our names and shapes of a whole model, without its image tokenizer."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in UnifiedModel(config).state_dict().items()}


def kind_holds(kind: Kind, name: str) -> bool:
    """Whether a checkpoint of that kind holds the parameter of ours."""
    return kind == "lavida-o" or (lavida.holds(name) if kind == "lavida" else llada.holds(name))


def kind_of_names(names: Collection[str]) -> Kind:
    """What a set of our own names is."""
    if any(name.startswith("code_embedding.") for name in names):
        return "lavida-o"
    return "lavida" if any(name.startswith("vision.") for name in names) else "llada"


def _agreed_kind(config: Mapping[str, Any], stored: Mapping[str, Stored], where: str) -> Kind:
    """What both the file and the names say.

    Raises:
        CheckpointError: the model is no relative, or the two disagree.
    """
    said = config_json.kind_of_config(config)
    if said is None or "model.transformer.wte.weight" not in stored:
        raise CheckpointError(
            f"model_type is {config.get('model_type')!r} and the first tensor {next(iter(stored), None)}: "
            "no LaViDa-O, LaViDa or LLaDA checkpoint",
            where=where,
            fix="give one of these; other models have other shapes",
        )
    named: Kind = "llada"
    if any(name.endswith("_vision.weight") or name.startswith("model.gen_") for name in stored):
        named = "lavida-o"
    elif any(name.startswith(("model.mm_projector", "model.vision_tower")) for name in stored):
        named = "lavida"
    if named != said:
        raise CheckpointError(
            f"is of {NAMES[said]}, the tensors' names are of {NAMES[named]}",
            where=where,
            fix=f"download config and shards from one place, or say which is right with --kind {said} or --kind {named}",
        )
    return said


def sealed_here(folder: Path) -> bool:
    """Whether a folder was made by us."""
    return (folder / sealed.MANIFEST).is_file()
