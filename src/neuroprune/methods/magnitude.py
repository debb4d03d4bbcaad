"""Gradual magnitude pruning, of single weights or of whole units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Magnitude, Structural, Structure, Weights
from neuroprune.control.schedule import Ramp
from neuroprune.core.allocation import lowest_scores
from neuroprune.core.importance import square_per_unit
from neuroprune.methods.goals import achieved, check_weights
from neuroprune.methods.masks import ZeroMask, magnitude
from neuroprune.methods.method import Method, StepSizeOf, schedule_length, step_sizes
from neuroprune.methods.units import Block, plan_of, unit_number, unit_weights
from neuroprune.plan import ShrinkPlan


class MagnitudeMethod(Method[Magnitude]):
    """Remove what is smallest, on a cubic schedule.

    "weights": every `every` steps of the ramp and at its end the smallest trained weights of the
    whole model are masked; a masked weight stays zero. "units": then, and at `prune()`, the heads
    and neurons of the smallest mean squared weight are removed until the schedule's structural
    sparsity is reached; every layer keeps one of each.

    Args:
        config: target, structure and schedule.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Zhu and Gupta (2017), arXiv 1710.01878.
    """

    config_type: ClassVar = Magnitude

    def __init__(self, config: Magnitude, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        steps = schedule_length(total_steps, "Magnitude follows a schedule and")
        self.ramp: Ramp = Ramp(config.begin, config.end, steps)
        self.step = 0
        self._mask = ZeroMask()

    @property
    def settled_at(self) -> int:
        """The step at which the schedule ends."""
        return max(self.ramp.last, 1)

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Take what is zero already as masked.

        Raises:
            ConfigError: single weights are masked, and the optimizer has no learning rates or does
                not train enough of them; or units go, and the target takes the last of a block.
        """
        if self.config.structure is Structure.WEIGHTS:
            check_weights(Weights(self.config.target), anatomy, step_sizes(optimizer))
        else:
            self._check_floor(anatomy)
        self._remember_zeros(anatomy)

    def _check_floor(self, anatomy: Anatomy) -> None:
        least = sum(unit_weights(block) for block in anatomy.blocks() if unit_number(block))
        most = 1.0 - least / anatomy.dense_weights
        if self.config.target > most:
            raise ConfigError(
                f"Magnitude leaves every block its best unit, which of this model is at most "
                f"{most:.3f} removed; got target={self.config.target}. Ask for less, or use a "
                "method without that floor, such as L1(target=...)."
            )

    @property
    def _due(self) -> bool:
        """Whether something goes at this step."""
        on_the_way = self.ramp.first < self.step < self.settled_at
        return self.step == self.settled_at or (on_the_way and self.step % self.config.every == 0)

    def scheduled(self) -> float:
        """The sparsity that the schedule asks for now."""
        return self.config.target * self.ramp.progress(self.step)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Hold masked weights at zero, and mask more when it is time."""
        self.step += 1
        if self.config.structure is not Structure.WEIGHTS:
            return
        self._mask.hold_()
        if self._due:
            gone = round(self.scheduled() * anatomy.dense_weights)
            self._mask.grow_(anatomy, step_size_of, gone, magnitude)

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """Units that go in the middle of an epoch: every `every` steps of the ramp, at its end."""
        return self.select(anatomy) if self._due else ShrinkPlan()

    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """The units of the smallest mean squared weight, as far as the schedule says.

        Args:
            anatomy: the model's blocks.
            budget: share of the way to the target, in place of what the schedule says.
        """
        if self.config.structure is not Structure.UNITS:
            return super().select(anatomy, budget)
        goal = self.scheduled() if budget is None else budget * self.config.target
        removed = anatomy.dense_weights - anatomy.kept_weights
        needed = round(goal * anatomy.dense_weights) - removed
        blocks = list(anatomy.blocks())
        scores = [_with_floor(_scores(block)) for block in blocks]
        costs = [
            torch.full(s.shape, unit_weights(b), dtype=torch.int64)
            for b, s in zip(blocks, scores, strict=True)
        ]
        gone = lowest_scores(torch.cat(scores).cpu(), torch.cat(costs), needed)
        parts = gone.split([len(s) for s in scores])
        return plan_of(anatomy, {b.name: part for b, part in zip(blocks, parts, strict=True)})

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """Meet the target, wherever the schedule stands."""
        units = self.config.structure is Structure.UNITS
        return self.select(anatomy, 1.0 if units else None)

    @torch.no_grad()
    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: meet the target in weights, and set small ones to zero."""
        if self.config.structure is Structure.WEIGHTS:
            gone = math.ceil(self.config.target * anatomy.dense_weights)
            self._mask.grow_(anatomy, step_size_of, gone, magnitude)
        super().zero_small_(anatomy, step_size_of)

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """The target as text -> the structural or weight sparsity of the model."""
        share = self.config.target
        if self.config.structure is Structure.UNITS:
            return {str(Structural(share)): anatomy.structural_sparsity}
        return {str(Weights(share)): achieved(Weights(share), None, anatomy)}

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Masked weights are zero at this point, so the masks of the new matrices can be read."""
        self._remember_zeros(anatomy)

    def _remember_zeros(self, anatomy: Anatomy) -> None:
        if self.config.structure is Structure.WEIGHTS:
            self._mask.remember(anatomy)

    def state_dict(self) -> dict[str, Any]:
        """The step count; masks are read off the weights."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state["step"])


def _scores(block: Block) -> Tensor:
    *fan_in, fan_out = block.matrices()
    return square_per_unit(fan_in, [fan_out], unit_number(block)) / max(unit_weights(block), 1)


def _with_floor(scores: Tensor) -> Tensor:
    """The best unit of every block stays."""
    if scores.numel():
        scores[scores.argmax()] = torch.inf
    return scores
