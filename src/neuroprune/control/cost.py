"""What a model costs, as a function of how many units each block keeps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass


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
        """per_unit * n, for n up to `units`."""
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
        """Mean cost of a unit."""
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
