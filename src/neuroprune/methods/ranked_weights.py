"""Single weights that go by a ranking, until a target of `Weights` is met: what rivals share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import Weights
from neuroprune.control.schedule import cubic_sparsity, cut_interval
from neuroprune.methods.goals import achieved, check_weights
from neuroprune.methods.masks import ZeroMask
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.methods.ranked import BudgetedT
from neuroprune.plan import ShrinkPlan


class RankedWeights(Method[BudgetedT]):
    """The lowest-ranked weights of the whole model become zero, along a cubic schedule.

    What is zero stays zero. Units that have lost all weights are removed when training ends. A
    subclass supplies `mask_`, and may push weights in `push_`.

    Args:
        config: with a target of `Weights`, begin and end.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    def __init__(self, config: BudgetedT, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = f"{type(config).__name__} meets its target along a schedule and"
        self.schedule_steps = schedule_length(total_steps, why)
        self.target: Weights = config.target[0]
        self.step = 0
        ramp = (config.end - config.begin) * self.schedule_steps
        self.interval = cut_interval(self.target.sparsity, ramp)
        self._mask = ZeroMask()

    @property
    def eps(self) -> float:
        """Nothing more is set to zero when training ends."""
        return 0.0

    @abstractmethod
    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Set the lowest-ranked trained weights to zero.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
            gone: how many of the dense model's weights are to be zero or removed.
        """

    def push_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """What happens to the weights after every optimizer step.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
        """

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached; what is zero already stays zero."""
        check_weights(self.target, anatomy)
        self._mask.remember(anatomy)

    @property
    def _begin(self) -> int:
        return round(self.config.begin * self.schedule_steps)

    @property
    def _end(self) -> int:
        return round(self.config.end * self.schedule_steps)

    @property
    def due(self) -> bool:
        """Whether more goes at this step: at every interval of the ramp, and at its end."""
        on_the_way = self._begin < self.step < self._end
        return self.step == self._end or (
            on_the_way and (self.step - self._begin) % self.interval == 0
        )

    def gone(self, anatomy: Anatomy, at_end: bool = False) -> int:
        """How many of the dense model's weights are to be zero or removed now.

        Args:
            anatomy: the model's blocks.
            at_end: meet the target, wherever the schedule stands.
        """
        c, sparsity = self.config, self.target.sparsity
        if not at_end and self.step < self._end:
            sparsity = cubic_sparsity(self.step, self.schedule_steps, sparsity, c.begin, c.end)
        return math.ceil(sparsity * anatomy.dense_weights)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Push, hold what is zero at zero, and let more go when it is time."""
        self.step += 1
        self.push_(anatomy, step_size_of)
        self._mask.hold_()
        if self.due:
            self.mask_(anatomy, step_size_of, self.gone(anatomy))

    @torch.no_grad()
    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: meet the target, wherever the schedule stands."""
        self.mask_(anatomy, step_size_of, self.gone(anatomy, at_end=True))

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """The zeros of the new matrices are those of the old."""
        self._mask.remember(anatomy)

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """The target's text -> the weight sparsity of the model."""
        return {str(self.target): achieved(self.target, None, anatomy)}

    def state_dict(self) -> dict[str, Any]:
        """The step count; what is zero is read off the weights."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state["step"])
