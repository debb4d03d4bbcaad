"""The weights of one unit: rows of the matrices it reads with, columns of those it writes with.

A neuron is one row of up (and gate) and one column of down; a head is head_dim rows of q, k, v and
columns of o. Query heads that share keys and values are one unit: then q and o have more rows and
columns a unit than k and v. The matrices of a call need not be all of a block's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype


def unit_size(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> int:
    """Weights of one unit: n_u.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        The number; 0 where there are no units.
    """
    total = sum(matrix.numel() for matrix in (*rows, *columns))
    return total // units if units else 0


def sum_per_unit(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> Float[Tensor, " units"]:
    """Sum over the weights of every unit.

        s_u = sum over rows of u of x + sum over columns of u of x

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Sums in at least float32, shape (units,).

    Raises:
        ValueError: there is no matrix.
    """
    parts = [_sum(matrix, 1, units) for matrix in rows]
    parts += [_sum(matrix, 0, units) for matrix in columns]
    if not parts:
        raise ValueError("a unit without matrices has no sum; give rows or columns.")
    return torch.stack(parts).sum(dim=0)


def mean_absolute_per_unit(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> Float[Tensor, " units"]:
    """Mean absolute weight of every unit: (1 / n_u) * sum |w|.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Scores in at least float32, shape (units,).
    """
    sizes = [m.detach().abs() for m in rows], [m.detach().abs() for m in columns]
    return sum_per_unit(*sizes, units) / max(unit_size(rows, columns, units), 1)


def scale_units_(
    rows: Sequence[Float[Tensor, "_ _"]],
    columns: Sequence[Float[Tensor, "_ _"]],
    factors: Float[Tensor, " units"] | Bool[Tensor, " units"],
) -> None:
    """Multiply all weights of every unit by the unit's factor, in place: w <- f_u * w.

    The product is taken in the wider of both types and then rounded to that of the weights.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m); overwritten.
        columns: matrices whose columns belong to the units, each (d, units * b); overwritten.
        factors: f, shape (units,); a mask keeps where it is true.
    """
    units = len(factors)
    for matrix in rows if units else ():
        matrix.mul_(factors.repeat_interleave(matrix.shape[0] // units).unsqueeze(1))
    for matrix in columns if units else ():
        matrix.mul_(factors.repeat_interleave(matrix.shape[1] // units))


def _sum(matrix: Tensor, dim: int, units: int) -> Tensor:
    total = matrix.sum(dim=dim, dtype=accumulation_dtype(matrix.dtype))
    return total.reshape(units, len(total) // units if units else 0).sum(dim=1)
