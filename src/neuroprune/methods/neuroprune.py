"""NeuroPrune, to be read beside the paper (Dhurandhar et al., arXiv 2404.01306, section 3).

Three pressures on a network that is being fine-tuned:

1. *Preferential attachment* on the MLPs: a neuron's weights are pushed the harder, the fewer
   connections it has left. Rich neurons stay, poor ones die.
2. A *group l_1^(1/2)* penalty on the rows of [Q, K, V]: an input dimension is read by all heads or
   by none.
3. After every epoch, *redundant heads* give way to a head that dominates them and are removed.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import Apply, Config, NeuroPrune
from neuroprune.core.connectivity import connectivity
from neuroprune.core.penalties import (
    attention_penalty,
    attention_row_weight,
    mlp_penalty,
    mlp_penalty_grad,
)
from neuroprune.core.proximal import group_l1_half_prox_, soft_threshold_
from neuroprune.core.redundancy import find_dominating, merge_map, similarity_matrix
from neuroprune.methods.method import Method, StepSizeOf, add_grad_, common_step_size, trained
from neuroprune.methods.target import TargetMethod
from neuroprune.plan import ShrinkPlan


class NeuroPruneMethod(Method[NeuroPrune]):
    """task loss + alpha sum [R_mlp(L_in) + R_mlp(L_out)] + beta sum R_attn(A), and head removal.

    Args:
        config: alpha, beta, theta, eps and how the penalties act.
        total_steps: not needed.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3, Algorithms 1 to 3.
    """

    config_type: ClassVar = NeuroPrune

    @classmethod
    def variant(cls, config: Config) -> type[Method]:
        """The paper's mode, or target mode where a target is given."""
        asks = isinstance(config, NeuroPrune) and config.target is not None
        return TargetMethod if asks else cls

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """In proximal mode, see that q, k and v of a layer have one learning rate.

        Raises:
            ConfigError: they have not.
        """
        if self.config.apply is Apply.PROX:
            rates = {p: float(g["lr"]) for g in optimizer.param_groups for p in g["params"]}
            for attention in anatomy.attentions:
                for group in attention.input_groups():
                    parts = trained(group, rates.get)
                    if parts:
                        common_step_size(parts, rates.get)

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """alpha * sum of R_mlp over the MLP matrices + beta * sum of R_attn over the row groups."""
        c = self.config
        mlp = [
            mlp_penalty(w, c.eps)
            for block in anatomy.mlps
            for w in block.matrices()
            if w.numel()  # a layer without neurons has no rows to count
        ]
        attention = [
            attention_penalty(*(w.T for w in group))
            for block in anatomy.attentions
            for group in block.input_groups()
        ]
        total = attention[0].new_zeros(())
        return total + c.alpha * sum(mlp, total) + c.beta * sum(attention, total)

    @torch.no_grad()
    def add_penalty_grad_(self, anatomy: Anatomy, scale: float) -> None:
        """The closed-form gradient, one scratch matrix at a time; nothing in proximal mode."""
        c = self.config
        if c.apply is not Apply.PENALTY:
            return
        for block in anatomy.mlps:
            for w in block.matrices():
                if c.alpha and w.requires_grad and w.numel():
                    add_grad_(w, mlp_penalty_grad(w, c.eps), scale * c.alpha)
        for attention in anatomy.attentions:
            for group in attention.input_groups():
                if not c.beta:
                    continue
                half = attention_row_weight(*(w.T for w in group))
                for w in group:
                    if w.requires_grad:
                        gradient = w.detach().sign().mul_(half.to(w.dtype))
                        add_grad_(w, gradient, scale * c.beta)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """The exact proximal map of each penalty, with the learning rate as the step size."""
        c = self.config
        if c.apply is not Apply.PROX:
            return
        for block in anatomy.mlps:
            for w in trained(block.matrices(), step_size_of):
                t = common_step_size((w,), step_size_of) * c.alpha
                if t and w.numel():
                    soft_threshold_(w.data, (t / connectivity(w, c.eps)).unsqueeze(1))
        for attention in anatomy.attentions:
            for group in attention.input_groups():
                parts = trained(group, step_size_of)
                t = common_step_size(parts, step_size_of) * c.beta if parts else 0.0
                if t:
                    group_l1_half_prox_([w.data.T for w in parts], t)

    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """Algorithm 2: in every attention layer, merge each dominated head into its dominator."""
        return ShrinkPlan(
            merge_heads={
                block.name: merge_map(
                    find_dominating(similarity_matrix(block.heads(), self.config.theta))
                )
                for block in anatomy.attentions
                if block.num_heads > 1
            }
        )
