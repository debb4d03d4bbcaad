"""Targets as goals: what the model costs now, what it may cost in the end."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy
from neuroprune.config import (
    ConfigError,
    Flops,
    Heads,
    Latency,
    Parameters,
    Structural,
    Target,
    Weights,
)
from neuroprune.control.cost import CostModel, Curve, cheapest_and_dearest
from neuroprune.methods.costs import (
    dense_flops,
    flops_cost,
    parameter_cost,
    unit_counts,
    weight_cost,
)
from neuroprune.methods.latency import dense_times, measure_latency
from neuroprune.topology.sparsity import sparsity

_ROUNDING = 1e-9  # relative: what summing in another order may change


@dataclass(frozen=True)
class Goal:
    """A target measured on a model.

    Args:
        target: what was asked for.
        cost: cost of the model by its numbers of units.
        start: cost when training begins.
        kept: cost when it ends.
        whole: cost that the target's share is a share of.
    """

    target: Target
    cost: CostModel
    start: float
    kept: float
    whole: float

    def share_kept(self, dense: Mapping[str, int]) -> float:
        """Share of what can be removed of the dense model that is kept in the end.

        Args:
            dense: block name -> units of the dense model.
        """
        removable = self.cost.kept(dense) - self.cost.fixed
        return (self.kept - self.cost.fixed) / removable if removable > 0 else 1.0

    @property
    def is_straight(self) -> bool:
        """Whether every unit of a block costs the same."""
        return all(len(curve.units) == 2 for curve in self.cost.curves.values())

    @property
    def slack(self) -> float:
        """What summing in another order may change."""
        return _ROUNDING * self.whole

    @property
    def allowed(self) -> float:
        """The most that the model may cost in the end."""
        return self.kept + self.slack

    def scheduled(self, progress: float) -> float:
        """Cost to keep when this much of the way is done.

        Args:
            progress: in [0, 1].
        """
        return self.start - (self.start - self.kept) * progress

    def value(self, cost: float) -> float:
        """A cost in the target's own unit: sparsity, parameters or share kept.

        Args:
            cost: in the unit of the cost model.
        """
        if isinstance(self.target, Parameters | Heads):
            return cost
        return 1.0 - cost / self.whole if isinstance(self.target, Structural) else cost / self.whole

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form without the target; `from_dict` reads it back.

        A training that is resumed needs it: the model it goes on with is not the one that the
        target was measured on, and a clock does not say the same twice.
        """
        return {
            "cost": self.cost.to_dict(),
            "start": self.start,
            "kept": self.kept,
            "whole": self.whole,
        }

    @classmethod
    def from_dict(cls, target: Target, data: Mapping[str, Any]) -> Goal:
        """Read what `to_dict` wrote.

        Args:
            target: the target it was measured for.
            data: that dictionary.
        """
        cost = CostModel.from_dict(data["cost"])
        return cls(target, cost, data["start"], data["kept"], data["whole"])


def measured(target: Target, anatomy: Anatomy, model: nn.Module) -> Goal:
    """What a target means for a model, whether it can be reached or not: `check_reachable`.

    Shares are of the dense model, also where the model was cut before. Weights and operations of
    the dense model are counted. Its time is taken on a twin, in turns with the model as it is.

    Args:
        target: of size or speed.
        anatomy: the model's blocks, as training begins.
        model: the whole model, of which the blocks' root may be a part.

    Raises:
        ConfigError: it is a latency, and the machine is too noisy to measure one.
    """
    counts = unit_counts(anatomy)
    if isinstance(target, Structural):
        cost = weight_cost(anatomy)
        whole = float(anatomy.dense_weights)
        kept = (1.0 - target.sparsity) * whole
    elif isinstance(target, Parameters):
        cost = parameter_cost(anatomy, model)
        whole = cost.kept(counts)
        kept = float(target.count)
    elif isinstance(target, Flops | Latency):
        shape = target.batch, target.length
        is_time = isinstance(target, Latency)
        cost = (measure_latency if is_time else flops_cost)(model, anatomy, *shape)
        whole = cost.kept(counts)
        if is_time and anatomy.lineage.plan:
            whole *= dense_times(model, anatomy, *shape)
        elif anatomy.lineage.plan:
            whole = dense_flops(model, anatomy, *shape)
        kept = target.kept * whole
    else:
        raise TypeError(f"{target} is no cost of units; the caller handles it.")
    return Goal(target, cost, cost.kept(counts), kept, whole)


