"""Fisher mask search: which heads and neurons go together at the least loss, and what takes over.

Every unit u has a mask m_u = 1 in front of the layer that reads it. With the gradients g_b = dL/dm
of some batches, a mask with zeros changes the loss, to second order, by about half of

    (1 - m)^T I (1 - m),    I_uv = sum over batches of g_bu * g_bv

The search looks at the diagonal of I over the whole model, the rearrangement at the block of I that
belongs to one layer, and the tuning leaves the loss aside and restores the layer's output.

Reference: Kwon et al. (2022), "A Fast Post-Training Pruning Framework for Transformers", arXiv
2204.09656, section 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuroprune.core.absorption import absorb

LIMIT = 10.0  # of |m| after tuning: beyond it the least squares are not to be trusted (the paper's)


def fisher_block(gradients: Float[Tensor, "batches units"]) -> Float[Tensor, "units units"]:
    """Empirical Fisher information of the masks of one layer: I = sum over batches of g_b g_b^T.

    Args:
        gradients: g_b = dL/dm, one row per batch, shape (batches, units).

    Returns:
        I in float64, shape (units, units); positive semi-definite.
    """
    g = gradients.double()
    return g.T @ g


def removal_loss(
    fisher: Float[Tensor, "units units"], gone: Bool[Tensor, " units"]
) -> Float[Tensor, ""]:
    """What removing units of one layer costs: sum over u and v that go of I_uv.

    Args:
        fisher: I, shape (units, units).
        gone: the units that go, shape (units,).
    """
    return fisher[gone][:, gone].sum()


def search_masks(
    head_scores: Float[Tensor, " heads"],
    head_costs: Float[Tensor, " heads"],
    neuron_scores: Float[Tensor, " neurons"],
    neuron_costs: Float[Tensor, " neurons"],
    needed: float,
    heads_gone: int | None = None,
) -> tuple[Bool[Tensor, " heads"], Bool[Tensor, " neurons"]]:
    """Heads and neurons that free a budget at the least sum of scores.

        min over n of  S_head(n) + S_neuron(k(n)),   k(n) = min { k : C_head(n) + C_neuron(k) >= B }

    S(n) and C(n) are the scores and costs of the n poorest of their kind, by score per cost. Exact
    where all heads cost the same and all neurons cost the same.

    Args:
        head_scores: I_uu of every head, >= 0, shape (heads,).
        head_costs: what removing it frees, > 0, in the budget's unit.
        neuron_scores: I_uu of every neuron, >= 0, shape (neurons,).
        neuron_costs: what removing it frees, > 0.
        needed: the budget B; zero or less needs nothing.
        heads_gone: how many heads go; None leaves it to the search.

    Returns:
        Masks of the heads and neurons that go. All neurons, and as many heads as allowed, where
        that is not enough.

    Reference: Kwon et al. (2022), arXiv 2204.09656, section 4 and Algorithm 1 (mask search).
    """
    head_order, head_loss, head_freed = _ranked(head_scores, head_costs)
    neuron_order, neuron_loss, neuron_freed = _ranked(neuron_scores, neuron_costs)
    slack = 1e-9 * max(abs(needed), 1.0)
    wanted = (needed - slack - head_freed).clamp_min(0.0)
    count = torch.searchsorted(neuron_freed, wanted)
    enough = count < len(neuron_freed)
    count = count.clamp_max(len(neuron_freed) - 1)
    loss = torch.where(enough, head_loss + neuron_loss[count], torch.inf)
    if heads_gone is not None:
        n = heads_gone
    else:
        n = int(loss.argmin()) if bool(enough.any()) else len(head_order)
    heads = torch.zeros(len(head_order), dtype=torch.bool, device=head_scores.device)
    neurons = torch.zeros(len(neuron_order), dtype=torch.bool, device=neuron_scores.device)
    heads[head_order[:n]] = True
    neurons[neuron_order[: int(count[n])]] = True
    return heads, neurons


def rearranged(
    fisher: Float[Tensor, "units units"], gone: Bool[Tensor, " units"]
) -> Bool[Tensor, " units"]:
    """As many units of one layer, exchanged greedily where that costs less.

    Every unit that stays, the least important first, is put to those that go; then the one without
    which the rest costs least is taken back. So no exchange raises `removal_loss`.

    Args:
        fisher: I of the layer, shape (units, units).
        gone: the units that go after the search, shape (units,).

    Returns:
        Mask of the units that go, of the same number.

    Reference: Kwon et al. (2022), arXiv 2204.09656, section 4 (mask rearrangement).
    """
    out = gone.clone()
    if not bool(gone.any()) or bool(gone.all()):
        return out
    own = fisher.diagonal()
    shared = fisher[:, gone].sum(dim=1)  # (I (1 - m))_u
    candidates = (~gone).nonzero().squeeze(1)
    for j in candidates[own[candidates].argsort(stable=True)].tolist():
        # The loss without i, of all that go and j: constant + I_ii - 2 (I (1 - m))_i - 2 I_ij.
        change = own - 2.0 * (shared + fisher[:, j])
        i = int(torch.where(out, change, torch.inf).argmin())
        if float(change[i]) < float(change[j]):
            out[i], out[j] = False, True
            shared = shared + fisher[:, j] - fisher[:, i]
    return out


def contribution_moments(
    gram: Float[Tensor, "n n"], weight: Float[Tensor, "d n"], width: int = 1
) -> Float[Tensor, "units units"]:
    """Second moments of what the units add to the layer's output: C_uv = E[(W_u x_u) . (W_v x_v)].

        C_uv = sum over features f of u and h of v of  (W^T W)_fh * G_fh,    G = E[x x^T]

    Args:
        gram: G, shape (n, n), n = units * width.
        weight: W that reads the features, shape (d, n).
        width: features per unit; 1 for neurons, head_dim for heads.

    Returns:
        C in float64, shape (units, units).

    Raises:
        ValueError: the features do not divide into units.
    """
    n = gram.shape[0]
    if width < 1 or n % width:
        raise ValueError(f"expected units of {width} features, got {n} features in all.")
    w = weight.detach().double()
    products = (w.T @ w) * gram.double()
    return products.reshape(n // width, width, n // width, width).sum(dim=(1, 3))


def tuned_masks(
    moments: Float[Tensor, "units units"],
    kept: Int64[Tensor, " kept"],
    removed: Int64[Tensor, " removed"],
    ridge: float = 1e-4,
) -> Float[Tensor, " kept"]:
    """Masks of the units that stay with which the layer's output is what it was, as well as can be.

        m = argmin E|sum_u W_u x_u - sum over kept of m_u W_u x_u|^2 + lam |m - 1|^2
          = 1 + (C_kk + lam I)^-1 C_kr 1,    lam = ridge * mean(diag C_kk)

    This is `absorb` with the units' contributions as features, all read with weight 1.

    Args:
        moments: C, shape (units, units), of `contribution_moments`.
        kept: units that stay.
        removed: units that go.
        ridge: damping, relative to the mean moment of the units that stay.

    Returns:
        m, shape (kept,), float32 or wider; all 1 where one of them is not finite or beyond `LIMIT`.

    Raises:
        ValueError: ridge is negative or not finite, or the moments are not finite.

    Reference: Kwon et al. (2022), arXiv 2204.09656, section 4 (mask tuning).
    """
    ones = torch.ones(1, moments.shape[0], dtype=moments.dtype, device=moments.device)
    masks = absorb(moments, ones, kept, removed, ridge).squeeze(0)
    sound = bool(masks.isfinite().all()) and bool((masks.abs() <= LIMIT).all())
    return masks if sound else torch.ones_like(masks)


def _ranked(scores: Tensor, costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Poorest first: their order, and the scores and costs of the first 0, 1, 2, ... of them."""
    order = (scores / costs).argsort(stable=True)
    none = scores.new_zeros(1, dtype=torch.float64)
    loss = torch.cat([none, scores.double()[order].cumsum(0)])
    return order, loss, torch.cat([none, costs.double()[order].cumsum(0)])
