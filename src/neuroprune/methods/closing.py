"""The last cut of a ramp: from near the goal to the goal, unit by unit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuroprune.config import ConfigError
from neuroprune.methods.goals import Goal


@dataclass
class Queue:
    """The units of one block, in the order in which they go.

    Args:
        name: of the block.
        scores: of its units, the first to go first.
        size: query heads, or neurons, per unit.
        present: query heads, or neurons, before the cut.
        floor: how many units at the end stay as long as others can go.
        gone: how many units at the beginning go.
    """

    name: str
    scores: Sequence[float]
    size: int
    present: int
    floor: int
    gone: int


def close_(queues: Sequence[Queue], goal: Goal, counts: Mapping[str, int]) -> None:
    """Take the poorest units until a goal is met, then give back the richest that fit.

        price_b = curve_b(u) - curve_b(u - size),    u = units that b keeps so far

    Units are ranked by score per what each frees now, which on a bent curve is not what the mean
    unit of the block costs. Floors give way where the goal cannot be met otherwise. In the end the
    cost is at most the goal's, and giving any one unit back would exceed it.

    Args:
        queues: blocks whose units may go; `gone` is where to begin and is changed.
        goal: the goal.
        counts: block name -> units left, of all blocks; of those in `queues`, before the cut.

    Raises:
        ConfigError: everything that may go is gone, and the goal is not met.
    """
    left = {**counts, **{q.name: q.present - q.gone * q.size for q in queues}}
    cost = _take_(queues, goal, goal.cost.kept(left), floors=True)
    cost = _take_(queues, goal, cost, floors=False)
    check_met(goal, cost)
    while True:
        fitting = [
            (_rank(q, goal, q.gone - 1), i)
            for i, q in enumerate(queues)
            if q.gone and cost + _price(q, goal, q.gone - 1) <= goal.allowed
        ]
        if not fitting:
            return
        queue = queues[max(fitting)[1]]
        queue.gone -= 1
        cost += _price(queue, goal, queue.gone)


def check_met(goal: Goal, cost: float) -> None:
    """Refuse to end with a model that costs more than asked.

    Args:
        goal: the goal.
        cost: what the model will cost after the last cut.

    Raises:
        ConfigError: by how much it misses.
    """
    if cost <= goal.allowed:
        return
    raise ConfigError(
        f"the last cut cannot meet {goal.target}: with all units gone that may go, the model is "
        f"at {goal.value(cost):,.6g}, and misses by {cost - goal.kept:,.6g} {goal.cost.unit}. Was "
        "it changed since the target was measured? Ask for less."
    )


def _take_(queues: Sequence[Queue], goal: Goal, cost: float, floors: bool) -> float:
    """Take from the queues until the goal is met, or nothing is left; returns the cost."""

    def last(queue: Queue) -> int:
        return len(queue.scores) - (queue.floor if floors else 0)

    heap = [(_rank(q, goal, q.gone), i) for i, q in enumerate(queues) if q.gone < last(q)]
    heapq.heapify(heap)
    while heap and cost > goal.allowed:
        _, i = heapq.heappop(heap)
        queue = queues[i]
        cost -= _price(queue, goal, queue.gone)
        queue.gone += 1
        if queue.gone < last(queue):
            heapq.heappush(heap, (_rank(queue, goal, queue.gone), i))
    return cost


def _price(queue: Queue, goal: Goal, gone: int) -> float:
    """What the unit frees that goes after `gone` others."""
    curve, left = goal.cost.curves[queue.name], queue.present - gone * queue.size
    return curve.at(left) - curve.at(left - queue.size)


def _rank(queue: Queue, goal: Goal, gone: int) -> float:
    """Score per cost of that unit; where a curve is flat, per the mean cost of a unit."""
    mean = goal.cost.curves[queue.name].per_unit * queue.size
    return queue.scores[gone] / max(_price(queue, goal, gone) or mean, 1e-12)
