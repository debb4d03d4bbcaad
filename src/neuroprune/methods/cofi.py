"""CoFi: gates on blocks, heads, neurons and hidden dimensions, a Lagrangian for the sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy, AnatomyError, Stream, stream_of
from neuroprune.config import CoFi, ConfigError
from neuroprune.core.allocation import poorest_to_budget
from neuroprune.core.gates import (
    deterministic_gate,
    expected_sparsity,
    hard_concrete,
    lagrangian,
    location_of,
    open_probability,
)
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.gates import GatedMethod, GateOptimizer
from neuroprune.methods.goals import Goal
from neuroprune.methods.poorest import goals_of
from neuroprune.methods.units import Block, heads_per_unit, unit_number

INITIAL_OPEN = 0.99  # probability of every gate when it begins to learn
LIMIT = math.log(100.0)  # of |log_alpha|: a gate beyond it would not come back
TIE = 1e-6  # weight of the open probability beside the gate, in the ranking
ROUNDING = 1e-9  # of a number of dimensions


class CoFiMethod(GatedMethod[CoFi]):
    """Coarse- and fine-grained gates whose expected sparsity is driven to a target.

    A head is multiplied by z_MHA * z_head and a neuron by z_FFN * z_int; with `hidden`, what a norm
    returns by z_hidden, the same in all layers.

    Args:
        config: target, schedule and learning rate.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408.
    """

    config_type: ClassVar = CoFi

    def __init__(self, config: CoFi, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.goal: Goal | None = None
        self.strengths = torch.zeros(2)
        self._block_of = torch.zeros(0, dtype=torch.int64)
        self._costs = torch.zeros(0)

    def gated(self, anatomy: Anatomy) -> tuple[Block, ...]:
        """Every block."""
        return tuple(anatomy.blocks())

    def gated_stream(self, anatomy: Anatomy) -> Stream | None:
        """The residual stream, where the configuration asks for gates on it.

        Raises:
            ConfigError: the family or the head does not declare what reads it.
        """
        if not self.config.hidden:
            return None
        try:
            stream = stream_of(anatomy)
        except AnatomyError as error:
            raise ConfigError(f"CoFi(hidden=True): {error}") from error
        if anatomy.lineage.plan.remove_inputs:
            raise ConfigError(
                "CoFi(hidden=True): single layers of this model have stopped reading some of their "
                "inputs, and a model loses those or hidden dimensions of all layers, not both. "
                "Start from a model that has lost none, or leave hidden out."
            )
        if anatomy.model is anatomy.root:
            raise ConfigError(
                f"CoFi(hidden=True): a {type(anatomy.model).__name__} hands its hidden states out, "
                "and what reads them would not become narrower with them. Attach to the model with "
                "its head."
            )
        return stream

    def prepare_(self, anatomy: Anatomy) -> GateOptimizer:
        """Measure the target; gates of units, then of blocks and of hidden dimensions."""
        (self.goal,) = goals_of(self.config.target, anatomy)
        sizes = torch.tensor([unit_number(b) for b in self.blocks], dtype=torch.int64)
        self._block_of = torch.arange(len(sizes)).repeat_interleave(sizes)
        price = [self._price(b) for b in self.blocks]
        self._costs = torch.tensor(price, dtype=torch.float32)[self._block_of]
        width = 0 if self.stream is None else self.stream.width
        number = len(self._block_of) + len(self.blocks) + width
        self.logits = self.initial(number, location_of(INITIAL_OPEN), anatomy)
        device = self.logits.device
        self._block_of, self._costs = self._block_of.to(device), self._costs.to(device)
        self.strengths = torch.zeros(2, device=device, requires_grad=True)
        return GateOptimizer(self.config.gate_learning_rate, [self.logits], [self.strengths])

    def _price(self, block: Block) -> float:
        """Weights that go with one unit."""
        assert self.goal is not None
        return self.goal.cost.curves[block.name].per_unit * heads_per_unit(block)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the units, of the blocks, and of the hidden dimensions."""
        units, blocks = len(self._block_of), len(self.blocks)
        return values[:units], values[units : units + blocks], values[units + blocks :]

    def _joint(self, values: Tensor) -> Tensor:
        """Product of each unit's own value and its block's."""
        units, blocks, _ = self._parts(values)
        return units * blocks[self._block_of]

    def _acting(self, gates: Tensor) -> Tensor:
        """What units are multiplied by, and then hidden dimensions."""
        return torch.cat([self._joint(gates), self._parts(gates)[2]])

    def draw(self, uniform: Tensor) -> Tensor:
        """Hard-concrete gates, those of a block drawn once for all of its units."""
        return self._acting(hard_concrete(self.logits, uniform))

    def fixed(self) -> Tensor:
        """The product of the deterministic gates, and those of the hidden dimensions."""
        return self._acting(deterministic_gate(self.logits))

    def expected(self) -> Tensor:
        """Expected structural sparsity, what was removed before `attach` included."""
        assert self.goal is not None
        units, blocks, hidden = self._parts(open_probability(self.logits))
        known = (self._block_of, self._costs, self.goal.whole)
        return expected_sparsity(units, blocks, *known, hidden if len(hidden) else None)

    def wanted(self) -> float:
        """The sparsity that the Lagrangian asks for: linear from `begin` to `warm`."""
        assert self.goal is not None
        start, target = self.goal.value(self.goal.start), self.goal.value(self.goal.kept)
        way = (self.config.warm - self.config.begin) * self.ramp.steps
        since = self.step - self.config.begin * self.ramp.steps
        share = min(max(since / way, 0.0), 1.0) if way > 0 else 1.0
        return start + (target - start) * share

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """The Lagrangian, while gates learn. It is a function of the gates alone."""
        if not self.learning:
            return torch.zeros(())
        return lagrangian(self.expected(), self.wanted(), self.strengths)

    def learn_(self, optimizer: GateOptimizer, drawn: Tensor, gradient: Tensor) -> None:
        """Gates descend on task loss + Lagrangian; the Lagrange multipliers ascend."""
        value = lagrangian(self.expected(), self.wanted(), self.strengths)
        objective = (drawn * gradient).sum() + value
        optimizer.step_(torch.autograd.grad(objective, [self.logits, self.strengths]))
        with torch.no_grad():
            self.logits.clamp_(-LIMIT, LIMIT)

    @torch.no_grad()
    def chosen(self, anatomy: Anatomy) -> dict[str, Tensor]:
        """The units of the smallest gates, so that the target is met exactly.

        They are not ranked by unit of cost, since the Lagrangian has weighed the costs already,
        and no block keeps a floor: one whose own gate is closed loses all of its units. Hidden
        dimensions go first, and a unit costs what is left of it in those that stay.
        """
        assert self.goal is not None
        width = len(self._parts(self.logits)[2])
        left = 1.0 - len(self.closed_dimensions(anatomy)) / width if width else 1.0
        logits = self.logits.double()
        # Gates are clipped, probabilities are not: they order what is closed or wide open.
        score = self._joint(deterministic_gate(logits)) + TIE * self._joint(
            open_probability(logits)
        )
        needed = left * self.goal.cost.kept(unit_counts(anatomy)) - self.goal.kept
        mask = poorest_to_budget(score.cpu(), left * self._costs.double().cpu(), needed)
        parts = mask.split([unit_number(b) for b in self.blocks])
        return {b.name: part for b, part in zip(self.blocks, parts, strict=True)}

    @torch.no_grad()
    def closed_dimensions(self, anatomy: Anatomy) -> tuple[int, ...]:
        """Hidden dimensions whose deterministic gate is closed.

        As many of them stay, the likeliest first, as the target leaves weights for, and at least
        as many dimensions in all as a head is wide.
        """
        logits = self._parts(self.logits)[2].double().cpu()
        if not len(logits) or self.goal is None:
            return ()
        width, whole = len(logits), self.goal.cost.kept(unit_counts(anatomy))
        needed = math.ceil(width * self.goal.kept / whole - ROUNDING) if whole else width
        floor = max(needed, *(b.head_dim for b in anatomy.attentions), 1)
        closed = (deterministic_gate(logits) == 0).nonzero().squeeze(1)
        order = open_probability(logits)[closed].argsort(stable=True)
        return tuple(closed[order][: max(width - floor, 0)].tolist())

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """The target's text -> the structural sparsity of the model."""
        if self.goal is None:
            return {}
        return {str(self.goal.target): anatomy.structural_sparsity}

    def state_dict(self) -> dict[str, Any]:
        """Gates, Lagrange multipliers, their moments, and the goal."""
        goal = {} if self.goal is None else self.goal.to_dict()
        return {**super().state_dict(), "goal": goal}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        if self.goal is not None:
            self.goal = Goal.from_dict(self.goal.target, state["goal"])
        super().load_state_dict(state)
