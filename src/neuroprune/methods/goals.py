"""Targets as goals: what the model costs now, what it may cost in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.anatomy.inputs import count_flops, sample_inputs
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
from neuroprune.methods.latency import measure_latency
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

    @property
    def share_kept(self) -> float:
        """Share of what can be removed that is kept in the end."""
        removable = self.start - self.cost.fixed
        return (self.kept - self.cost.fixed) / removable if removable > 0 else 1.0

    @property
    def is_straight(self) -> bool:
        """Whether every unit of a block costs the same."""
        return all(len(curve.units) == 2 for curve in self.cost.curves.values())

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


def unit_counts(anatomy: Anatomy) -> dict[str, int]:
    """Units of every block: query heads and neurons.

    Args:
        anatomy: the model's blocks.
    """
    heads = {b.name: b.num_heads for b in anatomy.attentions}
    return heads | {b.name: b.d_ff for b in anatomy.mlps}


def goal_of(
    target: Target,
    anatomy: Anatomy,
    model: nn.Module,
    floors: Mapping[str, int] | None = None,
    heads_kept: int | None = None,
) -> Goal:
    """What a target means for a model.

    Args:
        target: of size or speed. `Weights` and `Heads` are no costs of units: `check_weights` and
            `check_heads`.
        anatomy: the model's blocks, as training begins.
        model: the whole model, of which the blocks' root may be a part.
        floors: block name -> units that it has to keep; none where it is not named.
        heads_kept: how many query heads are kept in the end, where that is asked for, too.

    Raises:
        ConfigError: it cannot be reached, and the message gives the range that can; or it is a
            latency, and the machine is too noisy to measure one.
    """
    if isinstance(target, Structural):
        cost = weight_cost(anatomy)
        whole = float(anatomy.dense_weights)
        kept = (1.0 - target.sparsity) * whole
    elif isinstance(target, Parameters):
        cost = parameter_cost(anatomy, model)
        whole = cost.kept(unit_counts(anatomy))
        kept = float(target.count)
    elif isinstance(target, Flops | Latency):
        measure = flops_cost if isinstance(target, Flops) else measure_latency
        cost = measure(model, anatomy, target.batch, target.length)
        whole = cost.kept(unit_counts(anatomy))
        kept = target.kept * whole
    else:
        raise TypeError(f"{target} is no cost of units; the caller handles it.")
    goal = Goal(target, cost, cost.kept(unit_counts(anatomy)), kept, whole)
    _check_reachable(goal, anatomy, floors or {}, heads_kept)
    return goal


def weight_cost(anatomy: Anatomy) -> CostModel:
    """Prunable weights: those of q, k, v, o, up, gate and down, no biases.

    Args:
        anatomy: the model's blocks.
    """
    curves = {b.name: Curve.linear(b.num_heads, b.weights_per_head) for b in anatomy.attentions}
    curves |= {b.name: Curve.linear(b.d_ff, b.weights_per_neuron) for b in anatomy.mlps}
    return CostModel("weights", 0.0, curves)


def parameter_cost(anatomy: Anatomy, model: nn.Module) -> CostModel:
    """All parameters of a model, embeddings, biases and head included, shared ones once.

    Args:
        anatomy: the model's blocks.
        model: the whole model.
    """
    counts = unit_counts(anatomy)
    curves = {b.name: Curve.linear(counts[b.name], unit_parameters(b)) for b in anatomy.blocks()}
    return _with_fixed("parameters", sum(p.numel() for p in model.parameters()), curves, counts)


def unit_parameters(block: AttentionBlock | MLPBlock) -> float:
    """Parameters that go with one query head or neuron, biases of its rows included.

    A head that shares its keys and values has its part of them.

    Args:
        block: the block.
    """
    if isinstance(block, MLPBlock):
        return float(block.weights_per_neuron + sum(p.bias is not None for p in block.fan_in()))
    rows = float(block.q_proj.weight.shape[1] + (block.q_proj.bias is not None))
    for layer in (block.k_proj, block.v_proj):
        rows += _kv_share(block) * (layer.weight.shape[1] + (layer.bias is not None))
    return block.head_dim * (rows + block.o_proj.weight.shape[0])


def flops_cost(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> CostModel:
    """Floating-point operations of a forward pass, as `count_flops` counts them.

        neuron:  2 * (sum of n_l * d_l over up, gate and down)
        head:    2 * head_dim * (n_q d_q + n_k d_k + n_v d_v + n_o d_o)
                 + 4 * head_dim * n_q * n_k / batch

    n_l is the number of tokens that layer l is given in a pass, and d_l the width it reads (up,
    gate, q, k, v) or writes (down, o). The tokens are counted in the pass, since a decoder's
    queries and the keys of its cross-attention come from different sequences. An attention without
    heads runs on a placeholder, which costs it the second line of one head.

    Args:
        model: the whole model.
        anatomy: its blocks.
        batch: sequences of a pass.
        length: tokens per sequence, in encoder and decoder.
    """
    with _tokens(anatomy) as n:
        total = count_flops(model, sample_inputs(model, batch, length))
    curves = {}
    for block in anatomy.attentions:
        q, k, v, o = block.linears()
        own = n[q] * q.weight.shape[1] + n[o] * o.weight.shape[0]
        shared = n[k] * k.weight.shape[1] + n[v] * v.weight.shape[1]
        products = 4.0 * block.head_dim * n[q] * n[k] / batch
        one = 2.0 * block.head_dim * (own + _kv_share(block) * shared) + products
        heads = block.num_heads
        points = {0: products, 1: one, max(heads, 1): one * max(heads, 1)}
        curves[block.name] = Curve(tuple(points), tuple(points.values()))
    for mlp in anatomy.mlps:
        linear = sum(n[layer] * layer.weight.shape[1] for layer in mlp.fan_in())
        linear += n[mlp.down_proj] * mlp.down_proj.weight.shape[0]
        curves[mlp.name] = Curve.linear(mlp.d_ff, 2.0 * linear)
    return _with_fixed("FLOPs", total, curves, unit_counts(anatomy))


def check_weights(target: Weights, anatomy: Anatomy) -> None:
    """Refuse a weight sparsity below what was removed before. Any above it can be reached.

    Args:
        target: the target.
        anatomy: the model's blocks.

    Raises:
        ConfigError: with the range.
    """
    removed = sparsity(anatomy).structural_sparsity
    if target.sparsity < removed - _ROUNDING:
        raise ConfigError(
            f"Weights({target.sparsity:g}) cannot be reached with this model, of whose weights "
            f"that share and more was removed before: reachable is {_inward(removed, up=True):g} "
            "up to, but not including, 1."
        )


def check_heads(target: Heads, anatomy: Anatomy, floors: Mapping[str, int] | None = None) -> None:
    """Refuse a number of heads that the model does not have, or that would split a group.

    Args:
        target: the target.
        anatomy: the model's blocks.
        floors: attention block name -> query heads that it has to keep.

    Raises:
        ConfigError: with the range.
    """
    choices = _head_choices(anatomy, floors or {})
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
        goal: what `goal_of` made of it; None for `Weights` and `Heads`.
        anatomy: the model's blocks as they are now.

    Returns:
        A sparsity, a number of parameters or heads, or a share kept.
    """
    if isinstance(target, Heads):
        return float(sum(b.num_heads for b in anatomy.attentions))
    if isinstance(target, Weights):
        return sparsity(anatomy).weight_sparsity
    if goal is None:
        raise TypeError(f"{target} needs the goal that goal_of made of it.")
    return goal.value(goal.cost.kept(unit_counts(anatomy)))


