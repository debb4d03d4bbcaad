"""What a model costs, as a function of how many units each block keeps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curve:
    """Cost of one block against its number of units: straight lines between points.

    Args:
        units: numbers of units, ascending, the first 0.
        costs: cost at each of them, never falling.

    Raises:
        ValueError: they do not have that form.
    """

    units: tuple[int, ...]
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.units, self.units[1:], strict=False))
        never_falling = all(a <= b for a, b in zip(self.costs, self.costs[1:], strict=False))
        if not (
            len(self.units) == len(self.costs) >= 2
            and self.units[0] == 0
            and rising
            and never_falling
        ):
            raise ValueError(
                "a cost curve has ascending numbers of units from 0 on, and costs that never "
                f"fall; got {self.units} and {self.costs}."
            )

    @classmethod
    def linear(cls, units: int, per_unit: float) -> Curve:
        """per_unit * n, for n up to `units`.

        Args:
            units: of the block; a block without units costs nothing.
            per_unit: cost of each, >= 0.
        """
        return cls((0, max(units, 1)), (0.0, per_unit * max(units, 1)))

    def at(self, units: int) -> float:
        """Cost of the block with this many units; beyond the last point, the last line goes on.

        Args:
            units: >= 0.
        """
        right = min(max(bisect_right(self.units, units), 1), len(self.units) - 1)
        left = right - 1
        slope = (self.costs[right] - self.costs[left]) / (self.units[right] - self.units[left])
        return self.costs[left] + slope * (units - self.units[left])

    @property
    def per_unit(self) -> float:
        """Mean cost of a unit; 0 where units cost nothing."""
        return (self.costs[-1] - self.costs[0]) / self.units[-1]


@dataclass(frozen=True)
class CostModel:
    """cost = fixed + sum over blocks of curve_b(units kept in b).

    Args:
        unit: of the cost, for messages, such as "weights" or "seconds".
        fixed: what no cut removes.
        curves: block name -> its curve.
    """

    unit: str
    fixed: float
    curves: Mapping[str, Curve]

    def kept(self, counts: Mapping[str, int]) -> float:
        """Cost of a model with these units.

        Args:
            counts: block name -> units kept.
        """
        return self.fixed + sum(curve.at(counts[name]) for name, curve in self.curves.items())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        curves = {name: [list(c.units), list(c.costs)] for name, c in self.curves.items()}
        return {"unit": self.unit, "fixed": self.fixed, "curves": curves}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostModel:
        """Read what `to_dict` wrote.

        Args:
            data: that dictionary.
        """
        curves = {name: Curve(tuple(u), tuple(c)) for name, (u, c) in data["curves"].items()}
        return cls(data["unit"], data["fixed"], curves)


def cheapest_and_dearest(
    curves: Sequence[Curve], choices: Sequence[Iterable[int]], total: int
) -> tuple[float, float]:
    """Least and greatest cost of blocks that keep `total` units between them.

    best_b(n) = min (max) over u in choices_b of best_{b-1}(n - u) + curve_b(u)

    Args:
        curves: one per block.
        choices: numbers of units that each block may keep.
        total: units of all of them.

    Returns:
        The two costs; (inf, -inf) where no choice adds up to `total`.
    """
    low: dict[int, float] = {0: 0.0}
    high = dict(low)
    for curve, allowed in zip(curves, choices, strict=True):
        costs = {u: curve.at(u) for u in allowed}
        cheapest: dict[int, float] = {}
        dearest: dict[int, float] = {}
        for n in low:
            for u, cost in costs.items():
                if n + u <= total:
                    cheapest[n + u] = min(cheapest.get(n + u, math.inf), low[n] + cost)
                    dearest[n + u] = max(dearest.get(n + u, -math.inf), high[n] + cost)
        low, high = cheapest, dearest
    return low.get(total, math.inf), high.get(total, -math.inf)


def never_falling(values: Sequence[float]) -> list[float]:
    """The nearest sequence (in squares) that never falls: pool adjacent violators.

    Args:
        values: noisy measurements of something that rises.

    Returns:
        As many values, of the same sum.

    Reference: Barlow et al. (1972), Statistical inference under order restrictions, chapter 1.
    """
    pools: list[tuple[float, int]] = []  # sum, size
    for value in values:
        total, size = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / size:
            before = pools.pop()
            total, size = total + before[0], size + before[1]
        pools.append((total, size))
    return [total / size for total, size in pools for _ in range(size)]
