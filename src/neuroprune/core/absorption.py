"""Least squares: let the features that stay take over what the removed ones did."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype, check_non_negative


def absorb(
    gram: Float[Tensor, "n n"],
    weight: Float[Tensor, "d n"],
    kept: Int64[Tensor, " kept"],
    removed: Int64[Tensor, " removed"],
    ridge: float = 1e-4,
) -> Float[Tensor, "d kept"]:
    """The weight on the kept features that replaces the weight on kept and removed ones best.

        W' = W_k + W_r G_rk (G_kk + lam I)^-1,   lam = ridge * mean(diag G_kk),   G = E[x x^T]

    minimises E|W_k x_k + W_r x_r - W' x_k|^2 + lam |W' - W_k|_F^2. Features in neither list are
    left to whatever reads them now, so one head takes over one other where `kept` are the features
    of the one and `removed` those of the other. A matrix that is not positive definite is damped
    more; ridge 0 takes the pseudo-inverse.

    Args:
        gram: second moment G of the features, shape (n, n).
        weight: output weight W that reads them, shape (d, n).
        kept: features that take over.
        removed: features that go, none of them kept.
        ridge: damping, relative to the mean second moment of the kept features.

    Returns:
        W', shape (d, kept), float32 or wider; solved in float64.

    Raises:
        ValueError: ridge is negative or not finite, or the moments are not finite.

    Reference: Kwon et al. (2022), arXiv 2204.09656, section 4 (mask tuning as least squares).
    """
    check_non_negative("ridge", ridge)
    g, w = _doubles(gram, weight)
    transfer = _transfer(g, kept, removed, ridge)
    absorbed: Tensor = w[:, kept] + w[:, removed] @ transfer.T
    return absorbed.to(accumulation_dtype(weight.dtype))


def cross_validated_ridge(
    grams: tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]],
    weight: Float[Tensor, "d n"],
    kept: Int64[Tensor, " kept"],
    removed: Int64[Tensor, " removed"],
    ridges: Sequence[float],
) -> float | None:
    """The damping that does best on samples it was not fitted to; None where none helps.

        err(lam) = sum over (A, B), (B, A) of E_B|W_r x_r - W_r M_A x_k|^2
        M_A = G_rk (G_kk + lam I)^-1 of the half A

    err of plain removal is that of M = 0. With few samples per kept feature little damping fits
    noise, and the error on other samples is larger than that of plain removal.

    Args:
        grams: second moments of the features on two disjoint halves of the samples, (n, n) each.
        weight: output weight W that reads them, shape (d, n).
        kept: features that take over.
        removed: features that go, none of them kept.
        ridges: dampings to try, each > 0, relative to the mean second moment of kept features.

    Returns:
        One of the ridges, or None where plain removal is no worse than all of them.

    Raises:
        ValueError: a ridge is not a positive finite number, or the moments are not finite.

    Reference: Stone (1974), Cross-validatory choice and assessment of statistical predictions.
    """
    for ridge in ridges:
        check_non_negative("ridge", ridge)
        if ridge == 0:
            raise ValueError("expected positive ridges, got 0 among them.")
    first, w = _doubles(grams[0], weight)
    second, _ = _doubles(grams[1], weight)
    outer = w[:, removed].T @ w[:, removed]
    best = None
    least = sum(float((outer * g[removed][:, removed]).sum()) for g in (first, second))
    for ridge in ridges:
        error = 0.0
        for fitted, other in ((first, second), (second, first)):
            transfer = _transfer(fitted, kept, removed, ridge)
            error += float((outer * _left(other, kept, removed, transfer)).sum())
        if error < least:
            best, least = ridge, error
    return best


def _transfer(g: Tensor, kept: Tensor, removed: Tensor, ridge: float) -> Tensor:
    """M^T = (G_kk + lam I)^-1 G_kr: each removed feature as a mixture of kept ones."""
    g_kr = g[kept][:, removed]
    g_kk = g[kept][:, kept]
    if ridge == 0:
        mixture: Tensor = torch.linalg.pinv(g_kk, hermitian=True) @ g_kr
    else:
        mixture = torch.cholesky_solve(g_kr, _cholesky(g_kk, ridge))
    return mixture


def _left(g: Tensor, kept: Tensor, removed: Tensor, transfer: Tensor) -> Tensor:
    """Second moment of what the mixtures leave of the removed features: x_r - M x_k."""
    cross = transfer.T @ g[kept][:, removed]
    both = transfer.T @ g[kept][:, kept] @ transfer
    return g[removed][:, removed] - cross - cross.T + both


def _doubles(gram: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Moments and weight in float64, the moments made exactly symmetric."""
    if not bool(gram.isfinite().all()):
        raise ValueError("expected finite second moments, got NaN or infinity among them.")
    g = gram.to(torch.float64)
    return (g + g.T) / 2, weight.detach().to(torch.float64)


def _cholesky(matrix: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of matrix + lam I, lam raised tenfold until it is positive definite.

    Moments summed in float32 may have eigenvalues slightly below zero.
    """
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    mean = float(matrix.diagonal().mean()) if len(matrix) else 0.0
    damping = ridge * mean or 1.0  # nothing fires: any damping moves nothing
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix + damping * identity)
        if not failed:
            return factor
        damping *= 10
