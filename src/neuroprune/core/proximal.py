"""Proximal maps: the exact minimisers behind a decoupled penalty step.

A proximal step prox_{t R}(W) = argmin_Z 0.5 ||Z - W||^2 + t R(Z), taken after the optimizer step,
gives exact zeros with any optimizer and needs no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import (
    accumulation_dtype,
    check_non_negative,
    check_same_rows,
)

# The iteration contracts by at least 1/4 a step wherever it is used: enough for float64.
_MAX_STEPS = 30


def soft_threshold(
    w: Float[Tensor, "*shape"], t: float | Float[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """Proximal map of t * |.|, entry by entry: sign(w) * max(|w| - t, 0).

    Args:
        w: any tensor.
        t: threshold >= 0, a number or a tensor that broadcasts against w.

    Returns:
        Shape and dtype of w.

    Raises:
        ValueError: t is negative or not finite.

    Reference: Parikh and Boyd (2014), Proximal Algorithms, section 6.5.2.
    """
    return soft_threshold_(w.clone(), t)


def soft_threshold_(
    w: Float[Tensor, "*shape"], t: float | Float[Tensor, ...]
) -> Float[Tensor, "*shape"]:
    """`soft_threshold` in place: w - clamp(w, -t, t), with one scratch tensor of w's size.

    Args:
        w: any tensor; overwritten.
        t: threshold >= 0, a number or a tensor that broadcasts against w.

    Returns:
        w.

    Raises:
        ValueError: t is negative or not finite.
    """
    if isinstance(t, Tensor):
        if not bool(((t >= 0) & t.isfinite()).all()):
            raise ValueError("t must be >= 0 and finite everywhere; got a threshold that is not.")
        t = t.to(w.dtype)
        return w.sub_(w.clamp(-t, t))
    check_non_negative("t", t)
    return w.sub_(w.clamp(-t, t))


def hard_threshold_(w: Float[Tensor, "*shape"], eps: float) -> Float[Tensor, "*shape"]:
    """Set every entry with |w| < eps to zero, in place.

    Args:
        w: any tensor; overwritten.
        eps: entries below it in absolute value are no connection, >= 0.

    Returns:
        w.

    Raises:
        ValueError: eps is negative or not finite.
    """
    check_non_negative("eps", eps)
    return w.masked_fill_(w.abs() < eps, 0.0)


def weighted_l1_prox(
    weight: Float[Tensor, "rows m"], row_weight: Float[Tensor, " rows"], t: float
) -> Float[Tensor, "rows m"]:
    """Proximal map of the row-weighted l1 norm.

        argmin_Z 0.5 ||Z - W||^2 + t * sum_i a_i sum_j |Z_ij|  =  soft_threshold(W_ij, t * a_i)

    With a_i = 1 / c_i this is the proximal step of R_mlp, c held constant as in its gradient.

    Args:
        weight: W, shape (rows, m).
        row_weight: a >= 0, shape (rows,).
        t: step size times strength, >= 0.

    Returns:
        Shape and dtype of W.

    Raises:
        ValueError: t or a row weight is negative or not finite.
    """
    check_non_negative("t", t)
    return soft_threshold(weight, (t * row_weight).unsqueeze(1))


def group_l1_half_prox(rows: Float[Tensor, "d m"], t: float) -> Float[Tensor, "d m"]:
    """Exact proximal map of the group l_1^(1/2) penalty, row by row.

        argmin_Z 0.5 ||Z - A||^2 + t * sum_i ||Z_i||_1^(1/2)

    A nonzero minimiser is a soft threshold z = S_lambda(a) with lambda = t / (2 sqrt(||z||_1)). Its
    l1 norm s therefore solves s = sum_j (|a_j| - t / (2 sqrt(s)))_+, which may have several
    solutions; the global minimiser (the row 0 included) is returned.

    Three ways, chosen per row. With n entries in the row, a solution s with s^(3/2) >= n t is the
    global minimiser (the cost restricted to norm s is 1/n-strongly convex, which outweighs the
    concavity of t sqrt(s)), and iterating the equation from s = ||a||_1 reaches it, contracting by
    at least 1/4 a step. A row with max_j |a_j| sqrt(||a||_1) <= t is zero, since no z gains more
    than ||z||_1 max_j |a_j|. What is left is solved by enumeration: for the k largest entries,
    sqrt(s) is the largest root of u^3 - C_k u + k t / 2 = 0 (C_k their sum), and the cheapest
    consistent candidate wins.

    Args:
        rows: A, shape (d, m).
        t: step size times strength, >= 0.

    Returns:
        Shape and dtype of A.

    Raises:
        ValueError: t is negative or not finite.

    Reference: arXiv 2409.14156; Hu et al. (2017), JMLR 18(30), for the l_{p,q} family.
    """
    return group_l1_half_prox_([rows.clone()], t)[0]


def group_l1_half_prox_(
    parts: Sequence[Float[Tensor, "d _"]], t: float
) -> Sequence[Float[Tensor, "d _"]]:
    """`group_l1_half_prox` in place, for rows that are split over several matrices.

    Args:
        parts: the parts of A side by side, each of shape (d, m_p); overwritten. Views are fine.
        t: step size times strength, >= 0.

    Returns:
        parts.

    Raises:
        ValueError: t is negative or not finite, or the parts disagree on the number of rows.
    """
    check_non_negative("t", t)
    check_same_rows(parts)
    if t == 0 or sum(p.shape[1] for p in parts) == 0:
        return parts
    threshold, uncertain = _threshold_by_iteration(parts, t)
    index = uncertain.nonzero().squeeze(1)
    # In slices, so that the enumeration's double-precision tables stay within one matrix's size.
    columns = sum(p.shape[1] for p in parts)
    rows_at_once = max(1, max(p.numel() for p in parts) // (32 * columns))
    for some in index.split(rows_at_once):
        gathered = torch.cat([p[some].to(threshold.dtype) for p in parts], dim=1)
        threshold[some] = _threshold_by_enumeration(gathered, t)
    for part in parts:
        limit = threshold.unsqueeze(1).to(part.dtype)
        part.sub_(part.clamp(-limit, limit))
    return parts


def _threshold_by_iteration(parts: Sequence[Tensor], t: float) -> tuple[Tensor, Tensor]:
    """lambda per row where iteration certifies it (inf where the row is zero), and where not."""
    dtype = accumulation_dtype(parts[0].dtype)
    tolerance = 4.0 * torch.finfo(dtype).eps
    n = sum(p.shape[1] for p in parts)
    norm = _excess(parts, None, dtype)
    largest = torch.stack([_row_max(p, dtype) for p in parts]).amax(dim=0)
    zero = largest * norm.sqrt() <= t
    bound = min(1.001 * (n * t) ** (2.0 / 3.0), torch.finfo(dtype).max)
    certain = (norm > bound) & ~zero
    active = certain
    threshold = 0.5 * t * norm.clamp(min=bound).rsqrt()
    for _ in range(_MAX_STEPS):  # a row that has converged is left as it is, whatever the others do
        last, norm = norm, torch.where(active, _excess(parts, threshold, dtype), norm)
        certain &= norm > bound
        active = certain & ((last - norm).abs() > tolerance * norm)
        if not bool(active.any()):
            break
        threshold = torch.where(active, 0.5 * t * norm.clamp(min=bound).rsqrt(), threshold)
    certain &= ~active
    return torch.where(certain, threshold, math.inf), ~certain & ~zero


def _row_max(part: Tensor, dtype: torch.dtype) -> Tensor:
    if part.shape[1] == 0:
        return part.new_zeros(part.shape[0], dtype=dtype)
    return torch.maximum(part.amax(dim=1), -part.amin(dim=1)).to(dtype)


def _excess(parts: Sequence[Tensor], threshold: Tensor | None, dtype: torch.dtype) -> Tensor:
    """sum_j (|a_j| - threshold)_+ per row, with one scratch matrix at a time."""
    total = parts[0].new_zeros(parts[0].shape[0], dtype=dtype)
    for part in parts:
        scratch = part.abs()
        if threshold is not None:
            scratch = scratch.sub_(threshold.unsqueeze(1).to(scratch.dtype)).clamp_(min=0)
        total += scratch.sum(dim=1, dtype=dtype)
    return total


def _threshold_by_enumeration(rows: Tensor, t: float) -> Tensor:
    """lambda per row by trying every active-set size; inf where the row 0 is the minimiser.

    Cubic u^3 - C u + k t / 2 = 0 has real positive roots iff C >= 3 (k t / 4)^(2/3); the largest is
    u = 2 sqrt(C / 3) cos(arccos(-(k t / 4) (3 / C)^(3/2)) / 3) (Viete), the local minimiser.
    """
    size = rows.abs().to(torch.float64).sort(dim=1, descending=True).values
    m = size.shape[1]
    k = torch.arange(1, m + 1, dtype=size.dtype, device=size.device)
    total = size.cumsum(dim=1)
    q = 0.25 * t * k
    root_exists = (total > 0) & (total >= 3.0 * q ** (2.0 / 3.0))
    c = torch.where(root_exists, total, 1.0)
    angle = torch.arccos((-q * (3.0 / c) ** 1.5).clamp(-1.0, 1.0))
    u = 2.0 * (c / 3.0).sqrt() * torch.cos(angle / 3.0)
    u = torch.where(root_exists, u, 1.0)
    threshold = 0.5 * t / u
    next_size = torch.cat([size[:, 1:], size.new_zeros(size.shape[0], 1)], dim=1)
    slack = 1e-9 * size[:, :1]  # ties: rounding must not reject both neighbours of a boundary
    consistent = root_exists & (size > threshold - slack) & (next_size <= threshold + slack)
    tail = (size.square().sum(dim=1, keepdim=True) - size.square().cumsum(dim=1)).clamp(min=0)
    cost = 0.5 * k * threshold.square() + 0.5 * tail + t * u
    cost = torch.where(consistent, cost, math.inf)
    best = cost.min(dim=1)
    zero_cost = 0.5 * size.square().sum(dim=1)
    chosen = threshold.gather(1, best.indices.unsqueeze(1)).squeeze(1)
    chosen = torch.where(best.values < zero_cost, chosen, math.inf)
    return chosen.to(rows.dtype)
