"""Targets as goals: what the model costs now, what it may cost in the end."""

from __future__ import annotations

from dataclasses import dataclass

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Structural, Target
from neuroprune.control.cost import CostModel, Curve


@dataclass(frozen=True)
class Goal:
    """A target measured on a model.

    Args:
        target: what was asked for.
        cost: cost of the model by its numbers of units.
        start: cost when training begins.
        kept: cost when it ends.
    """

    target: Target
    cost: CostModel
    start: float
    kept: float


def unit_counts(anatomy: Anatomy) -> dict[str, int]:
    """Units of every block: query heads and neurons.

    Args:
        anatomy: the model's blocks.
    """
    heads = {b.name: b.num_heads for b in anatomy.attentions}
    return heads | {b.name: b.d_ff for b in anatomy.mlps}


def weight_cost(anatomy: Anatomy) -> CostModel:
    """Prunable weights: those of q, k, v, o, up, gate and down, no biases.

    Args:
        anatomy: the model's blocks.
    """
    curves = {b.name: Curve.linear(b.num_heads, b.weights_per_head) for b in anatomy.attentions}
    curves |= {b.name: Curve.linear(b.d_ff, b.weights_per_neuron) for b in anatomy.mlps}
    return CostModel("weights", 0.0, curves)


def goal_of(target: Target, anatomy: Anatomy) -> Goal:
    """What a target means for a model.

    Args:
        target: the target.
        anatomy: the model's blocks, as training begins.

    Raises:
        ConfigError: it cannot be reached; the message gives the range that can.
    """
    if isinstance(target, Structural):
        cost = weight_cost(anatomy)
        start = cost.kept(unit_counts(anatomy))
        return Goal(target, cost, start, (1.0 - target.sparsity) * anatomy.dense_weights)
    raise ConfigError(f"unknown target {target!r}.")
