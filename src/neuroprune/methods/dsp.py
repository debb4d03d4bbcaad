"""Differentiable subset pruning: a given number of heads, chosen by a relaxed top-k."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.choices import Training
from neuroprune.config import DSP, ConfigError, Heads
from neuroprune.core.gates import gumbel, relaxed_top_k, top_k
from neuroprune.methods.gates import GatedMethod, GateOptimizer
from neuroprune.methods.goals import check_heads
from neuroprune.methods.units import Block, heads_per_unit, unit_number


class DSPMethod(GatedMethod[DSP]):
    """One logit per head of the whole model; `heads` of them stay.

    Args:
        config: number of heads, mode, schedule and learning rate.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Li, Cotterell and Sachan (2021), arXiv 2108.04657.
    """

    config_type: ClassVar = DSP

    def __init__(self, config: DSP, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.kept = 0  # units: heads, or groups that share keys and values

    def gated(self, anatomy: Anatomy) -> tuple[Block, ...]:
        """Every attention."""
        return anatomy.attentions

    def prepare_(self, anatomy: Anatomy) -> GateOptimizer:
        """Refuse a number of heads that the model cannot keep; all heads begin alike."""
        check_heads(Heads(self.config.heads), anatomy)
        sizes = {heads_per_unit(b) for b in self.blocks}
        if len(sizes) > 1:
            raise ConfigError(
                "DSP chooses a number of units that are equally large; expected key/value heads "
                f"shared by equally many query heads in all attentions, got {sorted(sizes)}. Use "
                f"NeuroPrune(target=Heads({self.config.heads}))."
            )
        self.kept = self.config.heads // max(sizes, default=1)
        self.logits = self.initial(sum(unit_number(b) for b in self.blocks), 0.0, anatomy)
        return GateOptimizer(self.config.gate_learning_rate, [self.logits])

    @property
    def temperature(self) -> float:
        """Of the relaxed top-k at this step: it falls exponentially from `begin` to `end`.

        tau(t) = tau_start * (tau_end / tau_start)^((t - t_begin) / (t_end - t_begin))
        """
        c = self.config
        share = min(max((self.step - self.ramp.first) / self.ramp.length, 0.0), 1.0)
        return float(c.tau_start * (c.tau_end / c.tau_start) ** share)

    def draw(self, uniform: Tensor) -> Tensor:
        """The relaxed top-k of the logits with Gumbel noise."""
        return relaxed_top_k(self.logits + gumbel(uniform), self.kept, self.temperature)

    def fixed(self) -> Tensor:
        """The hard top-k of the logits: the model as it would be cut now."""
        return top_k(self.logits, self.kept)

    def observe_(self, anatomy: Anatomy) -> None:
        """Pipelined: no weight moves while the gates learn.

        The gradients are taken away, not set to zero: momentum and weight decay rest, too.
        """
        if self.config.mode is Training.PIPELINED and self.learning:
            for parameter in anatomy.model.parameters():
                parameter.grad = None

    def learn_(self, optimizer: GateOptimizer, drawn: Tensor, gradient: Tensor) -> None:
        """Logits descend on the task loss."""
        optimizer.step_(torch.autograd.grad((drawn * gradient).sum(), [self.logits]))

    @torch.no_grad()
    def chosen(self, anatomy: Anatomy) -> dict[str, Tensor]:
        """All heads but those of the largest logits."""
        parts = (self.fixed() == 0).cpu().split([unit_number(b) for b in self.blocks])
        return {b.name: part for b, part in zip(self.blocks, parts, strict=True)}

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """What was asked for -> the heads of the model."""
        heads = float(sum(b.num_heads for b in anatomy.attentions))
        return {str(Heads(self.config.heads)): heads}
