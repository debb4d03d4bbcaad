from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.control.cost import CostModel, Curve, cheapest_and_dearest, never_falling


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """From 0 on, never falling, flat parts and jumps included."""
    steps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rises = draw(
        st.lists(
            st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=len(steps) + 1, max_size=len(steps) + 1
        )
    )
    return Curve((0, *itertools.accumulate(steps)), tuple(itertools.accumulate(rises)))


@given(curves())
def test_a_curve_passes_its_points_and_is_straight_between_them(curve: Curve) -> None:
    points = list(zip(curve.units, curve.costs, strict=True))
    for units, cost in points:
        assert curve.at(units) == pytest.approx(cost)
    for (u, a), (v, b) in itertools.pairwise(points):
        for n in range(u, v):
            assert curve.at(n) == pytest.approx(a + (b - a) * (n - u) / (v - u))


@given(curves(), st.integers(0, 40))
def test_a_curve_never_falls_and_goes_on(curve: Curve, units: int) -> None:
    assert curve.at(units + 1) >= curve.at(units) - 1e-12
    last = curve.units[-1]
    slope = curve.at(last) - curve.at(last - 1)
    assert curve.at(last + units) == pytest.approx(curve.costs[-1] + slope * units)
    assert curve.per_unit * last == pytest.approx(curve.costs[-1] - curve.costs[0])


@given(st.integers(0, 9), st.sampled_from([0.0, 0.25, 3.0]))
def test_a_linear_curve_is_a_line(units: int, per_unit: float) -> None:
    curve = Curve.linear(units, per_unit)
    assert curve.per_unit == per_unit
    assert [curve.at(n) for n in range(units + 1)] == [per_unit * n for n in range(units + 1)]


@pytest.mark.parametrize(
    ("units", "costs"),
    [
        ((0,), (0.0,)),
        ((0, 2), (0.0,)),
        ((1, 2), (0.0, 1.0)),
        ((0, 2, 2), (0.0, 1.0, 2.0)),
        ((0, 2), (1.0, 0.5)),
    ],
)
def test_what_is_no_curve_is_refused(units: tuple[int, ...], costs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascending numbers of units from 0 on"):
        Curve(units, costs)


@given(st.lists(curves(), min_size=1, max_size=3), st.floats(0, 100))
def test_a_model_costs_what_is_fixed_and_what_its_blocks_cost(
    parts: list[Curve], fixed: float
) -> None:
    model = CostModel("seconds", fixed, {f"b{i}": c for i, c in enumerate(parts)})
    counts = {f"b{i}": c.units[-1] - 1 for i, c in enumerate(parts)}
    assert model.kept(counts) == pytest.approx(fixed + sum(c.at(c.units[-1] - 1) for c in parts))
    stored = json.loads(json.dumps(model.to_dict()))
    assert CostModel.from_dict(stored) == model


@given(st.lists(curves(), min_size=1, max_size=3), st.integers(0, 12), st.integers(1, 2))
def test_the_extremes_are_those_of_all_ways_to_share_the_units(
    parts: list[Curve], total: int, step: int
) -> None:
    choices = [range(0, c.units[-1] + 1, step) for c in parts]
    costs = [
        sum(c.at(u) for c, u in zip(parts, shares, strict=True))
        for shares in itertools.product(*choices)
        if sum(shares) == total
    ]
    low, high = cheapest_and_dearest(parts, choices, total)
    assert low == (pytest.approx(min(costs)) if costs else math.inf)
    assert high == (pytest.approx(max(costs)) if costs else -math.inf)


@given(st.lists(st.floats(-5, 5), max_size=8))
def test_the_nearest_rising_sequence_rises_and_keeps_the_sum(values: list[float]) -> None:
    out = never_falling(values)
    assert len(out) == len(values)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(out))
    assert sum(out) == pytest.approx(sum(values), abs=1e-9)
    assert never_falling(sorted(values)) == pytest.approx(sorted(values))


@given(
    st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    st.lists(st.integers(-6, 6), min_size=3, max_size=3).map(sorted),
)
def test_no_other_rising_sequence_is_nearer(values: list[int], other: list[int]) -> None:
    def distance(guess: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(values, guess, strict=True))

    assert distance(never_falling(values)) <= distance([n / 2 for n in other]) + 1e-9
