"""Open-loop schedules: how much should be gone by now."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


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
    steps = math.sqrt(2.0 * cost * ramp / share)  # infinite where the share is next to nothing
    return max(1, round(min(steps, 1e9)))


@dataclass(frozen=True)
class Ramp:
    """The cubic ramp of one training, on whole steps.

    Args:
        begin: share of the training before the ramp.
        end: share of the training after which the target holds.
        steps: optimizer steps of the whole training.
        interval: steps between two changes on the way.
    """

    begin: float
    end: float
    steps: int
    interval: int = 1

    @property
    def first(self) -> int:
        """The step after which the ramp rises."""
        return round(self.begin * self.steps)

    @property
    def last(self) -> int:
        """The step at which the target is met."""
        return round(self.end * self.steps)

    @property
    def length(self) -> int:
        """Steps of the ramp, at least 1."""
        return max(self.last - self.first, 1)

    def every(self, interval: int) -> Ramp:
        """The same ramp with another interval.

        Args:
            interval: steps between two changes on the way.
        """
        return replace(self, interval=interval)

    def is_due(self, step: int) -> bool:
        """Whether something changes at a step: at every interval of the ramp, and at its last.

        Args:
            step: optimizer steps done.
        """
        return step == self.last or (
            self.first < step < self.last and (step - self.first) % self.interval == 0
        )

    def progress(self, step: int) -> float:
        """How far on the way to the target the schedule is: `cubic_sparsity`, 1 at the last step.

        Args:
            step: optimizer steps done.
        """
        if step >= self.last:  # whole steps: the last change must not fall short by rounding
            return 1.0
        return cubic_sparsity(step, self.steps, 1.0, self.begin, self.end)


HOLD = 0.4  # share of a stage that recovers before its snapshot


class Stage(NamedTuple):
    """Part of a staged ramp: a rise from `start` to `top`, then a hold until `stop`.

    Args:
        start: step after which it rises.
        top: step at which it has risen.
        stop: step at which the hold ends.
    """

    start: int
    top: int
    stop: int


def stages_of(number: int, total_steps: int, begin: float, end: float) -> list[Stage]:
    """The stages of a staged ramp, equally long, on whole steps.

    The first 60% of a stage rise and the rest holds. The last one rises all of its time, since
    what follows `end` is its hold.

    Args:
        number: how many, >= 1.
        total_steps: of the whole training.
        begin: share of the training before the first.
        end: share of the training after the last.
    """
    first, last = round(begin * total_steps), round(end * total_steps)
    marks = [first + round((last - first) * i / number) for i in range(number + 1)]
    stages = []
    for i, (start, stop) in enumerate(itertools.pairwise(marks)):
        top = stop if i == number - 1 else start + round((1.0 - HOLD) * (stop - start))
        stages.append(Stage(start, top, stop))
    return stages


def staged_progress(
    step: int, total_steps: int, levels: Sequence[float], begin: float, end: float
) -> float:
    """Ramp that stops at levels on the way: in each stage a cubic rise, then a hold.

    Stage i (see `stages_of`) rises from levels[i-1] (0 before the first) to levels[i] and holds
    there, exactly. With one level it is `cubic_sparsity` between whole steps.

    Args:
        step: optimizer steps done.
        total_steps: of the whole training.
        levels: ascending; the last is where the ramp ends.
        begin: share of the training before the ramp.
        end: share of the training after which the last level holds.

    Returns:
        A level in [0, levels[-1]].
    """
    low = 0.0
    stages = stages_of(len(levels), total_steps, begin, end)
    if step > 0 and step >= stages[-1].stop:  # in a short training the last stage may be empty
        return levels[-1]
    for level, stage in zip(levels, stages, strict=True):
        if step <= stage.start:
            return low
        if step < stage.top:
            rise = cubic_sparsity(step - stage.start, stage.top - stage.start, level - low)
            return min(low + rise, level)
        low = level
    return low
