"""core.dominating against every subset, and what both sets promise."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.core.dominating import greedy_dominating_set, minimum_dominating_set
from neuroprune.core.redundancy import merge_map
from tests import strategies as draw
from tests.reference import function

Finder = Callable[..., Tensor]
both = pytest.mark.parametrize("find", [greedy_dominating_set, minimum_dominating_set])


def members(target: Tensor) -> tuple[int, ...]:
    return tuple(sorted(set(target.tolist())))


@both
@given(similarity=draw.similarities(), seed=st.integers(0, 99))
def test_promises(find: Finder, similarity: np.ndarray, seed: int) -> None:
    """Members stay, everyone else goes to the strongest similar member, and it is repeatable."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 3, similarity.shape) / 4
    strength = torch.tensor(half + half.T)
    s = torch.tensor(similarity)
    got = find(s.bool(), strength)
    assert got.dtype == torch.int64
    assert torch.equal(got, find(s, strength))
    chosen = members(got)
    assert function.dominates(chosen, similarity)
    for i, j in enumerate(got.tolist()):
        assert similarity[i, j] == 1
        if i in chosen:
            assert j == i
        else:
            rivals = [m for m in chosen if similarity[i, m] == 1]
            assert j == max(rivals, key=lambda m: (float(strength[i, m]), m))
    assert not set(merge_map(got)) & set(chosen)


@given(similarity=draw.similarities())
def test_exact_equals_brute_force_and_greedy_is_no_smaller(similarity: np.ndarray) -> None:
    s = torch.tensor(similarity)
    exact = members(minimum_dominating_set(s))
    assert exact in function.minimum_dominating_sets(similarity)
    greedy = members(greedy_dominating_set(s))
    assert len(exact) <= len(greedy) == function.greedy_size(similarity)


@given(similarity=draw.similarities(), seed=st.integers(0, 99))
def test_exact_keeps_the_most_important_of_the_smallest_sets(
    similarity: np.ndarray, seed: int
) -> None:
    importance = np.random.default_rng(seed).integers(-3, 4, len(similarity)) * 100.0
    got = members(minimum_dominating_set(torch.tensor(similarity), None, torch.tensor(importance)))
    smallest = function.minimum_dominating_sets(similarity)
    assert got in smallest
    assert sum(importance[list(got)]) == max(sum(importance[list(s)]) for s in smallest)


@both
def test_by_hand(find: Finder) -> None:
    """A star, a path of four, three equals with and without importance, all different."""
    star = torch.eye(4)
    star[1, :] = star[:, 1] = 1
    assert find(star).tolist() == [1, 1, 1, 1]
    path = torch.eye(5) + torch.diag(torch.ones(4), 1) + torch.diag(torch.ones(4), -1)
    assert len(members(find(path))) == 2
    assert find(torch.ones(3, 3), None, torch.tensor([1.0, 5.0, 2.0])).tolist() == [1, 1, 1]
    assert find(torch.eye(3)).tolist() == [0, 1, 2]
    assert find(torch.ones(1, 1)).tolist() == [0]
    assert find(torch.ones(0, 0)).tolist() == []


def test_ties_of_the_greedy_rule_go_to_the_later_head() -> None:
    assert greedy_dominating_set(torch.ones(3, 3)).tolist() == [2, 2, 2]


def test_the_greedy_set_can_be_larger() -> None:
    """The classical trap: one head covers most, and then one more is needed on each side."""
    sides = [[0, 1, 2, 6], [3, 4, 5, 7], [1, 2, 3, 4, 8]]
    similarity = np.eye(9, dtype=np.int64)
    for hub, side in zip((6, 7, 8), sides, strict=True):
        similarity[hub, side] = similarity[side, hub] = 1
    similarity[8, 6] = similarity[6, 8] = 1
    s = torch.tensor(similarity)
    assert len(members(minimum_dominating_set(s))) == 2
    assert len(members(greedy_dominating_set(s))) == 3


# --- bad input -----------------------------------------------------------------------------------


@both
def test_bad_matrices_are_refused(find: Finder) -> None:
    with pytest.raises(ValueError, match=r"square .*got \(2, 3\)"):
        find(torch.ones(2, 3))
    with pytest.raises(ValueError, match="0 and 1; threshold it first"):
        find(torch.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="symmetric"):
        find(torch.tensor([[1, 1], [0, 1]]))
    with pytest.raises(ValueError, match="ones on the diagonal"):
        find(torch.zeros(2, 2))


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_importance_is_refused(find: Finder, value: float) -> None:
    with pytest.raises(ValueError, match="finite importance for each of 2 heads"):
        find(torch.ones(2, 2), None, torch.tensor([1.0, value]))


def test_without_scipy_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install .*or choose dominating=.greedy"):
        minimum_dominating_set(torch.ones(2, 2))
