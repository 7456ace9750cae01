"""Text decoding with keys and values that are kept between passes: the text tower over some rows of a batch, seeing kept rows of the others.

Only the text tower: samples that are decoded as text hold words and features of pictures, and no gen tokens.

Shapes: R rows of all samples one after another, T rows that are run, K rows that are seen, D text width, H heads, S samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
        seen_K: rows that are seen, sample by sample.
        keys: segments over the rows that are seen: sample s of `queries` sees sample s of `keys`.
    """

    row_T: Tensor
    position_T: Tensor
    queries: Segments
    seen_K: Tensor
    keys: Segments

    @classmethod
    def build(cls, run: Sequence[tuple[int, int, int]], seen: Sequence[tuple[int, int]]) -> "TextRows":
        """From each sample's rows that are run (first, end, position of the first) and its rows that they see (first, end)."""
        return cls(
            torch.cat([torch.arange(first, end) for first, end, _ in run]),
            torch.cat([torch.arange(at, at + end - first) for first, end, at in run]),
            _segments([end - first for first, end, _ in run]),
            torch.cat([torch.arange(first, end) for first, end in seen]),
            _segments([end - first for first, end in seen]),
        )

    def to(self, device: torch.device) -> "TextRows":
        """The same on another device."""
        rows = (self.row_T.to(device), self.position_T.to(device), self.queries.to(device))
        return TextRows(*rows, self.seen_K.to(device), self.keys.to(device))


def _segments(lengths: Sequence[int]) -> Segments:
    return Segments.of(np.repeat(np.arange(len(lengths)), lengths), len(lengths))


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
            rows_of = tower.project(h_TD, None, config.head_width, rotary)  # type: ignore[union-attr, operator]
            keys.index_copy_(0, rows.row_T, rows_of.k)
            values.index_copy_(0, rows.row_T, rows_of.v)
            a = attend(rows_of.q, keys[rows.seen_K], values[rows.seen_K], rows.queries, rows.keys)
            h_TD = tower.mlp(h_TD + F.linear(a, out.weight))  # type: ignore[union-attr, operator, arg-type]
        normed_out: Tensor = self.transformer.ln_f(h_TD)
        return normed_out
