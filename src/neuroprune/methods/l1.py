"""The paper's baseline: plain l1 on the prunable matrices, with or without a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import L1, Apply, Config, Weights
from neuroprune.core.penalties import l1_penalty, l1_penalty_grad
from neuroprune.core.proximal import soft_threshold_
from neuroprune.core.units import mean_absolute_per_unit
from neuroprune.methods.masks import magnitude
from neuroprune.methods.method import (
    Method,
    StepSizeOf,
    add_grad_,
    common_step_size,
    trained,
    warn_of_rounding,
)
from neuroprune.methods.ranked import RankedUnits
from neuroprune.methods.ranked_weights import RankedWeights
from neuroprune.methods.units import unit_number


class L1Penalty(Method[L1]):
    """strength * sum |w| over q, k, v, o, up, gate, down, in the gradient or as a proximal step.

    Args:
        config: strength and how the penalty acts.
        total_steps: optimizer steps of the whole training, where there is a target.
    """

    config_type: ClassVar = L1

    @property
    def acting(self) -> bool:
        """Whether the penalty acts at this step."""
        return True

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Warn where proximal steps get lost."""
        super().setup(anatomy, optimizer)
        if self.config.apply is Apply.PROX:
            warn_of_rounding(anatomy, optimizer, self.config.strength)

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """strength * sum |w|, while it acts."""
        strength = self.config.strength if self.acting else 0.0
        return strength * torch.stack([l1_penalty(w) for w in anatomy.matrices()]).sum()

    @torch.no_grad()
    def add_penalty_grad_(self, anatomy: Anatomy, scale: float) -> None:
        """scale * strength * sign(w)."""
        if self.config.apply is Apply.PENALTY and self.config.strength and self.acting:
            for w in anatomy.matrices():
                if w.requires_grad:
                    add_grad_(w, l1_penalty_grad(w), scale * self.config.strength)

    @torch.no_grad()
    def push_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Soft thresholding by learning rate * strength."""
        if self.config.apply is Apply.PROX and self.acting:
            for w in trained(tuple(anatomy.matrices()), step_size_of):
                t = common_step_size((w,), step_size_of) * self.config.strength
                soft_threshold_(w.data, t)


class L1Method(L1Penalty):
    """task loss + strength * sum |w| over q, k, v, o, up, gate, down; no heads are removed.

    Args:
        config: strength, eps and how the penalty acts.
        total_steps: not needed.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 4 (baselines).
    """

    @classmethod
    def variant(cls, config: Config) -> type[Method]:
        """The paper's baseline, or what goes until a target is met: units or single weights."""
        if not isinstance(config, L1) or config.target is None:
            return cls
        return L1Weights if isinstance(config.target[0], Weights) else L1Units

    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Soft thresholding by learning rate * strength."""
        self.push_(anatomy, step_size_of)


class L1Units(L1Penalty, RankedUnits[L1]):
    """l1 until the ramp ends; the units of the least mean |w| go, until a target is met.

    Args:
        config: strength, how the penalty acts, and a target of size or speed.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    scores_are_means = True

    @property
    def acting(self) -> bool:
        """Until the last cut; the rest is recovery."""
        return self.step < self.ramp.last

    def scores(self, anatomy: Anatomy) -> Mapping[str, Tensor]:
        """Mean |w| over all weights of a unit, in and out."""
        found = {}
        for block in anatomy.blocks():
            *rows, column = block.matrices()
            found[block.name] = mean_absolute_per_unit(rows, [column], unit_number(block))
        return found


class L1Weights(L1Penalty, RankedWeights[L1]):
    """l1 until the ramp ends; the weights of the least |w| are masked, until a target is met.

    Args:
        config: strength, how the penalty acts, and a target of `Weights`.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    @property
    def acting(self) -> bool:
        """Until the last weights are masked; the rest is recovery."""
        return self.step < self.ramp.last

    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Those of the smallest magnitude, held at zero from now on."""
        self._mask.grow_(anatomy, step_size_of, gone, magnitude)