def reachable_costs(
    cost: CostModel,
    anatomy: Anatomy,
    floors: Mapping[str, int] | None = None,
    heads_kept: int | None = None,
) -> tuple[float, float]:
    """Least and greatest cost that cutting a model can lead to.

    Args:
        cost: the cost model.
        anatomy: the model's blocks.
        floors: block name -> units that it has to keep.
        heads_kept: query heads kept in all; None leaves it open.

    Raises:
        ConfigError: that number of heads cannot be kept.
    """
    counts, floors = unit_counts(anatomy), floors or {}
    fewest = {name: min(floors.get(name, 0), n) for name, n in counts.items()}
    if heads_kept is None:
        return cost.kept(fewest), cost.kept(counts)
    check_heads(Heads(heads_kept), anatomy, floors)
    curves = [cost.curves[b.name] for b in anatomy.attentions]
    least, greatest = cheapest_and_dearest(curves, _head_choices(anatomy, floors), heads_kept)
    mlps = {b.name: cost.curves[b.name] for b in anatomy.mlps}
    rest = CostModel(cost.unit, cost.fixed, mlps)
    return rest.kept(fewest) + least, rest.kept(counts) + greatest


def _check_reachable(
    goal: Goal, anatomy: Anatomy, floors: Mapping[str, int], heads_kept: int | None
) -> None:
    low, high = reachable_costs(goal.cost, anatomy, floors, heads_kept)
    slack = _ROUNDING * goal.whole
    if low - slack <= goal.kept <= high + slack:
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


def _head_choices(anatomy: Anatomy, floors: Mapping[str, int]) -> list[range]:
    """Numbers of query heads that each attention may keep: whole groups."""
    choices = []
    for block in anatomy.attentions:
        group = max(block.num_heads // max(block.num_kv_heads, 1), 1)
        floor = min(floors.get(block.name, 0), block.num_heads)
        choices.append(range(-(-floor // group) * group, block.num_heads + 1, group))
    return choices


def _kv_share(block: AttentionBlock) -> float:
    """Key/value heads per query head."""
    return block.num_kv_heads / block.num_heads if block.num_heads else 1.0


def _with_fixed(
    unit: str, total: int, curves: Mapping[str, Curve], counts: Mapping[str, int]
) -> CostModel:
    """The cost model that says `total` of the model as it stands."""
    return CostModel(unit, total - CostModel(unit, 0.0, curves).kept(counts), curves)


@contextmanager
def _tokens(anatomy: Anatomy) -> Iterator[Counter[nn.Module]]:
    """Count the tokens that every prunable layer is given; 0 where it is not run."""
    seen: Counter[nn.Module] = Counter()

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[module] += args[0].shape[:-1].numel()

    hooks = [layer.register_forward_pre_hook(count) for layer in anatomy.linears()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
