"""Codes to gen tokens and back: embedding, 2x2 compression, prediction head (model.md 1.3, 2.2).

With compression one token holds a 2x2 square of codes; without it one token is one code, and both convolutions with their norms are
bypassed (the published 256 px stage). The stride-2 kernels are 2x2, so each is one matrix product over a square, computed as such.

Shapes: B pictures, P x Q codes of one picture, E gen width, M targets.
"""

import torch
from torch import Tensor, nn

from unmask.model.config import ModelConfig
from unmask.model.transformer import RMSNorm

EPS = 1e-6


class Compressor(nn.Module):
    """RMSNorm, then Conv2d k2 s2 without bias; weight [out, in, 2, 2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, EPS)
        self.weight = nn.Parameter(torch.empty(width, width, 2, 2))

    def forward(self, x_BPQE: Tensor) -> Tensor:
        """[B, P, Q, E] -> [B, P/2, Q/2, E]."""
        squares = self.norm(x_BPQE).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        squares = squares.permute(0, 1, 3, 5, 2, 4).flatten(3)
        out: Tensor = squares @ self.weight.flatten(1).T
        return out


class Expander(nn.Module):
    """RMSNorm, then ConvTranspose2d k2 s2 without bias; weight [in, out, 2, 2]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, EPS)
        self.weight = nn.Parameter(torch.empty(width, width, 2, 2))

    def forward(self, x_BPQE: Tensor) -> Tensor:
        """[B, P/2, Q/2, E] -> [B, P, Q, E]."""
        out: Tensor = self.corners(x_BPQE.flatten(0, 2)).unflatten(0, (*x_BPQE.shape[:3], 2, 2))
        return out.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)

    def corners(self, x_GE: Tensor) -> Tensor:
        """[G, E] -> [G * 4, E]: the four corners of each token, in raster order."""
        out: Tensor = self.norm(x_GE) @ self.weight.permute(0, 2, 3, 1).flatten(1)
        return out.view(-1, x_GE.shape[-1])


class CodeEmbedding(nn.Module):
    """Codes -> gen tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.gen_width
        self.table = nn.Embedding(config.image_tokenizer.code_book.table_rows, width)
        self.norm = RMSNorm(width, EPS)
        self.linear = nn.Linear(width, width, bias=False)
        self.compressor = Compressor(width)
        self.norm_2 = RMSNorm(width, EPS)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def forward(self, codes_BPQ: Tensor, compress: bool) -> Tensor:
        """[B, P, Q] codes -> [B * tokens, E], pictures one after another, each in raster order."""
        x = self.linear(self.norm(self.table(codes_BPQ)))
        if compress:
            x = self.compressor(x)
        out: Tensor = self.linear_2(self.norm_2(x)).flatten(0, 2)
        return out


class CodeHead(nn.Module):
    """Gen tokens -> logits of the codes that are asked for, and of no other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.gen_width
        self.expander = Expander(width)
        self.norm_2 = RMSNorm(width, EPS)
        self.linear_2 = nn.Linear(width, width, bias=False)
        self.linear = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width, EPS)
        self.output = nn.Linear(width, config.image_tokenizer.num_codes, bias=False)

    def forward(self, h_GE: Tensor, grid: tuple[int, int], compress: bool, targets_M: Tensor) -> Tensor:
        """Logits [M, num_codes] of the codes numbered in `targets_M` (flat over [B, P, Q]).

        Args:
            h_GE: final gen states, pictures one after another.
            grid: codes of one picture (P, Q).
            compress: whether one token holds 2x2 codes.
            targets_M: which codes are asked for.
        """
        out: Tensor = self.output(self.states(h_GE, *places(targets_M, grid, compress), compress=compress))
        return out

    def states(self, h_GE: Tensor, token_M: Tensor, corner_M: Tensor, *, compress: bool) -> Tensor:
        """What the output layer reads, [M, E], of codes given by their token and its corner."""
        if compress:
            h_GE = self.expander.corners(h_GE)
            token_M = token_M * 4 + corner_M
        h = self.linear_2(self.norm_2(h_GE.index_select(0, token_M)))
        out: Tensor = self.norm(self.linear(h))
        return out


def places(codes_M: Tensor, grid: tuple[int, int], compress: bool) -> tuple[Tensor, Tensor]:
    """The token that holds each code, flat over pictures, and the corner of its 2x2 square: 0...3 in raster order, 0 without compression.

    Args:
        codes_M: codes, flat over [B, P, Q].
        grid: codes of one picture (P, Q).
        compress: whether one token holds 2x2 codes.
    """
    if not compress:
        return codes_M, torch.zeros_like(codes_M)
    row_M, column_M = codes_M // grid[1], codes_M % grid[1]
    return row_M // 2 * (grid[1] // 2) + column_M // 2, row_M % 2 * 2 + column_M % 2
