"""The two penalties of the paper and the l1 baseline, each with its closed-form gradient.

The closed form exists because it is cheap: one scratch matrix, no graph. The penalties
themselves are ordinary differentiable functions, and tests hold the two together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import (
    _connectivity,
    accumulation_dtype,
    check_non_negative,
    check_same_rows,
    connectivity,
)


def mlp_penalty(weight: Float[Tensor, "rows m"], eps: float) -> Float[Tensor, ""]:
    """Preferential attachment: l1 weighted by the inverse connectivity of each row.

        R_mlp(W) = sum_i (1 / c_i) * sum_j |W_ij|

    c (see `connectivity`) is a constant for the gradient: the fewer connections a neuron has, the
    harder what is left of it is pushed.

    Args:
        weight: stored matrix, shape (rows, m).
        eps: entries below it in absolute value are no connection.

    Returns:
        Scalar, in at least float32.

    Raises:
        ValueError: eps is negative or not finite.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.1, Algorithm 1.
    """
    row_l1 = weight.abs().sum(dim=1, dtype=accumulation_dtype(weight.dtype))
    return (row_l1 / connectivity(weight, eps)).sum()


def mlp_penalty_grad(weight: Float[Tensor, "rows m"], eps: float) -> Float[Tensor, "rows m"]:
    """Gradient of `mlp_penalty`: sign(W_ij) / c_i, and 0 where W_ij = 0.

    Args:
        weight: stored matrix, shape (rows, m).
        eps: entries below it in absolute value are no connection.

    Returns:
        The gradient, of the weight's shape and dtype. It is the only matrix-sized allocation.

    Raises:
        ValueError: eps is negative or not finite.
    """
    check_non_negative("eps", eps)
    c, scratch = _connectivity(weight, eps)
    torch.sign(weight.detach(), out=scratch)
    return scratch.div_(c.unsqueeze(1).to(scratch.dtype))


def attention_penalty(*rows: Float[Tensor, "d _"]) -> Float[Tensor, ""]:
    """Group l_1^(1/2) penalty on the rows of [Q, K, V].

        R_attn(A) = sum_i ( sum_j |A_ij| )^(1/2)

    Row i of A is everything that reads input dimension i, across heads. The gradient
    sign(A_ij) / (2 sqrt(sum_j |A_ij|)) is unbounded at an all-zero row; such rows contribute none.

    Args:
        rows: the parts of A side by side, each of shape (d, m_p); one part is A itself.

    Returns:
        Scalar, in at least float32.

    Raises:
        ValueError: the parts disagree on the number of rows.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.2.
    """
    norm = _row_l1(rows)
    alive = norm > 0
    # where() on both sides: the square root never sees the zero whose derivative is infinite.
    return torch.where(alive, torch.where(alive, norm, 1.0).sqrt(), 0.0).sum()


def attention_penalty_grad(*rows: Float[Tensor, "d _"]) -> tuple[Float[Tensor, "d _"], ...]:
    """Gradient of `attention_penalty`: sign(A_ij) / (2 sqrt(sum_j |A_ij|)), 0 at all-zero rows.

    Args:
        rows: the parts of A side by side, each of shape (d, m_p).

    Returns:
        One gradient per part, of its shape and dtype.

    Raises:
        ValueError: the parts disagree on the number of rows.
    """
    half = attention_row_weight(*rows)
    return tuple(p.detach().sign().mul_(half.unsqueeze(1).to(p.dtype)) for p in rows)


def attention_row_weight(*rows: Float[Tensor, "d _"]) -> Float[Tensor, " d"]:
    """1 / (2 sqrt(sum_j |A_ij|)) per row: what sign(A_ij) is multiplied by in the gradient.

    Args:
        rows: the parts of A side by side, each of shape (d, m_p).

    Returns:
        Shape (d,); 0 for an all-zero row.

    Raises:
        ValueError: the parts disagree on the number of rows.
    """
    norm = _row_l1([p.detach() for p in rows])
    return torch.where(norm > 0, 0.5 * norm.clamp(min=torch.finfo(norm.dtype).tiny).rsqrt(), 0.0)


def l1_penalty(weight: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The baseline: sum of |w|.

    Args:
        weight: any tensor.

    Returns:
        Scalar, in at least float32.
    """
    return weight.abs().sum(dtype=accumulation_dtype(weight.dtype))


def l1_penalty_grad(weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gradient of `l1_penalty`: sign(w), 0 at 0.

    Args:
        weight: any tensor.

    Returns:
        The gradient, of the weight's shape and dtype.
    """
    return weight.detach().sign()


def _row_l1(rows: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    check_same_rows(rows)
    total = rows[0].new_zeros(rows[0].shape[0], dtype=accumulation_dtype(rows[0].dtype))
    for part in rows:
        total = total + part.abs().sum(dim=1, dtype=total.dtype)
    return total
