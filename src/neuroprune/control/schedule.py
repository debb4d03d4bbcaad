"""Open-loop schedules: how much should be gone by now."""

from __future__ import annotations

import math


def cubic_sparsity(
    step: int, total_steps: int, target: float, begin: float = 0.0, end: float = 1.0
) -> float:
    """Cubic ramp from 0 to the target.

        s(t) = target * (1 - (1 - (t - t0) / (t1 - t0))^3),  t0 = begin * T,  t1 = end * T

    Args:
        step: t, optimizer steps done.
        total_steps: T.
        target: final sparsity.
        begin: share of the training before the ramp.
        end: share of the training after which the target holds.

    Returns:
        Sparsity in [0, target]; the target for a training without steps.

    Reference: Zhu and Gupta (2017), arXiv 1710.01878, equation 1.
    """
    start, stop = begin * total_steps, end * total_steps
    if step >= stop:
        return target
    progress = max(0.0, (step - start) / (stop - start))
    return target * (1.0 - (1.0 - progress) ** 3)


CUT_COST = 0.15  # of a dense step: anatomy, slicing of weights and optimizer state, measured


def cut_interval(share: float, ramp: float, cost: float = CUT_COST) -> int:
    """Steps between two cuts, so that what waits to be cut costs no more than cutting it.

    With r = share / ramp removed per step, what waits for n steps wastes r n^2 / 2 dense steps of
    work, and a cut costs `cost` of them. Their sum per step is least where they are equal:

        n = sqrt(2 * cost / r)

    Args:
        share: share of the model's cost that the ramp removes.
        ramp: optimizer steps of the ramp.
        cost: of one cut, in dense steps.

    Returns:
        Steps, >= 1. It depends on no clock, so that a run can be repeated.
    """
    if share <= 0.0 or ramp <= 0.0:
        return 1
    return max(1, round(math.sqrt(2.0 * cost * ramp / share)))
