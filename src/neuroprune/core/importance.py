"""Scores of units: how much a head or a neuron matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype
from neuroprune.core.units import sum_per_unit


def square_per_unit(
    rows: Sequence[Float[Tensor, "_ _"]], columns: Sequence[Float[Tensor, "_ _"]], units: int
) -> Float[Tensor, " units"]:
    """Sum of the squared weights of every unit, in and out.

        score_u = sum over rows of u of w^2 + sum over columns of u of w^2

    Args:
        rows: matrices whose rows belong to the units, each (units * a, m).
        columns: matrices whose columns belong to the units, each (d, units * b).
        units: how many.

    Returns:
        Scores in at least float32, shape (units,).
    """

    def squared(matrix: Tensor) -> Tensor:
        return matrix.detach().to(accumulation_dtype(matrix.dtype)).square()

    return sum_per_unit([squared(m) for m in rows], [squared(m) for m in columns], units)


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


def square_factors(
    gradient: Float[Tensor, "rows columns"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]:
    """Row and column means of the squared gradient g of a matrix.

        r_i = (1 / m) sum_j g_ij^2,    s_j = (1 / n) sum_i g_ij^2

    Their running means stand for that of g^2, E[g_ij^2] ~ r_i s_j / mean(r), in n + m numbers
    instead of n m. It is exact where what comes in and what comes back are independent:
    g_ij is a sum of delta_i x_j over positions.

    Args:
        gradient: g, shape (n, m), at least one entry.

    Returns:
        r, shape (n,), and s, shape (m,), in at least float32.

    Reference: Shazeer and Stern (2018), arXiv 1804.04235, section 3.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    n, m = gradient.shape
    g = gradient.detach()
    rows = torch.linalg.vector_norm(g, dim=1, dtype=dtype).square() / m
    columns = torch.linalg.vector_norm(g, dim=0, dtype=dtype).square() / n
    return rows, columns


def first_order_per_weight(
    weight: Float[Tensor, "rows columns"],
    rows: Float[Tensor, " rows"],
    columns: Float[Tensor, " columns"],
) -> Float[Tensor, "rows columns"]:
    """Typical first-order change of the loss when a single weight goes to zero.

        score_ij = |w_ij| * sqrt(r_i s_j / mean(r))  ~  sqrt(E[(w_ij * dL/dw_ij)^2])

    Args:
        weight: w, shape (n, m).
        rows: r, running means of what `square_factors` returns, shape (n,).
        columns: s, shape (m,).

    Returns:
        Scores, float32 or wider, shape (n, m); 0 where no gradient was seen.

    Reference: Molchanov et al. (2019), arXiv 1906.10771, equation 8, of single weights.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    tiny = torch.finfo(rows.dtype).tiny
    scale = (rows / rows.mean().clamp_min(tiny)).sqrt().unsqueeze(1) * columns.sqrt()
    return scale.to(dtype).mul_(weight.detach().abs())
