"""Rectangles of a matrix that stay or go as one.

Tiles of a x b weights lie side by side from the first row and column; those of the last rows and
columns are smaller where a or b does not divide the shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from neuroprune.core.connectivity import accumulation_dtype

Tile = tuple[int, int]  # rows and columns of a tile


def sum_per_tile(matrix: Float[Tensor, "n m"], tile: Tile) -> Float[Tensor, "_ _"]:
    """Sum over the entries of every tile.

    Args:
        matrix: shape (n, m).
        tile: rows a and columns b of a tile, at least 1.

    Returns:
        Sums in at least float32, shape (ceil(n / a), ceil(m / b)).
    """
    (n, m), (a, b) = matrix.shape, tile
    x = matrix.to(accumulation_dtype(matrix.dtype))
    padded = functional.pad(x, (0, -m % b, 0, -n % a))
    return padded.view(padded.shape[0] // a, a, padded.shape[1] // b, b).sum(dim=(1, 3))


def tile_sizes(shape: Sequence[int], tile: Tile) -> Int[Tensor, "_ _"]:
    """Entries of every tile.

    Args:
        shape: (n, m) of the matrix.
        tile: rows a and columns b of a tile, at least 1.

    Returns:
        Shape (ceil(n / a), ceil(m / b)).
    """
    sides = []
    for length, side in zip(shape, tile, strict=True):
        starts = torch.arange(0, length, side)
        sides.append((length - starts).clamp(max=side))
    return torch.outer(*sides)


def over_tiles(marks: Bool[Tensor, "_ _"], shape: Sequence[int], tile: Tile) -> Bool[Tensor, "n m"]:
    """The mark of its tile for every entry of a matrix.

    Args:
        marks: one a tile.
        shape: (n, m) of the matrix.
        tile: rows and columns of a tile.
    """
    rows = torch.arange(shape[0], device=marks.device) // tile[0]
    columns = torch.arange(shape[1], device=marks.device) // tile[1]
    return marks[rows][:, columns]


def lowest_tiles(
    means: Sequence[Float[Tensor, "_ _"]], sizes: Sequence[Int[Tensor, "_ _"]], count: int
) -> tuple[Bool[Tensor, "_ _"], ...]:
    """Marks of the tiles of the lowest means that have `count` entries together.

    Whole tiles go, so that there may be more: by less than the last of them has. Ties: the earlier
    first.

    Args:
        means: a matrix of tiles each, no NaN, on any devices.
        sizes: entries of every tile.
        count: how many entries, clipped to what there is.

    Returns:
        For each matrix a mask of the shape of its means, true for the lowest.
    """
    if not means:
        return ()
    flat = torch.cat([values.flatten().double().cpu() for values in means])
    entries = torch.cat([values.flatten() for values in sizes])
    order = flat.argsort(stable=True)
    before = entries[order].cumsum(0) - entries[order]
    marks = torch.zeros(len(flat), dtype=torch.bool)
    marks[order[before < count]] = True
    parts = marks.split([values.numel() for values in means])
    return tuple(
        part.view(values.shape).to(values.device) for part, values in zip(parts, means, strict=True)
    )
