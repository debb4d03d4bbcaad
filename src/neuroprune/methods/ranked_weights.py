"""Single weights that go by a ranking, until a target of `Weights` is met: what rivals share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import NeuroPrune, Weights
from neuroprune.control.schedule import Ramp, cut_interval
from neuroprune.methods.goals import achieved, check_weights
from neuroprune.methods.masks import ZeroMask
from neuroprune.methods.method import Method, StepSizeOf, schedule_length, step_sizes
from neuroprune.plan import ShrinkPlan
from neuroprune.targeted import Budgeted

RankedT = TypeVar("RankedT", bound=Budgeted | NeuroPrune)


class RankedWeights(Method[RankedT]):
    """The lowest-ranked weights of the whole model become zero, along a cubic schedule.

    What is zero stays zero. Units that can do nothing any more, such as those that have lost all of
    their outgoing weights, are removed when training ends, which may remove a little more than was
    asked. A subclass supplies `mask_`, and may push weights in `push_`.

    Args:
        config: with a target of `Weights`, begin and end.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    def __init__(self, config: RankedT, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = f"{type(config).__name__} meets its target along a schedule and"
        ramp = Ramp(*config.span, schedule_length(total_steps, why))
        self.target: Weights = config.target[0]
        self.ramp: Ramp = ramp.every(cut_interval(self.target.sparsity, ramp.length))
        self.step = 0
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
        """Refuse what cannot be reached; what is zero already stays zero.

        Raises:
            ConfigError: the target is out of reach, or the optimizer has no learning rates.
        """
        check_weights(self.target, anatomy, step_sizes(optimizer))
        self._mask.remember(anatomy)

    def gone(self, anatomy: Anatomy, at_end: bool = False) -> int:
        """How many of the dense model's weights are to be zero or removed now.

        Args:
            anatomy: the model's blocks.
            at_end: meet the target, wherever the schedule stands.
        """
        way = 1.0 if at_end else self.ramp.progress(self.step)
        return math.ceil(way * self.target.sparsity * anatomy.dense_weights)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Push, hold what is zero at zero, and let more go when it is time."""
        self.step += 1
        self.push_(anatomy, step_size_of)
        self._mask.hold_()
        if self.ramp.is_due(self.step):
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
