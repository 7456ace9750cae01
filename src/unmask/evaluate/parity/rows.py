"""Padded rows of the published system <-> our packed streams, and the pictures that stand in them.

The published system runs rows of one length, whose padding takes part in attention (model.md Q8); here each row is one packed sample, padding
included. Gen tokens are held at their own width E; the published rows hold them padded with zeros to D.

Shapes: B rows of L positions, D text width, E gen width, N tiles of S x S pixels, F features, H heads, K head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from unmask.data.tiles import NEWLINE, Layout, anyres, cut_tiles, single
from unmask.evaluate.parity.folder import IGNORED_ID, IMAGE, System
from unmask.evaluate.parity.report import Ambiguous, Cannot, Case
from unmask.model.transformer import Packing, Streams, Transformer
from unmask.model.unified import Sight, UnifiedModel

PIXELS = {"batch.images", "images", "image", "pixel_values"}
"""What a case calls the tiles of its pictures, before their number."""


@dataclass(frozen=True)
class Picture:
    """A picture to read: normalised tiles as the published system holds them, and where its features stand."""

    tiles_N3SS: Tensor
    layout: Layout


def cut(image: Image.Image, system: System, *, alone: bool = True) -> Picture:
    """A picture that is read alone, or one of several, each of which is padded to one tile."""
    assert system.tiling is not None
    layout = anyres(image.size, system.tiling) if alone else single(system.tiling)
    tiles = torch.from_numpy(cut_tiles(image, image.size, layout, system.tiling)).permute(0, 3, 1, 2)
    return Picture((tiles / 255 - 0.5) / 0.5, layout)


def find_images(case: Case, system: System, count: int) -> list[Image.Image]:
    """The pictures of a case whose file holds no pixels: those that its settings name, or those of the folder that fit.

    Raises:
        Ambiguous: one is wanted, and several may be it.
        Cannot: there are none, or not as many.
    """
    if case.chosen_picture is not None and count == 1:
        return [Image.fromarray(system.pictures[case.chosen_picture]).convert("RGB")]
    named = [name for key, value in case.settings.items() if "image" in key for name in _names(value) if name in system.pictures]
    found = named or list(system.pictures)
    sizes = case.settings.get("image_size_wh")
    if len(found) > count and sizes:
        found = [name for name in found if list(system.pictures[name].shape[1::-1]) == list(sizes)]
    if len(found) > 1 and count == 1:
        raise Ambiguous(
            f"it reads a picture, and {len(found)} .npy pictures of the folder may be it: {', '.join(found)}", tuple(found)
        )
    if len(found) != count:
        wanted = "a picture" if count == 1 else f"{count} pictures"
        raise Cannot(f"it reads {wanted}, and {len(found)} .npy pictures of the folder may be it: {', '.join(found) or 'none'}")
    return [Image.fromarray(system.pictures[name]).convert("RGB") for name in found]


def _names(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def pictures_of(case: Case, system: System, ids_BL: Tensor) -> list[list[Picture]]:
    """The pictures to read of each row, one for each -200 of its ids.

    Raises:
        Cannot: they are not to be found, or not as many.
    """
    counts = (ids_BL == IMAGE).sum(1).tolist()
    if not any(counts):
        return [[] for _ in counts]
    if system.tiling is None:
        raise Cannot("it reads a picture, and the model has no vision encoder")
    names = [name for name in case.tensors if name.rpartition(".")[0] in PIXELS and name.rpartition(".")[2].isdigit()]
    names.sort(key=lambda name: int(name.rpartition(".")[2]))
    sizes: list[Any] = next((case.settings[key] for key in ("image_sizes", "image_sizes_wh") if case.settings.get(key)), [])
    if not names:
        if "pixel_values" in case and len(case.tensors["pixel_values"]) == sum(counts) > 1:
            tiles = iter(case.input("pixel_values"))
            return [[Picture(next(tiles)[None], single(system.tiling)) for _ in range(count)] for count in counts]
        if "pixel_values" in case:
            if sum(counts) != 1:
                raise Cannot(f"its file holds no pixels of the {sum(counts)} pictures that it reads")
            size = case.settings.get("image_size_wh") or next(iter(sizes), None)
            try:
                (image,) = find_images(case, system, 1)
                case.close("pixel_values", cut(image, system).tiles_N3SS)
                size = size or image.size
            except Cannot:
                pass  # the picture itself is not here: its tiles are an input
            pixels = case.input("pixel_values")
            only = Picture(pixels, _layout(len(pixels), size, system))
            return [[only] * count for count in counts]
        found = iter(find_images(case, system, sum(counts)))
        return [[cut(next(found), system, alone=count == 1) for _ in range(count)] for count in counts]
    dummies = len(names) != sum(counts)
    if len(names) != sum(max(count, 1) if dummies else count for count in counts):
        raise Cannot(f"its rows read {counts} pictures, its file holds {len(names)}")
    rows: list[list[Picture]] = []
    place = 0
    for count in counts:
        rows.append([])
        for _ in range(count):
            tiles = case.input(names[place])
            size = sizes[place] if place < len(sizes) else None
            rows[-1].append(Picture(tiles, _layout(len(tiles), size, system)))
            place += 1
        place += dummies and not count
    return rows


def _layout(num_tiles: int, size: Any, system: System) -> Layout:
    assert system.tiling is not None
    if num_tiles == 1:
        return single(system.tiling)
    if size is None:
        raise Cannot("its settings do not say how large the pictures are (image_sizes, image_size_wh)")
    layout = anyres((int(size[0]), int(size[1])), system.tiling)
    if layout.num_tiles != num_tiles:
        raise Cannot(f"a picture of {size[0]}x{size[1]} px is {layout.num_tiles} tiles, its file holds {num_tiles}")
    return layout


@dataclass(frozen=True)
class Merged:
    """Rows whose pictures to read stand at their features.

    Attributes:
        ids_BL: -200 at features, `fill` behind the end of a row.
        source_BL: which position of the unmerged row each came from; -1 behind the end.
        features: where the features of all pictures stand; None if there are none.
    """

    ids_BL: Tensor
    source_BL: Tensor
    sight: Sight | None
    tiles_N3SS: Tensor | None


def merge(ids_BL: Tensor, pictures: Sequence[Sequence[Picture]], fill: int = IGNORED_ID) -> Merged:
    """Put each picture's features where its -200 stands (model.md 3.6)."""
    sources = []
    for ids_L, read in zip(ids_BL, pictures, strict=True):
        repeats = torch.ones_like(ids_L)
        repeats[ids_L == IMAGE] = torch.tensor([picture.layout.num_tokens for picture in read], dtype=torch.long)
        sources.append(torch.repeat_interleave(torch.arange(len(ids_L)), repeats))
    source_BL = nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=-1)
    ids = torch.where(source_BL < 0, fill, ids_BL.gather(1, source_BL.clamp(min=0)))
    everything = [picture for read in pictures for picture in read]
    if not everything:
        return Merged(ids, source_BL, None, None)
    tiles = torch.cat([picture.tiles_N3SS for picture in everything])
    per_tile, before, indices = everything[0].layout.pooled ** 2, 0, []
    for picture in everything:
        index = torch.from_numpy(picture.layout.indices())
        indices.append(torch.where(index == NEWLINE, len(tiles) * per_tile, index + before * per_tile))
        before += len(picture.tiles_N3SS)
    levels = ((tiles.permute(0, 2, 3, 1) * 0.5 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    return Merged(ids, source_BL, Sight(levels, torch.cat(indices), (ids.flatten() == IMAGE).nonzero()[:, 0]), tiles)


def embed(system: System, merged: Merged, masked_BL: Tensor | None = None) -> Tensor:
    """Text embeddings [B, L, D]: words, features, the mask where `masked_BL` says so, zeros behind the end of a row."""
    model, ids_BL = system.model, merged.ids_BL
    words_TD = model.text_embedding(ids_BL.clamp(min=0).flatten())
    if merged.sight is not None:
        words_TD = _place(model, words_TD, merged)
    words_BLD: Tensor = words_TD.view(*ids_BL.shape, -1)
    words_BLD = words_BLD.masked_fill((ids_BL == IGNORED_ID)[..., None], 0.0)
    if masked_BL is None:
        return words_BLD
    return torch.where(masked_BL[..., None], model.text_embedding.weight[system.ids.mask], words_BLD)


def _place(model: UnifiedModel, words_TD: Tensor, merged: Merged) -> Tensor:
    """As the model does it from 8-bit pixels; from the case's own pixels where those are something else."""
    assert merged.sight is not None and merged.tiles_N3SS is not None
    back = merged.sight.pixels_NSS3.permute(0, 3, 1, 2) / 127.5 - 1
    if torch.allclose(back, merged.tiles_N3SS, atol=1e-6):
        return model.vision.place(words_TD, merged.sight)
    features = torch.cat([model.vision(merged.tiles_N3SS).flatten(0, 1), model.vision.newline[None]])
    return words_TD.index_copy(0, merged.sight.row_F, features[merged.sight.feature_F])


@dataclass
class Trace:
    """What went through the blocks, as padded rows.

    Attributes:
        hidden: [B, L, D] before each block and, last, after the final norm.
        keys, values: [B, H, L, K] of each block's text tower, keys before rotary positions; only where all positions are text.
        gen_GE: final gen states.
    """

    hidden: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    gen_GE: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def last(self) -> Tensor:
        """After the final norm."""
        return self.hidden[-1]


def run_rows(
    system: System, text_BLD: Tensor, is_gen_BL: Tensor, gen_BLE: Tensor | None = None, *, text_in_split_layers: bool = True
) -> Trace:
    """Both towers over padded rows.

    Args:
        system: the model.
        text_BLD: embeddings; those of gen positions are not read.
        is_gen_BL: which positions belong to the gen tower.
        gen_BLE: embeddings of the gen tower, read at its positions; None: the first E channels of `text_BLD`.
        text_in_split_layers: False renders the published `IGNORE_TEXT_LOSS`, whose text states are doubled by every split layer.
    """
    width = system.config.gen_width
    gen_BLE = text_BLD[..., :width] if gen_BLE is None else gen_BLE
    start = Streams(text_BLD[~is_gen_BL], gen_BLE[is_gen_BL])
    trace, transformer = Trace(), system.model.transformer
    with _watched(transformer, trace, is_gen_BL, system, text_in_split_layers):
        out = transformer(start, Packing.build(list(is_gen_BL)), text_wanted=True)
    first = padded(start, is_gen_BL)
    trace.hidden.insert(0, first)
    trace.hidden[-1] = padded(out, is_gen_BL)
    trace.gen_GE = out.gen
    return trace


def padded(streams: Streams, is_gen_BL: Tensor) -> Tensor:
    """Rows [B, L, D] of two streams, gen states padded with zeros."""
    width = streams.text.shape[-1]
    rows = streams.text.new_zeros(*is_gen_BL.shape, width)
    rows[~is_gen_BL] = streams.text
    rows[is_gen_BL] = nn.functional.pad(streams.gen, (0, width - streams.gen.shape[-1]))
    return rows


@contextmanager
def _watched(transformer: Transformer, trace: Trace, is_gen_BL: Tensor, system: System, text_in_split: bool) -> Iterator[None]:
    """Hooks that note hidden states, keys and values, and render a text tower that stops working."""
    config, (rows, length) = system.config, is_gen_BL.shape
    handles = []

    def heads(x_TI: Tensor) -> Tensor:
        return x_TI.view(rows, length, config.num_heads, config.head_width).transpose(1, 2)

    for number, block in enumerate(transformer.blocks):
        split = number >= config.num_joint_layers

        def note(_: nn.Module, arguments: tuple[Any, ...], out: Streams, split: bool = split) -> Streams:
            if split and not text_in_split:
                out = Streams(2 * arguments[0].text, out.gen)
            trace.hidden.append(padded(out, is_gen_BL))
            return out

        handles.append(block.register_forward_hook(note))
        if not is_gen_BL.any():
            handles.append(block.text.k_proj.register_forward_hook(lambda _, __, out: trace.keys.append(heads(out))))  # type: ignore[union-attr]
            handles.append(block.text.v_proj.register_forward_hook(lambda _, __, out: trace.values.append(heads(out))))  # type: ignore[union-attr]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
