"""Text decoding with keys and values that are kept between passes: the text tower over some rows of a batch, seeing kept rows of the others.

Only the text tower: samples that are decoded as text hold words and features of pictures, and no gen tokens.

Shapes: R rows of all samples one after another, T rows that are run, D text width, H heads, K head width, S samples, L rows of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.model.attention import Segments, attend, rotary_table
from unmask.model.transformer import Transformer


@dataclass(frozen=True)
class TextRows:
    """Which rows are run, and which they see.

    Attributes:
        row_T: rows that are run, sample by sample.
        position_T: the absolute index of each in its sample.
        queries: segments over the rows that are run.
        keys: segments over all R rows: sample s of `queries` sees sample s of `keys`.
    """

    row_T: Tensor
    position_T: Tensor
    queries: Segments
    keys: Segments

    @classmethod
    def build(cls, run: Sequence[tuple[int, int, int]], seen: Sequence[tuple[int, int]]) -> "TextRows":
        """From each sample's rows that are run (first, end, position of the first) and its rows that they see (first, end)."""
        lengths = [end - first for first, end, _ in run]
        starts = [sum(lengths[:number]) for number in range(len(lengths))]
        return cls(
            torch.cat([torch.arange(first, end) for first, end, _ in run]),
            torch.cat([torch.arange(at, at + end - first) for first, end, at in run]),
            Segments.build([torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]),
            _keys(seen),
        )

    def to(self, device: torch.device) -> "TextRows":
        """The same on another device."""
        return TextRows(self.row_T.to(device), self.position_T.to(device), self.queries.to(device), self.keys.to(device))


def _keys(seen: Sequence[tuple[int, int]]) -> Segments:
    longest = max(end - first for first, end in seen)
    index = torch.zeros(len(seen), longest, dtype=torch.long)
    kept = torch.zeros(len(seen), longest, dtype=torch.bool)
    for number, (first, end) in enumerate(seen):
        index[number, : end - first] = torch.arange(first, end)
        kept[number, : end - first] = True
    return Segments(index, torch.empty(0, dtype=torch.long), None if bool(kept.all()) else kept)


class TextCache:
    """Keys (rotated) and values of every layer, for all rows; what was never run is zero, and must not be seen.

    Args:
        transformer: whose layers.
        num_rows: R.
    """

    def __init__(self, transformer: Transformer, num_rows: int) -> None:
        config, weight = transformer.config, transformer.ln_f.weight
        shape = (num_rows, config.num_heads, config.head_width)
        self.transformer = transformer
        self.keys = [weight.new_zeros(shape) for _ in range(config.num_layers)]
        self.values = [weight.new_zeros(shape) for _ in range(config.num_layers)]

    @torch.no_grad()
    def run(self, h_TD: Tensor, rows: TextRows) -> Tensor:
        """Final hidden states [T, D] after the norm; the keys and values of these rows are kept in place of older ones.

        Args:
            h_TD: embeddings of the rows that are run.
            rows: where they stand and what they see.
        """
        config = self.transformer.config
        rotary = rotary_table(rows.position_T, config.head_width, config.rope_theta)
        for block, keys, values in zip(self.transformer.blocks, self.keys, self.values, strict=True):
            tower, out = block.text, block.attn_out
            normed = tower.attn_norm(h_TD)  # type: ignore[union-attr, operator]
            k, v = tower.keys_values(normed, config.head_width, rotary)  # type: ignore[union-attr, operator]
            keys.index_copy_(0, rows.row_T, k)
            values.index_copy_(0, rows.row_T, v)
            q = tower.queries(normed, config.head_width, rotary)  # type: ignore[union-attr, operator]
            a = attend(q, keys, values, rows.queries, rows.keys)
            h_TD = tower.mlp(h_TD + F.linear(a, out.weight))  # type: ignore[union-attr, operator, arg-type]
        normed_out: Tensor = self.transformer.ln_f(h_TD)
        return normed_out
