"""Which units go so that one or two goals are met: poorest first, nobody starved by accident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.anatomy.inputs import evaluating, sample_inputs
from neuroprune.config import (
    ConfigError,
    Flops,
    Heads,
    Latency,
    Target,
)
from neuroprune.control.cost import CostModel, Curve
from neuroprune.core.allocation import poorest_to_budget
from neuroprune.methods.closing import Queue, close_
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.dense import dense_counts
from neuroprune.methods.goals import Goal, check_heads, check_reachable, measured
from neuroprune.methods.units import Block, heads_per_unit, units_left

ROUNDS = 6  # of correcting for cost curves that are not straight
_MET = 0.005  # of the whole, by which a target may have been overshot before
_FLOOR = 0.1  # of a block's share in a uniform cut
CLOSE = 1e-3  # of the cost at the start


def goals_of(targets: Sequence[Target], anatomy: Anatomy) -> tuple[Goal, ...]:
    """What targets mean for a model: of size or speed first, then of heads.

    Args:
        targets: as `parse_targets` orders them.
        anatomy: the model's blocks, as training begins.

    Raises:
        ConfigError: one cannot be reached; the message gives the range that can.
    """
    for target in targets:
        if isinstance(target, Flops | Latency):
            _check_length(target, anatomy)
    heads = next((t for t in targets if isinstance(t, Heads)), None)
    count = None if heads is None else heads.count
    goals = []
    for target in targets:
        if not isinstance(target, Heads):
            goal = _met(measured(target, anatomy, anatomy.model), anatomy)
            check_reachable(goal, anatomy, heads_kept=count)
            goals.append(goal)
    if heads is not None:
        check_heads(heads, anatomy)
        goals.append(_head_goal(heads, anatomy))
    return tuple(goals)


def waits(targets: Sequence[Target], anatomy: Anatomy) -> bool:
    """Whether targets are measured before the first step, and not when a method is set up.

    So is a time, of a model that was cut before. A training that is resumed brings the measurement
    that it began with: a clock does not say the same twice, and takes its time.

    Args:
        targets: as `parse_targets` orders them.
        anatomy: the model's blocks, as training begins.
    """
    return bool(anatomy.lineage.plan) and any(isinstance(t, Latency) for t in targets)


def read_goals(targets: Sequence[Target], saved: Sequence[Mapping[str, Any]]) -> tuple[Goal, ...]:
    """Goals as they were saved: of a training that is resumed.

    Args:
        targets: what they were measured for.
        saved: what `Goal.to_dict` wrote; nothing where they had not been measured yet.
    """
    pairs = zip(targets, saved, strict=True) if saved else ()
    return tuple(Goal.from_dict(target, goal) for target, goal in pairs)


def _met(goal: Goal, anatomy: Anatomy) -> Goal:
    """A goal that the model has met by a little more than asked, as exactly as it has.

    Units are not divisible: a training that is resumed or repeated after its last cut would be
    refused. A little is what the dearest unit costs, and no less than half a percent.
    """
    curves = goal.cost.curves
    unit = max(curves[b.name].per_unit * heads_per_unit(b) for b in anatomy.blocks())
    little = max(_MET * goal.whole, unit)
    return replace(goal, kept=goal.start) if 0 < goal.kept - goal.start <= little else goal


def _check_length(target: Flops | Latency, anatomy: Anatomy) -> None:
    """Refuse a length that the model has no positions for, before anything is measured."""
    try:
        with evaluating(anatomy.model):
            anatomy.model(**sample_inputs(anatomy.model, 1, target.length))
    except (RuntimeError, IndexError, ValueError) as error:
        raise ConfigError(
            f"{target}: the model cannot be run on {target.length} tokens "
            f"({str(error).splitlines()[0]}). Give a length that it can read, such as "
            f"{target.kind}:{target.kept:g}@{target.batch}x{max(target.length // 2, 1)}."
        ) from error


def _head_goal(target: Heads, anatomy: Anatomy) -> Goal:
    curves = {b.name: Curve.linear(b.num_heads, 1.0) for b in anatomy.attentions}
    curves |= {b.name: Curve.linear(b.d_ff, 0.0) for b in anatomy.mlps}
    whole = float(sum(b.num_heads for b in anatomy.attentions))
    return Goal(target, CostModel("heads", 0.0, curves), whole, float(target.count), whole)


def poorest_units(
    goals: Sequence[Goal],
    progress: float,
    scores: Mapping[str, Tensor],
    anatomy: Anatomy,
) -> dict[str, Tensor]:
    """Masks of the units to remove.

    A goal of heads is met by heads alone, and another goal beside it by neurons alone. Within a
    goal, all units compete in one ranking of score per unit of cost.

    Args:
        goals: one or two.
        progress: how far on the way from start to goal, in [0, 1].
        scores: block name -> connectivity of its units, float64 on the CPU.
        anatomy: the model's blocks.

    Returns:
        Block name -> boolean mask over its units.
    """
    gone = {name: torch.zeros(len(s), dtype=torch.bool) for name, s in scores.items()}
    head_goal = goals[-1] if isinstance(goals[-1].target, Heads) else None
    if head_goal is not None:
        _meet(head_goal, progress, anatomy.attentions, scores, anatomy, gone)
    if goals[0] is not head_goal:
        blocks = list(anatomy.mlps if head_goal is not None else anatomy.blocks())
        later = 0.0
        if head_goal is not None and progress < 1.0:
            later = _heads_to_come(goals[0], head_goal, anatomy)
        _meet(goals[0], progress, blocks, scores, anatomy, gone, later)
    return gone


def _heads_to_come(goal: Goal, heads: Goal, anatomy: Anatomy) -> float:
    """Cost of the heads that still have to go, which neurons must not make up for."""
    present = {b.name: b.num_heads for b in anatomy.attentions}
    cost = sum(goal.cost.curves[name].per_unit * n for name, n in present.items())
    number = sum(present.values())
    return cost * (number - heads.kept) / number if number else 0.0


def _meet(
    goal: Goal,
    progress: float,
    blocks: Sequence[Block],
    scores: Mapping[str, Tensor],
    anatomy: Anatomy,
    gone: dict[str, Tensor],
    later: float = 0.0,
) -> None:
    """Mark the poorest units of `blocks`, beside those already marked, so that the goal is met.

    What others than `blocks` will free is `later`: on the way, `blocks` free the same share of
    what is left for them as the schedule wants of all.
    """
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    counts = unit_counts(anatomy)
    price = {b.name: max(goal.cost.curves[b.name].per_unit * sizes[b.name], 1e-12) for b in blocks}
    share = goal.share_kept(dense_counts(anatomy))
    ranked = torch.cat([_ranked(b, scores[b.name], price[b.name], share, anatomy) for b in blocks])
    costs = torch.cat(
        [torch.full_like(scores[b.name], price[b.name], dtype=torch.float64) for b in blocks]
    )
    if progress < 1.0:
        _reserve_(ranked, costs)
    allowed = goal.scheduled(progress)
    before = goal.cost.kept(units_left(counts, gone, sizes))
    needed = before - allowed
    if later:
        now = goal.cost.kept(counts)
        done = (now - allowed) / max(now - goal.kept, 1e-12)
        needed = done * (now - goal.kept - later)
    tried: list[tuple[float, dict[str, Tensor]]] = []
    for _ in range(ROUNDS):
        mask = poorest_to_budget(ranked, costs, needed, close=progress >= 1.0)
        parts = mask.split([len(scores[b.name]) for b in blocks])
        marked = {b.name: part for b, part in zip(blocks, parts, strict=True)}
        surplus = goal.cost.kept(units_left(counts, gone | marked, sizes)) - allowed
        tried.append((surplus, marked))
        # Straight curves are met at once; others are approached, on the way from above.
        enough = surplus >= -CLOSE * goal.start and (progress < 1.0 or surplus <= 0)
        if goal.is_straight or later or enough or needed <= 0:
            break
        needed += surplus
    if progress >= 1.0:
        met = [t for t in tried if t[0] <= 0]
        surplus, marked = max(met or tried, key=lambda t: t[0] if met else -t[0])
        if surplus > goal.slack or not goal.is_straight:
            left = units_left(counts, gone, sizes)
            marked = closed(goal, blocks, scores, ranked, marked, left)
    elif not later and surplus < -CLOSE * goal.start:
        # What is cut stays cut: rather wait than go too far.
        nothing = needed, {b.name: torch.zeros_like(gone[b.name]) for b in blocks}
        near = [t for t in tried if t[0] >= -CLOSE * goal.start]
        marked = min(near, key=lambda t: t[0], default=nothing)[1]
    gone |= marked


def closed(
    goal: Goal,
    blocks: Sequence[Block],
    scores: Mapping[str, Tensor],
    ranked: Tensor,
    marked: Mapping[str, Tensor],
    left: Mapping[str, int],
) -> dict[str, Tensor]:
    """Masks that meet a goal to the unit, from masks that nearly do.

    Args:
        goal: the goal.
        blocks: whose units may go.
        scores: block name -> scores of its units; the lowest go first.
        ranked: of all units, block after block: infinite for those who stay as long as others can
            go.
        marked: block name -> mask of its poorest units: where to begin.
        left: block name -> query heads or neurons without those marked in other blocks.

    Raises:
        ConfigError: the goal cannot be met.
    """
    queues, orders = [], {}
    for block, rank in zip(
        blocks, ranked.split([len(scores[b.name]) for b in blocks]), strict=True
    ):
        score, floor = scores[block.name], int(rank.isinf().sum())
        # Poorest first, those of the floor last, also where they are tied with others.
        order = score.argsort(stable=True)
        order = order[rank[order].isinf().to(torch.int8).argsort(stable=True)]
        size, number = heads_per_unit(block), int(marked[block.name].sum())
        queue = Queue(block.name, score[order].tolist(), size, left[block.name], floor, number)
        queues.append(queue)
        orders[block.name] = order
    close_(queues, goal, left)
    masks = {}
    for queue in queues:
        mask = torch.zeros(len(queue.scores), dtype=torch.bool)
        mask[orders[queue.name][: queue.gone]] = True
        masks[queue.name] = mask
    return masks


def _ranked(block: Block, score: Tensor, price: float, share: float, anatomy: Anatomy) -> Tensor:
    """Score per unit of cost; infinite for those who have to stay.

    The floor is a tenth of what a uniform cut to `share` of the dense model leaves the block,
    rounded down: nobody starves by accident, and whole blocks may still go where little is left.
    """
    ranked = score / price
    lineage = anatomy.lineage
    dense = lineage.heads.get(block.name) or lineage.neurons.get(block.name, 0)
    floor = min(int(dense * share * _FLOOR) // heads_per_unit(block), len(score))
    if floor:
        ranked[ranked.topk(floor).indices] = torch.inf
    return ranked


def _reserve_(ranked: Tensor, costs: Tensor) -> None:
    """On the way, keep the richest of the cheap units, worth one of the dearest.

    What is cut stays cut: once only dear units were left, the goal could not be met exactly.
    """
    if not costs.numel():  # nothing is left
        return
    dearest = costs.max()
    cheap = ((costs < dearest) & ranked.isfinite()).nonzero().squeeze(1)
    richest = cheap[ranked[cheap].argsort(descending=True, stable=True)]
    ranked[richest[costs[richest].cumsum(0) - costs[richest] < dearest]] = torch.inf
