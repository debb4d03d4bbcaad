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


def gate_gradient(
    fan_out: Float[Tensor, "d features"], gradient: Float[Tensor, "d features"], width: int = 1
) -> Float[Tensor, " units"]:
    """Gradient of the loss with respect to a gate m_u = 1 on every unit.

        dL/dm_u = sum over w in the columns of u of  w * dL/dw

    Args:
        fan_out: matrix whose columns belong to the units, (d, units * width).
        gradient: dL/d fan_out, of the same shape.
        width: columns per unit.

    Returns:
        Gradients, float32 or wider, shape (units,).

    Reference: Kwon et al. (2022), arXiv 2204.09656, section 4.1.
    """
    dtype = torch.promote_types(fan_out.dtype, torch.float32)
    product = fan_out.detach().to(dtype) * gradient.detach().to(dtype)
    return product.sum(dim=0).reshape(-1, width).sum(dim=1)


def first_order_per_unit(
    fan_out: Float[Tensor, "d features"], gradient: Float[Tensor, "d features"], width: int = 1
) -> Float[Tensor, " units"]:
    """Squared first-order change of the loss when a unit's outgoing weights go to zero.

        score_u = ( sum over w in the columns of u of  w * dL/dw )^2

    Its running mean over batches is the unit's entry of the empirical Fisher information with
    respect to a gate on the unit.

    Args:
        fan_out: matrix whose columns belong to the units, (d, units * width).
        gradient: dL/d fan_out, of the same shape.
        width: columns per unit.

    Returns:
        Scores, float32 or wider, shape (units,).

    Reference: Molchanov et al. (2019), arXiv 1906.10771, equation 8; Kwon et al. (2022), arXiv
    2204.09656, section 4.1.
    """
    return gate_gradient(fan_out, gradient, width).square()


def activity_per_unit(
    fan_out: Float[Tensor, "d features"], mean_square: Float[Tensor, " features"], width: int = 1
) -> Float[Tensor, " units"]:
    """Activity-dependent strength: what a unit sends out, typically.

        score_u = sum over features f of u of  E[x_f^2] * sum_i fan_out[i, f]^2

    Args:
        fan_out: matrix whose columns belong to the units, (d, units * width).
        mean_square: mean squared activation of every feature, shape (units * width,).
        width: columns per unit.

    Returns:
        Scores, float32 or wider, shape (units,).

    Reference: Lynn, Holmes and Palmer (2024), "Heavy-tailed neuronal connectivity arises from
    Hebbian self-organization", Nature Physics 20 (growth of connections by their activity).
    """
    dtype = torch.promote_types(fan_out.dtype, torch.float32)
    strength = fan_out.detach().to(dtype).square().sum(dim=0) * mean_square
    return strength.reshape(-1, width).sum(dim=1)
