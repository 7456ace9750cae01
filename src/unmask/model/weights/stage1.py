"""The starting point of stage 1: a whole model from a text tower, a vision encoder and an image tokenizer (model.md 1.7).

- The gen tower is the text tower, truncated: the first rows and columns of each matrix.
- Coordinate and box tokens: all 1029 rows of the embedding, and of the head, are drawn alike, whether the source's table had (untrained) rows
  there or not: per channel with mean and deviation of the rows that were trained.
- Codes: `linear_2` of either end is the identity, the squeezing kernel is the mean of its 2x2 square, the stretching one a copy to all four, so
  that 256 px pictures, which skip both, teach what larger ones need. The last norm of the code embedding has the size of word embeddings,
  because the truncated blocks add what fits a residual stream of that size. Table and other matrices are drawn.
- Pool: the exact 2x2 mean, if the source has none. Projector: drawn, if the source has none.

What is drawn depends on the seed and the tensor's name only.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unmask.errors import CheckpointError
from unmask.model.config import ModelConfig
from unmask.model.weights.pieces import Piece
from unmask.model.weights.shards import Stored
from unmask.model.weights.source import Shapes, model_shapes
from unmask.randomness import key_digest

CHUNK = 4096
"""Rows of a table that are looked at together: a copy of all of them in double precision would not fit beside a shard."""
TABLES = ("text_embedding.weight", "text_head.weight")
TRUNCATED = "gen tower: the text tower's, truncated"
ROWS = "coordinate and box tokens: drawn with mean and deviation of the trained rows, all alike"


def pieces(config: ModelConfig, held: Mapping[str, Stored], trained_rows: int, seed: int, where: str) -> list[Piece]:
    """Every tensor of the whole model.

    Args:
        config: its sizes.
        held: our name -> tensor, of what there is.
        trained_rows: ids of the tokenizer before the coordinate tokens came; the table's rows from there on are replaced.
        seed: of what is drawn.
        where: the source, for errors.

    Raises:
        CheckpointError: a text tower or vision encoder is incomplete, or smaller than the gen tower that is to be cut from it.
    """
    shapes = model_shapes(config)
    return [_piece(name, shapes, held, (trained_rows, seed), where) for name in shapes]


def _piece(name: str, shapes: Shapes, held: Mapping[str, Stored], numbers: tuple[int, int], where: str) -> Piece:
    shape, stored = shapes[name], held.get(name)
    trained_rows, seed = numbers
    if name in TABLES:
        table = _need(name, shape, held, where)
        if table.shape[1:] != shape[1:] or table.shape[0] < trained_rows:
            raise _unfit(name, table.shape, f"[{trained_rows} or more, {shape[1]}]", where)
        if trained_rows == shape[0] == table.shape[0]:
            return Piece(name, shape, table)
        how = ROWS if trained_rows < shape[0] else "rows beyond the tokenizer's ids: cut off"
        return Piece(name, shape, table, _resize(name, shape[0], trained_rows, seed), how, resized=True)
    if stored is not None:
        if stored.shape != shape:
            raise _unfit(name, stored.shape, str(list(shape)), where)
        return Piece(name, shape, stored)
    if ".gen." in name:
        text = _need(name.replace(".gen.", ".text."), shape, held, where)
        if len(text.shape) != len(shape) or any(small > large for small, large in zip(shape, text.shape, strict=True)):
            raise _unfit(name, text.shape, f"at least {list(shape)}", where)
        return Piece(name, shape, text, lambda whole: whole[tuple(slice(side) for side in shape)], TRUNCATED)
    if name == "code_embedding.norm_2.weight":
        words = _need(TABLES[0], shape, held, where)
        how = "gen input and output: norm with the size of word embeddings"
        return Piece(name, shape, words, lambda table: _size(table[:trained_rows], shape), how)
    if name in _MADE:
        return made(name, shape)
    if name.startswith(("code_embedding.", "code_head.", "vision.projector.", "vision.newline")):
        part = "vision" if name.startswith("vision.") else "gen input and output"
        if len(shape) == 1 and not name.startswith("vision."):
            return Piece(name, shape, None, lambda _: torch.ones(shape), f"{part}: norms 1")
        if name.endswith(".bias"):
            return Piece(name, shape, None, lambda _: torch.zeros(shape), f"{part}: biases 0")
        return Piece(name, shape, None, lambda _: _draw(name, shape, seed), f"{part}: drawn, variance 1/inputs (tables: 1)")
    return Piece(name, shape, _need(name, shape, held, where))


def made(name: str, shape: tuple[int, ...]) -> Piece:
    """A tensor that is made by a rule alone: an identity, an average, copies."""
    how, make = _MADE[name]
    return Piece(name, shape, None, lambda _: make(shape), how)


def _need(name: str, shape: tuple[int, ...], held: Mapping[str, Stored], where: str) -> Stored:
    if name in held:
        return held[name]
    fix = "give --vision FOLDER with a SigLIP encoder" if name.startswith("vision.") else "download the folder again"
    raise CheckpointError(f"there is nothing to take {name} {list(shape)} from", where=where, fix=fix)


def _unfit(name: str, found: tuple[int, ...], wanted: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"{name} would be made from {list(found)}, and the model needs {wanted}",
        where=where,
        fix="choose the model of these sizes with --model NAME or FILE",
    )


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(key_digest(seed, "stage1", name) % (1 << 63))


def _resize(name: str, rows: int, trained: int, seed: int) -> Callable[[Tensor], Tensor]:
    def make(table: Tensor) -> Tensor:
        kept = table[:trained]
        mean = sum((rows.double().sum(0) for rows in kept.split(CHUNK)), torch.zeros(())) / trained
        variance = sum(((rows.double() - mean).square().sum(0) for rows in kept.split(CHUNK)), torch.zeros(())) / trained
        new = torch.randn(rows - trained, table.shape[1], generator=_generator(name, seed)) * variance.sqrt() + mean
        return torch.cat([kept, new.to(table.dtype)])

    return make


def _size(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The root mean square of word embeddings, as a norm's weight."""
    total = sum(float(rows.float().square().sum()) for rows in table.split(CHUNK))
    return torch.full(shape, (total / table.numel()) ** 0.5)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    out = torch.empty(shape)
    if ".table." in name:
        return out.normal_(generator=_generator(name, seed))
    std = (shape[0] if len(shape) == 1 else out[0].numel()) ** -0.5
    return torch.nn.init.trunc_normal_(out, 0.0, std, -3 * std, 3 * std, generator=_generator(name, seed))


def _identity(shape: tuple[int, ...]) -> Tensor:
    return torch.eye(*shape)


def _average(shape: tuple[int, ...]) -> Tensor:
    return torch.eye(*shape[:2])[:, :, None, None].expand(shape) / 4


def _copies(shape: tuple[int, ...]) -> Tensor:
    return torch.eye(*shape[:2])[:, :, None, None].expand(shape)


_MADE: dict[str, tuple[str, Callable[[tuple[int, ...]], Tensor]]] = {
    "code_embedding.linear_2.weight": ("gen input and output: identity", _identity),
    "code_head.linear_2.weight": ("gen input and output: identity", _identity),
    "code_embedding.compressor.weight": ("gen input and output: mean of 2x2", _average),
    "code_head.expander.weight": ("gen input and output: copy to 2x2", _copies),
    "vision.pool.weight": ("vision: pool as the exact mean of 2x2", _average),
    "vision.pool.bias": ("vision: pool as the exact mean of 2x2", torch.zeros),
}
