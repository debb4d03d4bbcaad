"""Equal shapes in all layers: one number of heads and one MLP width, chosen by the scores.

Regular shapes run on tuned kernels, and where a stock config can describe them the saved model
needs nothing but transformers to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy, AttentionBlock
from neuroprune.config import ConfigError, Heads, Parameters
from neuroprune.methods.closing import check_met
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.goals import Goal
from neuroprune.methods.units import Block, heads_per_unit, unit_number, units_left

_WIDEST = 64  # the largest multiple that an MLP width is rounded to
_GIVEN_AWAY = 0.004  # share of the target's whole that the rounding may cost
_OVERSHOT = 0.005  # share of the target's whole that is little
_ROUNDING = 1e-9  # relative: what summing in another order may change
_HALVINGS = 30  # of the interval in which the share of the way is sought


@dataclass(frozen=True)
class _Party:
    """Blocks that lose the same units of the dense model: mostly one block, for T5 a stack.

    Args:
        blocks: the blocks.
        units: positions in each block of the units that all of them have, poorest first, shape
            (blocks, units).
        scores: of those units, summed over the blocks, ascending.
        extra: for each block, positions of the units that the others lack, poorest first.
        size: query heads, or neurons, per unit.
        dense: units of a block of the dense model.
    """

    blocks: tuple[Block, ...]
    units: Tensor
    scores: Tensor
    extra: tuple[Tensor, ...]
    size: int
    dense: int

    def lost(self, kept: int) -> float:
        """Score of what goes where `kept` heads or neurons stay."""
        return float(self.scores[: len(self.scores) - kept // self.size].sum())

    def left(self, kept: int, share: float) -> tuple[int, tuple[int, ...]]:
        """Common units, and extra units of each block, after a share of the way to `kept`."""
        final = kept // self.size
        common = self.dense - int(share * (self.dense - final))
        extra = tuple(len(e) - int(share * len(e)) for e in self.extra)
        return min(len(self.scores), common), extra


@dataclass(frozen=True)
class _Shape:
    """What every block keeps in the end; None leaves the neurons alone."""

    heads: int
    neurons: int | None


def uniform_units(
    goals: Sequence[Goal], progress: float, scores: Mapping[str, Tensor], anatomy: Anatomy
) -> dict[str, Tensor]:
    """Masks of the units to remove, so that all layers have one shape in the end.

    The shape is decided anew from the scores at every call: of the shapes (h, f) that meet the
    goal and that what was cut still allows, the one that removes the least score,

        argmin_h  sum_a lowest(n_a - h) + sum_m lowest(n_m - f(h)),
        f(h) = max f : cost(h, f) <= goal,  rounded down to a multiple that hardware likes

    with h, f >= 1 wherever that meets the goal, and among those, little more than was asked for
    removed wherever the units allow it. A goal of heads fixes h; alone, it leaves the
    neurons as they are. Before the end, every block goes the same share of its way to that shape,
    as far as the schedule of the cost allows: blocks that are equal stay equal. Where a position
    bias per head is shared, all self-attentions of the stack lose the same heads of the dense
    model.

    Args:
        goals: one or two, as `goals_of` orders them.
        progress: how far on the way from start to goal, in [0, 1].
        scores: block name -> connectivity of its units, float64 on the CPU.
        anatomy: the model's blocks.

    Returns:
        Block name -> boolean mask over its units.

    Raises:
        ConfigError: the goal of heads cannot be shared out equally, or the last cut misses a goal.
    """
    heads, mlps = _parties(anatomy, scores)
    shape = _final_shape(goals, heads, mlps, anatomy)
    parties = [(party, shape.heads) for party in heads]
    if shape.neurons is not None:
        parties += [(party, shape.neurons) for party in mlps]
    share = 1.0 if progress >= 1.0 else _share_of_way(goals[0], progress, parties, anatomy)
    gone = {name: torch.zeros(len(s), dtype=torch.bool) for name, s in scores.items()}
    for party, kept in parties:
        common, extra = party.left(kept, share)
        for i, block in enumerate(party.blocks):
            mask = gone[block.name]
            mask[party.units[i, : len(party.scores) - common]] = True
            mask[party.extra[i][: len(party.extra[i]) - extra[i]]] = True
    if progress >= 1.0:
        sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
        left = units_left(unit_counts(anatomy), gone, sizes)
        for goal in goals:
            check_met(goal, goal.cost.kept(left))
    return gone


def check_uniform(goals: Sequence[Goal], anatomy: Anatomy) -> None:
    """Refuse goals that no equal shapes meet.

    Args:
        goals: one or two, as `goals_of` orders them.
        anatomy: the model's blocks, as training begins.

    Raises:
        ConfigError: a number of heads that cannot be shared out equally; or the model was cut
            before, so unequally that making its layers equal empties them or misses the target.
    """
    scores = {b.name: torch.zeros(unit_number(b), dtype=torch.float64) for b in anatomy.blocks()}
    heads, mlps = _parties(anatomy, scores)
    asked = _heads_asked(goals, heads, anatomy)
    only_heads = isinstance(goals[0].target, Heads)
    if asked != 0:
        _check_emptied("heads", heads)
    if not only_heads:
        _check_emptied("neurons", mlps)
        _check_size(goals[0], asked, _most(heads), _most(mlps), anatomy)


def _check_emptied(what: str, parties: Sequence[_Party]) -> None:
    if _most(parties) or not any(len(s) for p in parties for s in (p.scores, *p.extra)):
        return
    poorest = next(p for p in parties if not len(p.scores)).blocks[0].name
    raise ConfigError(
        f"uniform=True would remove all {what}: the model was cut before, and {poorest!r} has no "
        f"{what} left that it could keep together with the other layers. Start from a model "
        "whose layers all have some, or leave uniform out."
    )


def _check_size(goal: Goal, asked: int | None, heads: int, neurons: int, anatomy: Anatomy) -> None:
    h = heads if asked is None else asked
    cheapest = _cost(goal, anatomy, asked or 0, 0)
    dearest = _cost(goal, anatomy, h, neurons)
    spare = _little(goal, _cost(goal, anatomy, h, neurons + 1) - dearest)
    if cheapest - _ROUNDING * goal.whole <= goal.kept <= dearest + spare:
        return
    beside = "" if asked is None else f" and {asked} heads in each"
    low, high = sorted((goal.value(cheapest), goal.value(dearest)))
    scale = 1.0 if isinstance(goal.target, Parameters) else 1e4
    low, high = math.ceil(low * scale - 1e-6) / scale, math.floor(high * scale + 1e-6) / scale
    raise ConfigError(
        f"uniform=True cannot meet {goal.target} with this model: with equal layers{beside}, "
        f"reachable is {low:,.10g} to {high:,.10g}. Ask for that, or leave uniform out."
    )


def _parties(
    anatomy: Anatomy, scores: Mapping[str, Tensor]
) -> tuple[tuple[_Party, ...], tuple[_Party, ...]]:
    """Parties of attentions and of MLPs."""
    together: dict[str, list[AttentionBlock]] = {}
    for block in anatomy.attentions:
        bound = block.shares_position_bias and not block.is_cross
        key = f"stack {block.name.split('.block', 1)[0]}" if bound else block.name
        together.setdefault(key, []).append(block)
    heads = tuple(_party(blocks, scores, anatomy) for blocks in together.values())
    return heads, tuple(_party([block], scores, anatomy) for block in anatomy.mlps)


def _party(blocks: Sequence[Block], scores: Mapping[str, Tensor], anatomy: Anatomy) -> _Party:
    lineage, first = anatomy.lineage, blocks[0]
    # A block that lost all its heads no longer tells how many went together.
    size = max(heads_per_unit(b) for b in blocks)
    if isinstance(first, AttentionBlock):
        dense = lineage.heads[first.name] // size
        origins = [lineage.kept_heads(b.name)[::size] for b in blocks]
    else:
        dense = lineage.neurons[first.name]
        origins = [tuple(range(unit_number(first)))]
    common = sorted(set(origins[0]).intersection(*origins[1:]))
    places = [{origin: i for i, origin in enumerate(own)} for own in origins]
    units = torch.tensor([[place[c] for c in common] for place in places], dtype=torch.int64)
    summed = torch.zeros(len(common), dtype=torch.float64)
    extra = []
    for block, row in zip(blocks, units, strict=True):
        score = scores[block.name]
        summed += score[row]
        order = score.argsort(stable=True)
        extra.append(order[~torch.isin(order, row)])
    order = summed.argsort(stable=True)
    return _Party(tuple(blocks), units[:, order], summed[order], tuple(extra), size, dense)


def _most(parties: Sequence[_Party]) -> int:
    """Heads, or neurons, that every party can keep."""
    return min(len(p.scores) * p.size for p in parties)


def _cost(goal: Goal, anatomy: Anatomy, heads: int, neurons: int) -> float:
    counts = dict.fromkeys((b.name for b in anatomy.attentions), heads)
    return goal.cost.kept(counts | dict.fromkeys((b.name for b in anatomy.mlps), neurons))


def _heads_asked(goals: Sequence[Goal], heads: Sequence[_Party], anatomy: Anatomy) -> int | None:
    """Heads that every attention has to keep, or None where nobody asked."""
    target = goals[-1].target
    if not isinstance(target, Heads):
        return None
    blocks = len(anatomy.attentions)
    step = blocks * math.lcm(*(p.size for p in heads))
    most = blocks * _most(heads)
    below = min(target.count, most) // step * step
    if below == target.count:
        return target.count // blocks
    nearest = [f"Heads({n})" for n in (below, below + step) if n <= most]
    raise ConfigError(
        f"uniform=True keeps equally many heads in each of the {blocks} attention blocks: the "
        f"number must be a multiple of {step}, of at most {most}; got Heads({target.count}). "
        f"Nearest: {' and '.join(nearest)}."
    )


def _final_shape(
    goals: Sequence[Goal], heads: Sequence[_Party], mlps: Sequence[_Party], anatomy: Anatomy
) -> _Shape:
    """The shape that meets the goals and removes the least score."""
    goal = goals[0]
    asked = _heads_asked(goals, heads, anatomy)
    if asked is not None and isinstance(goal.target, Heads):
        return _Shape(asked, None)
    step = math.lcm(*(p.size for p in heads))
    choices = range(0, _most(heads) + 1, step) if asked is None else [asked]
    dense = min(p.dense for p in mlps)
    found = []
    for h in choices:

        def cost(f: int, h: int = h) -> float:
            return _cost(goal, anatomy, h, f)

        f = _width(goal, cost, _most(mlps), dense)
        if f is not None:
            lost = sum(p.lost(h) for p in heads) + sum(p.lost(f) for p in mlps)
            missed = goal.kept - cost(f) > _little(goal, cost(f + 1) - cost(f))
            found.append((h == 0, f == 0, missed, lost, -h, f))
    if not found:  # which `check_uniform` refuses
        return _Shape(choices[0], 0)
    best = min(found)
    return _Shape(-best[4], best[5])


def _little(goal: Goal, row: float) -> float:
    """Cost that may go beyond the goal; less than `row`, a neuron of each layer, cannot be met."""
    return max(_OVERSHOT * goal.whole, row)


def _width(goal: Goal, cost: Callable[[int], float], most: int, dense: int) -> int | None:
    """The widest MLP that meets the goal, rounded down; None where none is narrow enough.

    The multiple is the largest power of two with which little more than asked for is removed.
    """
    allowed = goal.kept + _ROUNDING * goal.whole
    if cost(0) > allowed:
        return None
    low, high = 0, most + 1  # cost(low) is allowed; `high` is too much, or not there
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle)
    multiple = _WIDEST if low < dense else 1
    while multiple > 1:
        rounded = low // multiple * multiple
        if rounded and goal.kept - cost(rounded) <= _GIVEN_AWAY * goal.whole:
            return rounded
        multiple //= 2
    return low


def _share_of_way(
    goal: Goal, progress: float, parties: Sequence[tuple[_Party, int]], anatomy: Anatomy
) -> float:
    """How far every block goes from the dense to the final shape, so as not to outrun the schedule.

    Sought by the cost, since a model that was cut before has part of that way behind it.
    """
    present = unit_counts(anatomy)
    wanted = goal.scheduled(progress) - _ROUNDING * goal.whole

    def cost(share: float) -> float:
        counts = dict(present)
        for party, kept in parties:
            common, extra = party.left(kept, share)
            for block, more in zip(party.blocks, extra, strict=True):
                counts[block.name] = (common + more) * party.size
        return goal.cost.kept(counts)

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) >= wanted else (low, middle)
    return low
