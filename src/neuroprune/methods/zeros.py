"""Target mode for weight sparsity: preferential attachment of single weights, with one knob."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, NeuroPrune, Weights
from neuroprune.control.schedule import cubic_sparsity, cut_interval
from neuroprune.core.connectivity import connectivity
from neuroprune.methods.goals import check_weights
from neuroprune.methods.masks import ZeroMask, magnitude
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.plan import ShrinkPlan

_NEEDS_UNITS = ("snapshots", "uniform", "repair", "redundancy")


class ZerosMethod(Method[NeuroPrune]):
    """Single weights go until a share of the dense weights is zero or removed.

    The paper pushes a weight of an MLP row by lambda / c_i, so that with a common strength the
    weights with |w| * c_i below a level are gone. Here the level is what the schedule needs:

        keep w_ij   where   |w_ij| * c_i > tau,    tau: so many weights are zero as scheduled

    c_i is the row's connectivity in MLP matrices and 1 in attention. Rows that lost weights lose
    more, and neurons and heads that have lost all are removed physically when training ends.

    Args:
        config: with a target of `Weights`.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing, or a setting that is about whole units is given.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.1; the level instead of a
    strength is that of iterative hard thresholding.
    """

    config_type: ClassVar = NeuroPrune

    def __init__(self, config: NeuroPrune, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = "a target is reached along a schedule, which"
        self.schedule_steps = schedule_length(total_steps, why)
        given = [name for name in _NEEDS_UNITS if getattr(config, name)]
        if given:
            raise ConfigError(
                f"NeuroPrune.{', '.join(given)} are about whole heads and neurons, a weight "
                "sparsity about single weights. Use a structural target, such as target=0.8."
            )
        self.target: Weights = config.target[0]
        self.step = 0
        ramp = (config.end - config.begin) * self.schedule_steps
        self.interval = cut_interval(self.target.sparsity, ramp)
        self._mask = ZeroMask()

    @property
    def eps(self) -> float:
        """Nothing more is set to zero when training ends."""
        return 0.0

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached; what is zero already stays zero."""
        check_weights(self.target, anatomy)
        self._mask.remember(anatomy)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Hold what is zero at zero, and let more go when it is time."""
        self.step += 1
        self._mask.hold_()
        begin, end = (round(x * self.schedule_steps) for x in (self.config.begin, self.config.end))
        since = self.step - begin
        if 0 < since and self.step <= end and (since % self.interval == 0 or self.step == end):
            self._mask_(anatomy, step_size_of, self._scheduled())

    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: meet the target, wherever the schedule stands."""
        self._mask_(anatomy, step_size_of, self.target.sparsity)

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """The zeros of the new matrices are those of the old."""
        self._mask.remember(anatomy)

    def _scheduled(self) -> float:
        c = self.config
        steps = self.schedule_steps
        return cubic_sparsity(self.step, steps, self.target.sparsity, c.begin, c.end)

    def _mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, sparsity: float) -> None:
        attaching = {w for block in anatomy.mlps for w in block.matrices()}

        def level(weight: Tensor) -> Tensor:
            if weight not in attaching:
                return magnitude(weight)
            c = connectivity(weight, self.config.eps).float()
            return magnitude(weight) * c.unsqueeze(1)

        gone = math.ceil(sparsity * anatomy.dense_weights)
        self._mask.grow_(anatomy, step_size_of, gone, level)

    def state_dict(self) -> dict[str, Any]:
        """The step count; what is zero is read off the weights."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state["step"])
