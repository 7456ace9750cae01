"""How a picture to read becomes square tiles, and where their features stand in the text (model.md 1.5). Geometry only: no torch.

A picture that is read alone is scaled into the canvas that keeps most of it, and cut into tiles behind a thumbnail of the whole; pictures that
are read together are padded to one tile each. The model pools each tile to `pooled` x `pooled` features. Those of the cut tiles are laid out as
one grid again, the rows or columns that see nothing but the canvas are left out, and each row of the grid ends with a newline feature.

Shapes: N tiles of S x S pixels, F features with newlines.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unmask.data.images import padded

PINPOINTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""The published canvases, width and height in tiles; the order decides between equals."""

NEWLINE = -1
"""Stands for the newline feature in `Layout.indices`."""

GREY = (127, 127, 127)


@dataclass(frozen=True, kw_only=True)
class TilingConfig:
    """The tiles that a vision tower reads.

    Attributes:
        tile: side of a tile in pixels (S).
        pooled: features along one side of a tile.
        pinpoints: the canvases, width and height in tiles; without any, every picture is padded to one tile.
    """

    tile: int
    pooled: int
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS

    @property
    def shortest_side(self) -> int:
        """The shortest side in pixels that any picture may need before it is cut: what a decoder must keep."""
        return self.tile * max((min(canvas) for canvas in self.pinpoints), default=1)


PUBLISHED = TilingConfig(tile=384, pooled=13)
"""SigLIP so400m at 384 px: 27 x 27 patches, pooled 2 x 2."""


@dataclass(frozen=True)
class Layout:
    """The features of one picture.

    Attributes:
        canvas: width and height in tiles; None for a picture padded to a single tile.
        pooled: features along one side of a tile.
        rows, columns: of the grid that is kept.
        top, left: rows and columns that are left out before it.
    """

    canvas: tuple[int, int] | None
    pooled: int
    rows: int
    columns: int
    top: int
    left: int

    @property
    def num_tiles(self) -> int:
        """Tiles that the vision tower reads, the thumbnail among them."""
        return 1 if self.canvas is None else 1 + self.canvas[0] * self.canvas[1]

    @property
    def num_tokens(self) -> int:
        """Tokens of the picture: the thumbnail's features, then each row of the grid with its newline."""
        whole = self.pooled**2
        return whole + 1 if self.canvas is None else whole + self.rows * (self.columns + 1)

    def indices(self) -> np.ndarray:
        """int64 [num_tokens]: which feature of the picture's tiles, flat over [N, pooled * pooled], stands at each token; or `NEWLINE`."""
        side = self.pooled
        whole = np.arange(side * side)
        if self.canvas is None:
            return np.append(whole, NEWLINE)
        across, down = self.canvas
        tiles = np.arange(side * side, (1 + across * down) * side * side).reshape(down, across, side, side)
        grid = tiles.transpose(0, 2, 1, 3).reshape(down * side, across * side)
        kept = grid[self.top : self.top + self.rows, self.left : self.left + self.columns]
        lines = np.concatenate([kept, np.full((self.rows, 1), NEWLINE)], axis=1)
        return np.concatenate([whole, lines.ravel()])

    def describe(self) -> str:
        """Tiles, grid and tokens."""
        tiles = "one padded tile" if self.canvas is None else f"{self.canvas[1]} x {self.canvas[0]} tiles and a thumbnail"
        return f"{tiles}, grid {self.rows} x {self.columns}, {self.num_tokens} tokens"


def single(config: TilingConfig) -> Layout:
    """The layout of a picture that is padded to one tile."""
    return Layout(None, config.pooled, config.pooled, config.pooled, 0, 0)


def anyres(size: tuple[int, int], config: TilingConfig) -> Layout:
    """The layout of a picture of `size` (width, height) that is read alone."""
    if not config.pinpoints:
        return single(config)
    width, height = size
    across, down = best_canvas(size, config)
    columns, rows = across * config.pooled, down * config.pooled
    if width / height > across / down:
        cut = (rows - int(height * (columns / width))) // 2
        return Layout((across, down), config.pooled, rows - 2 * cut, columns, cut, 0)
    cut = (columns - int(width * (rows / height))) // 2
    return Layout((across, down), config.pooled, rows, columns - 2 * cut, 0, cut)


def best_canvas(size: tuple[int, int], config: TilingConfig) -> tuple[int, int]:
    """The canvas, in tiles, that keeps most pixels of a picture; of equals the one that wastes least, then the first."""
    width, height = size

    def worth(canvas: tuple[int, int]) -> tuple[int, int]:
        across, down = canvas[0] * config.tile, canvas[1] * config.tile
        scale = min(across / width, down / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - across * down

    return max(config.pinpoints, key=worth)  # the first of equals


def cut_tiles(
    image: Image.Image, size: tuple[int, int], layout: Layout, config: TilingConfig, reducing_gap: float | None = None
) -> np.ndarray:
    """uint8 pixels [N, S, S, 3] of a picture's tiles, the thumbnail first, the others row by row.

    Args:
        image: mode RGB; of `size`, or a draft of it.
        size: width and height before any draft, which decide the geometry.
        layout: `anyres(size, config)` or `single(config)`.
        config: the tiles.
        reducing_gap: how many times larger than needed the picture may stay when it is first shrunk by a whole number; None: it is not.
    """
    side, bicubic = config.tile, Image.Resampling.BICUBIC
    thumbnail = np.asarray(padded(image, GREY).resize((side, side), bicubic, reducing_gap=reducing_gap))
    if layout.canvas is None:
        return thumbnail[None]
    across, down = layout.canvas
    room, (width, height) = (across * side, down * side), size
    by_width, by_height = room[0] / width, room[1] / height
    if by_width < by_height:
        inner = (room[0], min(math.ceil(height * by_width), room[1]))
    else:
        inner = (min(math.ceil(width * by_height), room[0]), room[1])
    canvas = Image.new("RGB", room)
    scaled = image.resize(inner, bicubic, reducing_gap=reducing_gap)
    canvas.paste(scaled, ((room[0] - inner[0]) // 2, (room[1] - inner[1]) // 2))
    cut = np.asarray(canvas).reshape(down, side, across, side, 3).swapaxes(1, 2)
    return np.concatenate([thumbnail[None], cut.reshape(-1, side, side, 3)])
