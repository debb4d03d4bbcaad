"""Learnt gates in plain NumPy loops, float64: the slow twins. Never optimised.

Probabilities are counted over a fine grid of the noise, not taken from a formula; gradients are
derived by hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def sample(log_alpha: float, uniform: float) -> float:
    """One hard-concrete gate from one uniform number."""
    if uniform <= 0:
        return 0.0
    logistic = (math.log(uniform / (1 - uniform)) + log_alpha) / BETA
    stretched = GAMMA + (ZETA - GAMMA) / (1 + math.exp(-logistic))
    return min(1.0, max(0.0, stretched))


def open_share(log_alpha: float, points: int = 20_001) -> float:
    """Share of evenly spread noise for which the gate is not 0."""
    count = 0
    for i in range(points):
        count += sample(log_alpha, (i + 0.5) / points) > 0
    return count / points


def expected_sparsity(
    blocks: Sequence[float],
    units: Sequence[Sequence[float]],
    costs: Sequence[float],
    whole: float,
    hidden: Sequence[float] = (1.0,),
) -> float:
    """Blocks of units: each of the block's cost, spread over the hidden dimensions.

    A weight is there if its block, its unit and its dimension are open.
    """
    kept = 0.0
    for block, members, cost in zip(blocks, units, costs, strict=True):
        for unit in members:
            for dimension in hidden:
                kept += cost / len(hidden) * block * unit * dimension
    return 1 - kept / whole


def lagrangian_gradient(
    log_alpha_blocks: Sequence[float],
    log_alpha_units: Sequence[Sequence[float]],
    costs: Sequence[float],
    whole: float,
    wanted: float,
    strengths: tuple[float, float],
) -> tuple[list[list[float]], list[float], tuple[float, float]]:
    """By hand: of the units, of the blocks, of the two multipliers.

    With p' = p (1 - p):  dL/ds = l1 + 2 l2 (s - t),  ds/da_u = -c q p'_u / W,
    ds/da_b = -c q'_b sum_u p_u / W.
    """

    def probability(log_alpha: float) -> float:
        return 1 / (1 + math.exp(-(log_alpha - BETA * math.log(-GAMMA / ZETA))))

    q = [probability(a) for a in log_alpha_blocks]
    p = [[probability(a) for a in members] for members in log_alpha_units]
    s = expected_sparsity(q, p, costs, whole)
    outer = strengths[0] + 2 * strengths[1] * (s - wanted)
    units, blocks = [], []
    for own, members, cost in zip(q, p, costs, strict=True):
        units.append([-outer * cost * own * x * (1 - x) / whole for x in members])
        blocks.append(-outer * cost * own * (1 - own) * sum(members) / whole)
    return units, blocks, (s - wanted, (s - wanted) ** 2)


def relaxed_top_k(scores: Array, count: int, temperature: float) -> Array:
    """k softmaxes, one after the other, in as much precision as there is."""
    r = np.array(scores, dtype=np.longdouble)
    gates = np.zeros(len(r), dtype=np.longdouble)
    for _ in range(count):
        weights = np.array([np.exp((x - r.max()) / np.longdouble(temperature)) for x in r])
        p = weights / weights.sum()
        gates += p
        for i in range(len(r)):
            others = sum(weights[j] for j in range(len(r)) if j != i)
            if others > 0:
                r[i] += np.log(others / weights.sum())
    return gates.astype(np.float64)
