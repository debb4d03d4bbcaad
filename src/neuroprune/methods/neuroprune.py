"""NeuroPrune, to be read beside the paper (Dhurandhar et al., arXiv 2404.01306, section 3).

Three pressures on a network that is being fine-tuned:

1. *Preferential attachment* on the MLPs: a neuron's weights are pushed the harder, the fewer
   connections it has left. Rich neurons stay, poor ones die.
2. A *group l_1^(1/2)* penalty on the rows of [Q, K, V]: an input dimension is read by all heads or
   by none.
3. After every epoch, *redundant heads* give way to a head that dominates them and are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, AttentionBlock
from neuroprune.config import Apply, Config, Dominating, NeuroPrune, Redundancy, Weights
from neuroprune.core.connectivity import connectivity
from neuroprune.core.dominating import check_solver
from neuroprune.core.penalties import (
    attention_penalty,
    attention_row_weight,
    mlp_penalty,
    mlp_penalty_grad,
)
from neuroprune.core.proximal import group_l1_half_prox_, soft_threshold_
from neuroprune.core.redundancy import find_dominating, merge_map, similarity_matrix
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.method import (
    Method,
    StepSizeOf,
    add_grad_,
    common_step_size,
    step_sizes,
    trained,
    warn_of_rounding,
)
from neuroprune.methods.redundant_heads import (
    absorb_heads_,
    check_circuits,
    redundant_heads,
    whole_groups,
)
from neuroprune.methods.target import TargetMethod
from neuroprune.methods.zeros import ZerosMethod
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
        if not isinstance(config, NeuroPrune) or config.target is None:
            return cls
        return ZerosMethod if isinstance(config.target[0], Weights) else TargetMethod

    def __init__(self, config: NeuroPrune, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.moments = FeatureMoments()

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """In proximal mode, see that q, k and v of a layer have one learning rate.

        For redundancy by function, begin to watch what enters the output projections.

        Raises:
            ConfigError: they have not; or circuits are compared in a rotary attention.
            ImportError: `dominating="exact"` without scipy.
        """
        if self.config.dominating is Dominating.EXACT:
            check_solver()
        check_circuits(self._how, anatomy)
        if self.config.apply is Apply.PROX:
            warn_of_rounding(anatomy, optimizer, self.config.alpha, self.config.beta)
            rates = step_sizes(optimizer)
            for attention in anatomy.attentions:
                for group in attention.input_groups():
                    parts = trained(group, rates.get)
                    if parts:
                        common_step_size(parts, rates.get)
        if self._how is not Redundancy.WEIGHTS:
            self.moments.attach(anatomy, mlps=False)

    def observe_(self, anatomy: Anatomy) -> None:
        """For redundancy by function, see that there is something to see.

        Raises:
            ConfigError: no forward pass of the step was in training mode.
        """
        self.moments.check_seen(f'redundancy="{self._how}"')

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
        super().select(anatomy, budget)
        return ShrinkPlan(merge_heads={b.name: self._merges(b) for b in anatomy.attentions})

    def _merges(self, block: AttentionBlock) -> dict[int, int]:
        c = self.config
        if self._how is Redundancy.WEIGHTS and c.dominating is Dominating.PAPER:
            if block.num_heads < 2:
                return {}
            merges = merge_map(find_dominating(similarity_matrix(block.heads(), c.theta)))
            return whole_groups(block, merges)
        gram = self.moments.gram(block.o_proj)
        if self._how is not Redundancy.WEIGHTS and gram is None:
            return {}  # nothing was seen since the last cut
        return redundant_heads(block, self._how, c.theta, Dominating(c.dominating), gram)

    @property
    def _how(self) -> Redundancy:
        return Redundancy(self.config.redundancy or Redundancy.WEIGHTS)

    def before_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """By function, the dominator absorbs in least squares; the paper's sum is surgery's."""
        if self._how is Redundancy.WEIGHTS:
            return
        for block in anatomy.attentions:
            gram = self.moments.gram(block.o_proj)
            if block.name in plan.merge_heads and gram is not None:
                absorb_heads_(block, plan.merge_heads[block.name], gram)

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Measure anew: the features have changed."""
        self.moments.forget()

    def state_dict(self) -> dict[str, Any]:
        """For redundancy by function, the moments; nothing else is not in the weights."""
        return {} if self._how is Redundancy.WEIGHTS else {"moments": self.moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the saved moments."""
        if self._how is not Redundancy.WEIGHTS:
            self.moments.load_state_dict(state["moments"])

    def teardown(self) -> None:
        """Stop watching."""
        self.moments.remove()
