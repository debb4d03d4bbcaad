"""Which units go: exact budgets, ties, and the smallest sizes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.allocation import poorest_to_budget

units = st.lists(
    st.tuples(st.floats(0.0, 10.0), st.sampled_from([1.0, 1.5, 7.0, 40.0])), min_size=1, max_size=40
)


def taken(scores: list[float], costs: list[float], budget: float) -> list[int]:
    mask = poorest_to_budget(torch.tensor(scores), torch.tensor(costs).double(), budget)
    return [i for i, gone in enumerate(mask.tolist()) if gone]


@given(units, st.floats(-5.0, 600.0))
def test_the_budget_is_met_and_nothing_can_be_given_back(
    pairs: list[tuple[float, float]], budget: float
) -> None:
    scores, costs = (list(column) for column in zip(*pairs, strict=True))
    gone = taken(scores, costs, budget)
    freed = sum(costs[i] for i in gone)
    if budget <= 0:
        assert not gone
    elif budget >= sum(costs):
        assert len(gone) == len(costs)
    else:
        assert freed >= budget - 1e-6
        assert all(freed - costs[i] < budget for i in gone)


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=12), st.integers(0, 12))
def test_equal_costs_take_the_poorest(scores: list[float], count: int) -> None:
    gone = taken(scores, [2.0] * len(scores), 2.0 * count)
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    assert gone == sorted(order[:count])


def test_a_unit_that_does_not_fit_is_passed_over() -> None:
    assert taken([0.0, 1.0, 2.0, 3.0], [40.0, 1.0, 1.0, 1.0], 2.0) == [1, 2]


def test_what_the_closing_unit_frees_too_much_is_given_back() -> None:
    """Small units are poorest, but they alone cannot meet the budget."""
    assert taken([0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 1.0, 40.0], 41.0) == [0, 3]


def test_the_protected_are_never_taken() -> None:
    assert taken([float("inf"), 1.0], [1.0, 1.0], 5.0) == [1]


@pytest.mark.parametrize("budget", [0.5, 3.0, 8.5, 12.0])
def test_close_to_the_best_subset(budget: float) -> None:
    """Against all subsets: none that meets the budget frees less than the cheapest unit less."""
    costs = [1.0, 1.0, 1.5, 7.0, 7.0]
    gone = taken([0.3, 0.1, 0.2, 0.0, 0.4], costs, budget)
    best = min(
        total
        for n in range(6)
        for subset in itertools.combinations(costs, n)
        if (total := sum(subset)) >= budget
    )
    assert sum(costs[i] for i in gone) - best < min(costs) + 0.5


@given(units, st.floats(-5.0, 600.0))
def test_without_closing_the_budget_is_not_exceeded(
    pairs: list[tuple[float, float]], budget: float
) -> None:
    scores, costs = (torch.tensor(column).double() for column in zip(*pairs, strict=True))
    freed = float(costs[poorest_to_budget(scores, costs, budget, close=False)].sum())
    assert freed <= max(budget, 0.0) + 1e-6