def check_weights(target: Weights, anatomy: Anatomy, trained: Container[Tensor]) -> None:
    """Refuse a weight sparsity below what was removed before, or above what is trained.

    Args:
        target: the target.
        anatomy: the model's blocks.
        trained: the parameters that the optimizer trains; others keep their weights.

    Raises:
        ConfigError: with the range.
    """
    removed = sparsity(anatomy).structural_sparsity
    fixed = sum(int(w.count_nonzero()) for w in anatomy.matrices() if w not in trained)
    most = 1.0 - fixed / anatomy.dense_weights
    if removed - _ROUNDING <= target.sparsity <= most + _ROUNDING:
        return
    upto = f"to {_inward(most, up=False):g}" if fixed else "up to, but not including, 1"
    why = "that share and more was removed before"
    if target.sparsity > most:
        why = f"{fixed / anatomy.dense_weights:.1%} are in layers that the optimizer does not train"
    raise ConfigError(
        f"Weights({target.sparsity:g}) cannot be reached with this model, of whose weights {why}: "
        f"reachable is {_inward(removed, up=True):g} {upto}."
    )


def check_heads(target: Heads, anatomy: Anatomy) -> None:
    """Refuse a number of heads that the model does not have, or that would split a group.

    Args:
        target: the target.
        anatomy: the model's blocks.

    Raises:
        ConfigError: with the range.
    """
    choices = _head_choices(anatomy)
    fewest, most = sum(c[0] for c in choices), sum(c[-1] for c in choices)
    free = [Curve.linear(0, 0.0)] * len(choices)
    if math.isfinite(cheapest_and_dearest(free, choices, target.count)[0]):
        return
    step = math.gcd(*(c.step for c in choices))
    groups = f", in multiples of {step} (heads that share keys and values go together)"
    raise ConfigError(
        f"Heads({target.count}) cannot be reached with this model: reachable is {fewest} to {most}"
        f"{groups if step > 1 else ''}."
    )


def achieved(target: Target, goal: Goal | None, anatomy: Anatomy) -> float:
    """Where a model stands, in the target's own unit.

    Args:
        target: the target.
        goal: what `measured` made of it; None for `Weights` and `Heads`.
        anatomy: the model's blocks as they are now.

    Returns:
        A sparsity, a number of parameters or heads, or a share kept.
    """
    if isinstance(target, Heads):
        return float(sum(b.num_heads for b in anatomy.attentions))
    if isinstance(target, Weights):
        return sparsity(anatomy).weight_sparsity
    if goal is None:
        raise TypeError(f"{target} needs the goal that `measured` made of it.")
    return goal.value(goal.cost.kept(unit_counts(anatomy)))


def reachable_costs(
    cost: CostModel, anatomy: Anatomy, heads_kept: int | None = None
) -> tuple[float, float]:
    """Least and greatest cost that cutting a model can lead to.

    Args:
        cost: the cost model.
        anatomy: the model's blocks.
        heads_kept: query heads kept in all; None leaves it open.

    Raises:
        ConfigError: that number of heads cannot be kept.
    """
    counts = unit_counts(anatomy)
    fewest = dict.fromkeys(counts, 0)
    if heads_kept is None:
        return cost.kept(fewest), cost.kept(counts)
    check_heads(Heads(heads_kept), anatomy)
    curves = [cost.curves[b.name] for b in anatomy.attentions]
    least, greatest = cheapest_and_dearest(curves, _head_choices(anatomy), heads_kept)
    mlps = {b.name: cost.curves[b.name] for b in anatomy.mlps}
    rest = CostModel(cost.unit, cost.fixed, mlps)
    return rest.kept(fewest) + least, rest.kept(counts) + greatest


def check_reachable(goal: Goal, anatomy: Anatomy, heads_kept: int | None = None) -> None:
    """Refuse a goal that no cut of a model leads to.

    Args:
        goal: the goal.
        anatomy: the model's blocks, as training begins.
        heads_kept: how many query heads are kept in the end, where that is asked for, too.

    Raises:
        ConfigError: with the range that can be reached.
    """
    low, high = reachable_costs(goal.cost, anatomy, heads_kept)
    if low - goal.slack <= goal.kept <= high + goal.slack:
        return
    asked = f"{type(goal.target).__name__}({goal.value(goal.kept):g})"
    if isinstance(goal.target, Parameters):
        asked = f"Parameters({goal.target.count})"
        reach = f"{math.ceil(low):,} to {math.floor(high):,}"
    else:
        least, most = sorted((goal.value(low), goal.value(high)))
        if isinstance(goal.target, Structural):
            most = min(most, 0.9999)  # a sparsity is below 1
        reach = f"{_inward(least, up=True):g} to {_inward(most, up=False):g}"
    heads = "" if heads_kept is None else f" with {heads_kept} heads"
    raise ConfigError(f"{asked} cannot be reached with this model{heads}: reachable is {reach}.")


def _inward(share: float, up: bool) -> float:
    """Rounded into the range: what a message offers must work."""
    steps = round(max(share, 0.0) * 1e4, 6)
    return (math.ceil(steps) if up else math.floor(steps)) / 1e4


def _head_choices(anatomy: Anatomy) -> list[range]:
    """Numbers of query heads that each attention may keep: whole groups."""
    return [range(0, block.num_heads + 1, block.group_size) for block in anatomy.attentions]
