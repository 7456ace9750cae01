"""Attention over packed samples: which token sees which, rotary positions, and the engine that computes it.

Shapes: N tokens of all samples one after another, S samples, L tokens of the longest sample, H heads, K head width.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Runs of tokens that see each other and nobody else.

    Attributes:
        index_SL: for sample s and slot l the row of the token; slots past the sample's end repeat row 0 and are masked out.
        slot_N: for each row its place in the flattened [S * L] slots.
        keys_SL: which slots hold a token; None when all do (samples of equal length need no mask). A sample without tokens sees row 0, so
            that its slots, which nobody reads, hold numbers.
    """

    index_SL: Tensor
    slot_N: Tensor
    keys_SL: Tensor | None

    @classmethod
    def build(cls, rows: list[Tensor]) -> "Segments":
        """From one tensor of row numbers per sample; together they number 0...N-1 once each."""
        lengths = [len(sample) for sample in rows]
        longest = max(lengths, default=0)
        index = torch.zeros(len(rows), longest, dtype=torch.long)
        slot = torch.empty(sum(lengths), dtype=torch.long)
        for number, sample in enumerate(rows):
            index[number, : len(sample)] = sample
            slot[sample] = torch.arange(len(sample)) + number * longest
        keys = None
        if min(lengths, default=0) != longest:
            keys = torch.arange(longest)[None, :] < torch.tensor(lengths).clamp(min=1)[:, None]
        return cls(index, slot, keys)

    def to(self, device: torch.device) -> "Segments":
        """The same on another device."""
        return Segments(
            self.index_SL.to(device), self.slot_N.to(device), None if self.keys_SL is None else self.keys_SL.to(device)
        )

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is no token at all."""
        return self.slot_N.numel() == 0


def attend(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, queries: Segments, keys: Segments | None = None) -> Tensor:
    """Full bidirectional attention inside each segment, scale 1/sqrt(K).

    Args:
        q_NHK: queries of the rows that `queries` numbers.
        k_NHK, v_NHK: keys and values of the rows that `keys` numbers (default: the same as the queries).
        queries: segments of the queries.
        keys: segments of the keys; sample s of `queries` sees sample s of `keys`.

    Returns:
        [N, H*K], in the order of the query rows.
    """
    keys = queries if keys is None else keys
    q_SHLK = q_NHK[queries.index_SL].transpose(1, 2)
    k_SHLK = k_NHK[keys.index_SL].transpose(1, 2)
    v_SHLK = v_NHK[keys.index_SL].transpose(1, 2)
    mask = None if keys.keys_SL is None else keys.keys_SL[:, None, None, :]
    out_SHLK = F.scaled_dot_product_attention(q_SHLK, k_SHLK, v_SHLK, attn_mask=mask)
    return out_SHLK.transpose(1, 2).flatten(0, 1)[queries.slot_N].flatten(1)


def rotary_table(positions_N: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [N, 1, K] in fp32: inv_freq_i = theta ** (-2i / K), the two halves of a head rotate together (GPT-NeoX)."""
    inverse = theta ** (-torch.arange(0, head_width, 2, device=positions_N.device, dtype=torch.float32) / head_width)
    angle = positions_N.float()[:, None] * inverse[None, :]
    angle = torch.cat([angle, angle], dim=-1)[:, None, :]
    return angle.cos(), angle.sin()


def rotate(x_NHK: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions; the product is taken in fp32 and cast back."""
    cos, sin = table
    x = x_NHK.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x_NHK.dtype)
