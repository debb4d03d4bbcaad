"""Open-loop schedules: how much should be gone by now."""

from __future__ import annotations


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
