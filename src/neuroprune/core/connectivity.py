"""How connected a neuron still is: the quantity preferential attachment feeds on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def check_non_negative(name: str, value: float) -> None:
    """Refuse a negative or non-finite constant.

    Raises:
        ValueError: the value is negative, NaN or infinite.
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}.")


def check_same_rows(parts: Sequence[Tensor]) -> None:
    """Refuse parts of one matrix that do not share their rows.

    Raises:
        ValueError: the parts have different numbers of rows, or there are none.
    """
    if len({p.shape[0] for p in parts}) != 1:
        raise ValueError(
            "the parts of A share their rows (one per input dimension); got parts with "
            f"{[p.shape[0] for p in parts]} rows."
        )


def connectivity(weight: Float[Tensor, "rows m"], eps: float) -> Float[Tensor, " rows"]:
    """Share of its possible connections that each row of a weight matrix still has.

        c_i = max(1 - n_i / m, 1 / m),   n_i = #{ j : |w_ij| < eps }

    The floor 1/m keeps the penalty's weight 1/c_i finite for a row without connections.

    Args:
        weight: stored matrix, shape (rows, m).
        eps: entries below it in absolute value are no connection.

    Returns:
        c, shape (rows,), in [1/m, 1]; float32 for half precision input, else of its dtype.

    Raises:
        ValueError: eps is negative or not finite, or the matrix has no columns.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.1, Algorithm 1.
    """
    check_non_negative("eps", eps)
    return _connectivity(weight, eps)[0]


def _connectivity(weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """c, and the one scratch matrix it took, free for the caller to reuse."""
    m = weight.shape[1]
    if m == 0:
        raise ValueError("connectivity of a matrix without columns is undefined.")
    scratch = weight.detach().abs().ge_(eps)
    # Counts are summed in at least float32: bfloat16 cannot hold integers above 256.
    connected = scratch.sum(dim=1, dtype=accumulation_dtype(weight.dtype))
    return connected.div_(m).clamp_(min=1.0 / m), scratch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64; everything narrower accumulates in float32."""
    return torch.promote_types(dtype, torch.float32)
