"""Movement: how fast weights have moved away from zero."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype
from neuroprune.core.units import sum_per_unit


def movement(
    weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """What one step adds to the movement score of every weight.

        S <- S + m,   m = - w * dL/dw'

    w is the weight as it is trained and w' = w * mask what the forward pass used. So a masked
    weight is scored, too, as if the mask were not there (straight-through). Gradient descent
    changes w by a multiple of -dL/dw, so m > 0 where it moves w away from zero.

    Args:
        weight: w, any shape.
        gradient: dL/dw', of its shape.

    Returns:
        m, in at least float32.

    Reference: Sanh, Wolf and Rush (2020), arXiv 2005.07683, section 4.
    """
    dtype = accumulation_dtype(weight.dtype)
    return weight.detach().to(dtype).mul(gradient.detach().to(dtype)).neg_()


def movement_per_unit(
    rows: Sequence[tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]],
    columns: Sequence[tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]],
    units: int,
) -> Float[Tensor, " units"]:
    """What one step adds to the movement score of every unit: - sum over its weights of w * dL/dw'.

    It is the gradient of the loss with respect to a gate on all weights of the unit, times -1.

    Args:
        rows: (weight, gradient) of matrices whose rows belong to the units, each (units * a, m).
        columns: likewise of matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Additions to the scores in at least float32, shape (units,).

    Reference: Lagunas et al. (2021), arXiv 2109.04838 (one score a block).
    """
    return sum_per_unit([movement(*pair) for pair in rows], [movement(*p) for p in columns], units)
