"""Which units go so that one or two goals are met: poorest first, nobody starved by accident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.config import Heads, Target
from neuroprune.control.cost import CostModel, Curve
from neuroprune.core.allocation import poorest_to_budget
from neuroprune.methods.goals import Goal, check_heads, goal_of, unit_counts
from neuroprune.methods.units import Block, heads_per_unit

_ROUNDS = 6  # of correcting for cost curves that are not straight
_CLOSE = 1e-3  # of the cost at the start


def goals_of(targets: Sequence[Target], anatomy: Anatomy) -> tuple[Goal, ...]:
    """What targets mean for a model: of size or speed first, then of heads.

    Args:
        targets: as `parse_targets` orders them.
        anatomy: the model's blocks, as training begins.

    Raises:
        ConfigError: one cannot be reached; the message gives the range that can.
    """
    heads = next((t for t in targets if isinstance(t, Heads)), None)
    goals = [
        goal_of(t, anatomy, anatomy.model, heads_kept=None if heads is None else heads.count)
        for t in targets
        if not isinstance(t, Heads)
    ]
    if heads is not None:
        check_heads(heads, anatomy)
        goals.append(_head_goal(heads, anatomy))
    return tuple(goals)


def _head_goal(target: Heads, anatomy: Anatomy) -> Goal:
    curves = {b.name: Curve.linear(b.num_heads, 1.0) for b in anatomy.attentions}
    curves |= {b.name: Curve.linear(b.d_ff, 0.0) for b in anatomy.mlps}
    whole = float(sum(b.num_heads for b in anatomy.attentions))
    return Goal(target, CostModel("heads", 0.0, curves), whole, float(target.count), whole)


def poorest_units(
    goals: Sequence[Goal], progress: float, scores: Mapping[str, Tensor], anatomy: Anatomy
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
        _meet(goals[0], progress, blocks, scores, anatomy, gone)
    return gone


def _meet(
    goal: Goal,
    progress: float,
    blocks: Sequence[Block],
    scores: Mapping[str, Tensor],
    anatomy: Anatomy,
    gone: dict[str, Tensor],
) -> None:
    """Mark the poorest units of `blocks`, beside those already marked, so that the goal is met."""
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    counts = unit_counts(anatomy)
    price = {b.name: max(goal.cost.curves[b.name].per_unit * sizes[b.name], 1e-12) for b in blocks}
    ranked = torch.cat([_ranked(b, scores[b.name], price[b.name], goal, anatomy) for b in blocks])
    costs = torch.cat(
        [torch.full_like(scores[b.name], price[b.name], dtype=torch.float64) for b in blocks]
    )
    if progress < 1.0:
        _reserve_(ranked, costs)
    allowed = goal.scheduled(progress)
    before = goal.cost.kept(_left(counts, gone, sizes))
    needed = before - allowed
    for _ in range(_ROUNDS):
        mask = poorest_to_budget(ranked, costs, needed, close=progress >= 1.0)
        parts = mask.split([len(scores[b.name]) for b in blocks])
        marked = gone | {b.name: part for b, part in zip(blocks, parts, strict=True)}
        surplus = goal.cost.kept(_left(counts, marked, sizes)) - allowed
        # Straight curves are met at once; others are approached, on the way from above.
        enough = surplus >= -_CLOSE * goal.start and (progress < 1.0 or surplus <= 0)
        if goal.is_straight or enough or needed <= 0:
            break
        needed += surplus
    gone |= {b.name: part for b, part in zip(blocks, parts, strict=True)}


def _ranked(block: Block, score: Tensor, price: float, goal: Goal, anatomy: Anatomy) -> Tensor:
    """Score per unit of cost; infinite for those who have to stay.

    The floor is a quarter of the block's share in a uniform cut, rounded down.
    """
    ranked = score / price
    lineage = anatomy.lineage
    dense = lineage.heads.get(block.name) or lineage.neurons.get(block.name, 0)
    floor = min(int(dense * goal.share_kept / 4) // heads_per_unit(block), len(score))
    if floor:
        ranked[ranked.topk(floor).indices] = torch.inf
    return ranked


def _reserve_(ranked: Tensor, costs: Tensor) -> None:
    """On the way, keep the richest of the cheap units, worth one of the dearest.

    What is cut stays cut: once only dear units were left, the goal could not be met exactly.
    """
    dearest = costs.max()
    cheap = ((costs < dearest) & ranked.isfinite()).nonzero().squeeze(1)
    richest = cheap[ranked[cheap].argsort(descending=True, stable=True)]
    ranked[richest[costs[richest].cumsum(0) - costs[richest] < dearest]] = torch.inf


def _left(
    counts: Mapping[str, int], gone: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[str, int]:
    return {name: n - int(gone[name].sum()) * sizes[name] for name, n in counts.items()}
