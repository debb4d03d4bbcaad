"""The paper's baseline: plain l1 on the prunable matrices."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.config import L1, Apply
from neuroprune.core.penalties import l1_penalty, l1_penalty_grad
from neuroprune.core.proximal import soft_threshold_
from neuroprune.methods.method import Method, StepSizeOf, add_grad_, common_step_size, trained


class L1Method(Method[L1]):
    """task loss + strength * sum |w| over q, k, v, o, up, gate, down; no heads are removed.

    Args:
        config: strength, eps and how the penalty acts.
        total_steps: not needed.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 4 (baselines).
    """

    config_type: ClassVar = L1

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """strength * sum |w|."""
        return self.config.strength * torch.stack([l1_penalty(w) for w in anatomy.matrices()]).sum()

    @torch.no_grad()
    def add_penalty_grad_(self, anatomy: Anatomy, scale: float) -> None:
        """scale * strength * sign(w)."""
        if self.config.apply is Apply.PENALTY and self.config.strength:
            for w in anatomy.matrices():
                if w.requires_grad:
                    add_grad_(w, l1_penalty_grad(w), scale * self.config.strength)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Soft thresholding by learning rate * strength."""
        if self.config.apply is Apply.PROX:
            for w in trained(tuple(anatomy.matrices()), step_size_of):
                t = common_step_size((w,), step_size_of) * self.config.strength
                soft_threshold_(w.data, t)
