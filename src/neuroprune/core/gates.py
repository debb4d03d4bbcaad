"""Gates that are learnt: hard-concrete gates, and a relaxed choice of the k best."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BETA, GAMMA, ZETA = 2.0 / 3.0, -0.1, 1.1  # temperature, and the interval that is clipped to [0, 1]


def hard_concrete(
    log_alpha: Float[Tensor, " n"], uniform: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """A sample of hard-concrete gates: exactly 0, exactly 1, or between.

        s = sigmoid( (log u - log(1 - u) + log_alpha) / beta )
        z = min(1, max(0, s * (zeta - gamma) + gamma))

    Args:
        log_alpha: location of each gate, shape (n,).
        uniform: u, uniform noise in [0, 1), shape (n,).

    Returns:
        Gates in [0, 1], shape (n,), differentiable in log_alpha.

    Reference: Louizos, Welling and Kingma (2018), arXiv 1712.01312, equations 10 and 11.
    """
    s = torch.sigmoid((torch.logit(uniform) + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def open_probability(log_alpha: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability that a hard-concrete gate is not 0: its expected L0 norm.

        P(z > 0) = sigmoid( log_alpha - beta * log(-gamma / zeta) )

    Args:
        log_alpha: location of each gate, shape (n,).

    Returns:
        Probabilities, shape (n,).

    Reference: Louizos, Welling and Kingma (2018), arXiv 1712.01312, equation 12.
    """
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def deterministic_gate(log_alpha: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The gate without noise, for evaluation and for good.

        z = min(1, max(0, sigmoid(log_alpha) * (zeta - gamma) + gamma))

    Args:
        log_alpha: location of each gate, shape (n,).

    Returns:
        Gates in [0, 1], shape (n,).

    Reference: Louizos, Welling and Kingma (2018), arXiv 1712.01312, equation 13.
    """
    return (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def location_of(probability: float) -> float:
    """The log_alpha of a gate that is open with this probability: `open_probability` inverted.

        log_alpha = log p - log(1 - p) + beta * log(-gamma / zeta)

    Args:
        probability: p, in (0, 1).
    """
    return math.log(probability / (1.0 - probability)) + BETA * math.log(-GAMMA / ZETA)


def expected_sparsity(
    unit_open: Float[Tensor, " n"],
    block_open: Float[Tensor, " blocks"],
    block_of: Int64[Tensor, " n"],
    costs: Float[Tensor, " n"],
    whole: float,
    hidden_open: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, ""]:
    """Expected share of the dense model that is gone, where a unit needs its block.

        s = 1 - (1 / W) * sum_u c_u * P(z_block(u) > 0) * P(z_u > 0)

    and, where hidden dimensions have gates, a weight needs its dimension, too:

        s = 1 - (1 / W) * sum_u (c_u / d) * P(z_block(u) > 0) * P(z_u > 0) * sum_k P(z_k > 0)

    Args:
        unit_open: probability that each unit's own gate is open, shape (n,).
        block_open: probability that each block's gate is open, shape (blocks,).
        block_of: the block of each unit, shape (n,).
        costs: c, weights of each unit, shape (n,).
        whole: W, weights of the dense model; what was removed before has no unit and counts as
            gone.
        hidden_open: probability that each hidden dimension's gate is open, shape (d,); None where
            they have none.

    Returns:
        The expected sparsity, a scalar.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, equation 1.
    """
    kept = (costs * block_open[block_of] * unit_open).sum()
    return 1.0 - (kept if hidden_open is None else kept * hidden_open.mean()) / whole


def lagrangian(
    expected: Float[Tensor, ""], wanted: float, strengths: Float[Tensor, " 2"]
) -> Float[Tensor, ""]:
    """What a sparsity beside the wanted one costs.

        L = lambda_1 * (s - t) + lambda_2 * (s - t)^2

    The gates descend on it and lambda_1 and lambda_2 ascend, until s = t.

    Args:
        expected: s, expected sparsity.
        wanted: t.
        strengths: (lambda_1, lambda_2).

    Returns:
        The value, a scalar.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.1.
    """
    beside = expected - wanted
    return strengths[0] * beside + strengths[1] * beside.square()


def gumbel(uniform: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Gumbel noise of uniform noise: -log(-log u).

    Args:
        uniform: u in [0, 1), shape (n,).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log(-torch.log(uniform.clamp_min(tiny)))


def relaxed_top_k(
    scores: Float[Tensor, " n"], count: int, temperature: float
) -> Float[Tensor, " n"]:
    """A soft choice of the k highest scores: k softmaxes, each without what was chosen before.

        r^1 = scores,   p^j = softmax(r^j / tau),   r^(j+1) = r^j + log(1 - p^j)
        g = sum over j = 1..k of p^j

    The gates sum to k, and for tau -> 0 they are 1 for the k highest scores and 0 elsewhere. With
    scores = logits + Gumbel noise, that hard choice is a sample of k without replacement.

    Args:
        scores: shape (n,).
        count: k, 0 <= k <= n.
        temperature: tau > 0.

    Returns:
        Gates, shape (n,), differentiable in the scores.

    Reference: Xie and Ermon (2019), arXiv 1901.10517 (relaxed subset sampling); Li, Cotterell and
    Sachan (2021), arXiv 2108.04657, section 3.
    """
    gates = scores * 0.0
    for chosen in range(count):
        scaled = scores / temperature
        p = torch.softmax(scaled, dim=0)
        gates = gates + p
        if chosen + 1 < count:
            scores = scores + _log_complement(scaled, p)
    return gates


def _log_complement(scaled: Float[Tensor, " n"], p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log(1 - softmax(scaled)), exact also where an entry rounds to 1.

    Only the largest can: for it,  1 - p = sum of the others' exp / sum of all.
    """
    largest = torch.zeros_like(p, dtype=torch.bool)
    largest[scaled.argmax()] = True
    others = torch.logsumexp(scaled.masked_fill(largest, -torch.inf), dim=0)
    log_rest = others - torch.logsumexp(scaled, dim=0)
    return torch.where(largest, log_rest, torch.log1p(-p.masked_fill(largest, 0.0)))


def top_k(logits: Float[Tensor, " n"], count: int) -> Float[Tensor, " n"]:
    """1 for the k highest logits (ties: the earlier first), 0 elsewhere.

    Args:
        logits: shape (n,).
        count: k, 0 <= k <= n.

    Returns:
        Gates of 0 and 1, shape (n,).
    """
    best = logits.argsort(descending=True, stable=True)[:count]
    gates = torch.zeros_like(logits)
    gates[best] = 1.0
    return gates
