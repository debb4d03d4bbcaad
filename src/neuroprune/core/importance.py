"""Scores of units: how much a head or a neuron matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def mean_square_per_unit(
    fan_in: Sequence[Float[Tensor, "features _"]],
    fan_out: Float[Tensor, "d features"],
    width: int = 1,
) -> Float[Tensor, " units"]:
    """Mean squared weight of every unit, in and out.

        score_u = (1 / n_u) * [ sum over rows of fan_in w^2 + sum over columns of fan_out w^2 ]

    A neuron is one row of up (and gate) and one column of down; a head is `width` = head_dim rows
    of q, k, v and columns of o.

    Args:
        fan_in: matrices whose rows belong to the units, each (units * width, m).
        fan_out: matrix whose columns belong to the units, (d, units * width).
        width: rows (columns) per unit.

    Returns:
        Scores, float32 or wider, shape (units,).
    """
    units = fan_out.shape[1] // width
    dtype = torch.promote_types(fan_out.dtype, torch.float32)
    total = fan_out.detach().to(dtype).square().sum(dim=0)
    count = fan_out.shape[0]
    for matrix in fan_in:
        total = total + matrix.detach().to(dtype).square().sum(dim=1)
        count += matrix.shape[1]
    return total.reshape(units, width).sum(dim=1) / (count * width)
