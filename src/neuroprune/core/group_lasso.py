"""The group lasso on whole units, and its proximal map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype, check_non_negative
from neuroprune.core.units import scale_units_, unit_size


def norm_per_unit(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> Float[Tensor, " units"]:
    """Euclidean norm of all weights of every unit: |w_u|_2 = sqrt(sum w^2).

    Differentiable, with the gradient 0 at a unit of zeros.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Norms in at least float32, shape (units,).

    Raises:
        ValueError: there is no matrix.
    """
    parts = [_norm(matrix, 1, units) for matrix in rows]
    parts += [_norm(matrix, 0, units) for matrix in columns]
    if not parts:
        raise ValueError("a unit without matrices has no norm; give rows or columns.")
    norm: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norm


def group_lasso(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> Float[Tensor, ""]:
    """Group lasso: sum over units of sqrt(n_u) * |w_u|_2, n_u the number of weights of a unit.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Scalar, in at least float32.

    Reference: Yuan and Lin (2006), Journal of the Royal Statistical Society B 68(1).
    """
    root = math.sqrt(unit_size(rows, columns, units))
    return root * norm_per_unit(rows, columns, units).sum()


def group_lasso_prox_(
    rows: Sequence[Float[Tensor, "_ _"]],
    columns: Sequence[Float[Tensor, "_ _"]],
    units: int,
    t: float,
) -> None:
    """Proximal map of t * group lasso, in place: block soft thresholding.

        argmin_z 0.5 |z - w_u|^2 + t sqrt(n_u) |z|_2  =  max(0, 1 - t sqrt(n_u) / |w_u|_2) * w_u

    So the root mean square |w_u|_2 / sqrt(n_u) of every unit falls by t, and stops at zero.

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m); overwritten.
        columns: matrices whose columns belong to the units, each (d, units * b); overwritten.
        units: how many.
        t: step size times strength, >= 0.

    Raises:
        ValueError: t is negative or not finite.

    Reference: Parikh and Boyd (2014), Proximal Algorithms, section 6.5.
    """
    check_non_negative("t", t)
    if t == 0 or units == 0:
        return
    norm = norm_per_unit(rows, columns, units)
    threshold = min(t * math.sqrt(unit_size(rows, columns, units)), torch.finfo(norm.dtype).max)
    keep = 1.0 - threshold / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    scale_units_(rows, columns, keep.clamp_min(0.0))


def _norm(matrix: Tensor, dim: int, units: int) -> Tensor:
    dtype = accumulation_dtype(matrix.dtype)
    lines = torch.linalg.vector_norm(matrix, dim=dim, dtype=dtype)
    folded = lines.reshape(units, len(lines) // units if units else 0)
    norm: Tensor = torch.linalg.vector_norm(folded, dim=1)
    return norm
