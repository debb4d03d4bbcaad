"""How alike heads and neurons are by what they do, in whatever basis their weights are written."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from neuroprune.core.connectivity import accumulation_dtype, check_non_negative

# Cosines of exact copies, computed in float32, fall short of 1 by less than this.
ROUNDING = 1e-6


def circuit_similarity(
    q: Float[Tensor, "k width d_q"],
    k: Float[Tensor, "k width d_k"],
    v: Float[Tensor, "k v_width d_v"],
    o: Float[Tensor, "k v_width d"],
) -> Float[Tensor, "k k"]:
    """Mean cosine of the QK circuits and of the OV circuits of every two heads.

        A_h = Q_h^T K_h,   B_h = O_h^T V_h
        sim[i, j] = ( cos(A_i, A_j) + cos(B_i, B_j) ) / 2,   cos(X, Y) = <X, Y>_F / (|X|_F |Y|_F)

    What a head computes depends on its weights through A and B alone. They do not change under
    Q -> R Q, K -> R^-T K and V -> S V, O -> S^-T O, which the weights do. The d x d products are
    never formed: <X^T Y, Z^T W>_F = sum_ab (X Z^T)_ab (Y W^T)_ab. Biases, and biases per head on
    the attention scores, are ignored. The cosine with an all-zero circuit is 0.

    Args:
        q: rows of the query weight per head; shape (k, width, d_q).
        k: likewise of the keys; where heads share keys and values, repeated for each.
        v: likewise of the values.
        o: columns of the output weight per head, transposed, (k, v_width, d).

    Returns:
        Symmetric, in [-1, 1], ones on the diagonal; float32, so that exact copies round to 1.

    Reference: Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits" (QK and OV
    circuits).
    """
    attend, move = _cosine(_product_inner(q, k)), _cosine(_product_inner(o, v))
    return ((attend + move) / 2).float()


def output_similarity(
    gram: Float[Tensor, "n n"], weight: Float[Tensor, "d n"], heads: int
) -> Float[Tensor, "k k"]:
    """Cosine of what every two heads add to the layer's output, over the data.

        y_h = W_h x_h,   sim[i, j] = E<y_i, y_j> / sqrt(E|y_i|^2 E|y_j|^2)
        E<y_i, y_j> = sum_ab (W_i^T W_j)_ab (G_ij)_ab,   G = E[x x^T]

    Not centred: constants count. A head that adds nothing has cosine 0 with every other.

    Args:
        gram: second moment of the concatenated head features, shape (n, n), n = heads * width.
        weight: output weight W, shape (d, n).
        heads: number of heads.

    Returns:
        Symmetric, in [-1, 1], ones on the diagonal; float32, shape (heads, heads).

    Raises:
        ValueError: the features do not divide into that many heads.
    """
    _check_heads(gram, heads)
    w = weight.detach().to(torch.float64)
    inner = (w.T @ w) * gram.to(torch.float64)
    return _cosine(_sum_blocks((inner + inner.T) / 2, heads)).float()


def parallel_neurons(
    fan_in: Float[Tensor, "d_ff f"],
    threshold: float,
    degree: int | None = None,
    tolerance: float = 0.05,
    block: int = 1024,
) -> dict[int, tuple[int, float]]:
    """Neurons that another one can stand for, since they look at their input the same way.

        neuron n folds into r   where   cos(w_n, w_r) >= threshold,   |w_n| = rho |w_r|
        down[:, r] += down[:, n] * s,   s = rho^degree

    With a positively homogeneous activation (ReLU) a neuron of input weights rho * w emits
    rho^degree times what w does, so folding parallel neurons is exact: degree 1 in a plain MLP,
    2 in a gated one. Any other activation has degree None: the norms must agree, too
    (|rho - 1| <= tolerance), and s = 1, which is exact for exact copies. Greedy, in the order of
    the neurons: each folds into the nearest of those before it that stay, or stays.

    Args:
        fan_in: [up row, up bias(, gate row, gate bias)] of every neuron, shape (d_ff, f).
        threshold: least cosine, in (0, 1]; compared with an allowance of 1e-6 for rounding.
        degree: of homogeneity of the neuron in its input weights; None where it has none.
        tolerance: how far the ratio of the norms may be from 1, where degree is None.
        block: neurons compared at a time; scratch memory is d_ff * block.

    Returns:
        {neuron: (the neuron r that stands for it, s)}. No r is a key; neurons without any input
        weight take no part.

    Raises:
        ValueError: a constant is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold!r}.")
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block!r}.")
    check_non_negative("tolerance", tolerance)
    rows = fan_in.detach().to(accumulation_dtype(fan_in.dtype))
    norm = rows.norm(dim=1)
    direction = rows / torch.where(norm > 0, norm, 1.0).unsqueeze(1)
    stays = norm > 0
    folds: dict[int, tuple[int, float]] = {}
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        near = direction[start:stop] @ direction[:stop].T
        near.masked_fill_(near < threshold - ROUNDING, -1.0)
        if degree is None:
            ratio = norm[start:stop, None] / norm[:stop].clamp_min(torch.finfo(norm.dtype).tiny)
            near.masked_fill_((ratio - 1).abs() > tolerance + ROUNDING, -1.0)
        candidates = near.tril(start - 1).gt(0).any(dim=1) & stays[start:stop]
        for n in (candidates.nonzero().squeeze(1) + start).tolist():
            cosine, r = torch.where(stays[:n], near[n - start, :n], -1.0).max(dim=0)
            if cosine > 0:
                scale = 1.0 if degree is None else float(norm[n] / norm[r]) ** degree
                folds[n] = (int(r), scale)
                stays[n] = False
    return folds


def _product_inner(left: Tensor, right: Tensor) -> Tensor:
    """<L_i^T R_i, L_j^T R_j>_F for all i and j, one row of scratch at a time; float64.

    In float64 because a basis far from orthonormal makes large terms cancel.
    """
    left, right = left.detach().to(torch.float64), right.detach().to(torch.float64)
    k = len(left)
    inner = left.new_zeros(k, k)
    for i in range(k):
        by_left = torch.einsum("ad,jbd->jab", left[i], left[i:])
        by_right = torch.einsum("ad,jbd->jab", right[i], right[i:])
        inner[i, i:] = inner[i:, i] = (by_left * by_right).sum(dim=(1, 2))
    return inner


def _cosine(inner: Tensor) -> Tensor:
    """inner_ij / sqrt(inner_ii inner_jj); 0 beside a zero, 1 on the diagonal."""
    norm = inner.diagonal().clamp_min(0).sqrt()
    product = torch.outer(norm, norm)
    alive = product > 0
    cosine = torch.where(alive, inner / torch.where(alive, product, 1.0), 0.0).clamp(-1, 1)
    return cosine.fill_diagonal_(1.0)


def _sum_blocks(matrix: Tensor, heads: int) -> Tensor:
    width = matrix.shape[0] // max(heads, 1)
    return matrix.reshape(heads, width, heads, width).sum(dim=(1, 3))


def _check_heads(gram: Tensor, heads: int) -> None:
    n = gram.shape[0]
    if heads < 0 or (n % heads if heads else n):
        raise ValueError(
            f"expected the moments of {heads} heads of one width, got {n} features. Moments taken "
            "before a cut do not fit the heads after it."
        )
