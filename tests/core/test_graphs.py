"""Equations of graphs: at values that are known, and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuroprune.core.graphs import (
    bipartite_clustering,
    effective_rank,
    gini,
    mean_path_length,
    power_law_distance,
    power_law_exponent,
    power_law_log_likelihoods,
    power_law_tail,
    strongest,
    unit_degrees,
)
from tests.reference import graphs as slow
from tests.strategies import matrices

# Edges of small graphs: empty, complete, in pieces, with nodes that have none.
graphs = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(lambda n: hnp.arrays(bool, n))
counts = st.lists(st.integers(1, 25), min_size=1, max_size=12)


def test_gini_of_equals_is_zero_and_of_one_owner_is_n_minus_1_over_n() -> None:
    assert gini(torch.full((7,), 3.0)) == pytest.approx(0.0, abs=1e-9)
    assert gini(torch.tensor([0.0, 0.0, 0.0, 5.0])) == pytest.approx(0.75)
    assert gini(torch.zeros(4)) == 0.0
    assert gini(torch.zeros(0)) == 0.0


def test_gini_is_half_the_relative_mean_difference() -> None:
    values = torch.tensor([1.0, 2.0, 2.0, 7.0])
    differences = [abs(float(a - b)) for a in values for b in values]
    expected = sum(differences) / len(differences) / (2 * float(values.mean()))
    assert gini(values) == pytest.approx(expected)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(6)) == pytest.approx(6.0, rel=1e-5)
    assert effective_rank(torch.ones(4, 5)) == pytest.approx(1.0, rel=1e-3)
    assert effective_rank(torch.zeros(3, 3)) == 0.0
    two = torch.diag(torch.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(two) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_the_exponent_of_a_power_law_is_recovered() -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.arange(1, 100_000, dtype=torch.float64)
    weights = support.pow(-2.5)
    drawn = torch.multinomial(weights, 20_000, replacement=True, generator=generator) + 1
    assert power_law_exponent(drawn, 1) == pytest.approx(2.5, abs=0.05)


def test_strongest_takes_the_largest_magnitudes() -> None:
    weight = torch.tensor([[0.1, -3.0], [2.0, 0.0]])
    assert strongest(weight, 2).tolist() == [[False, True], [True, False]]
    assert not strongest(weight, 0).any()


def test_clustering_of_a_complete_and_of_an_edgeless_graph() -> None:
    assert bipartite_clustering(torch.ones(4, 5, dtype=torch.bool)) == pytest.approx(1.0)
    assert bipartite_clustering(torch.zeros(4, 5, dtype=torch.bool)) == 0.0


@given(st.lists(st.one_of(st.just(0.0), st.floats(0.125, 100)), max_size=8))
def test_gini_agrees_with_the_loop(values: list[float]) -> None:
    found = gini(torch.tensor(values, dtype=torch.float64))
    assert found == pytest.approx(slow.gini(values), rel=1e-9, abs=1e-12)


@given(matrices(elements=st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0])))
def test_effective_rank_agrees_with_the_loop(matrix: np.ndarray) -> None:
    # Eigenvalues of W W^T lose half the digits of a singular value that is 0.
    found = effective_rank(torch.tensor(matrix))
    assert found == pytest.approx(slow.effective_rank(matrix), rel=1e-5)


@given(st.data())
def test_unit_degrees_agree_with_the_loop(data: st.DataObject) -> None:
    units = data.draw(st.integers(1, 5))
    sides = [data.draw(hnp.arrays(bool, (units, data.draw(st.integers(1, 4))))) for _ in range(3)]
    fan_in, fan_out = sides[: data.draw(st.integers(1, 2))], sides[2].T
    found = unit_degrees([torch.tensor(mask) for mask in fan_in], torch.tensor(fan_out))
    assert found.tolist() == slow.unit_degrees(fan_in, fan_out)


@given(counts, st.floats(1.2, 6), st.integers(1, 5))
def test_power_law_probabilities_agree_with_the_loop(
    values: list[int], exponent: float, xmin: int
) -> None:
    tail = [value + xmin - 1 for value in values]
    found = power_law_log_likelihoods(torch.tensor(tail), exponent, xmin)
    expected = [slow.power_law_log_likelihood(value, exponent, xmin) for value in tail]
    assert found.tolist() == pytest.approx(expected, rel=1e-8)
    distance = power_law_distance(torch.tensor(tail), exponent, xmin)
    assert distance == pytest.approx(slow.power_law_distance(tail, exponent, xmin), abs=1e-8)


@given(counts, st.integers(1, 5))
def test_no_other_exponent_is_more_likely(values: list[int], xmin: int) -> None:
    tail = [value + xmin - 1 for value in values]
    found = power_law_exponent(torch.tensor(tail), xmin)
    steepest = min(64.0, 690 / math.log(xmin + 1))

    def likelihood(exponent: float) -> float:
        return sum(slow.power_law_log_likelihood(value, exponent, xmin) for value in tail)

    grid = [found - 0.01, found + 0.01, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0]
    others = [likelihood(a) for a in grid if 1.0 < a <= steepest]
    assert likelihood(found) >= max(others) - 1e-9 * len(tail)


@settings(max_examples=12)  # a fit for every beginning
@given(counts, st.integers(1, 5))
def test_the_tail_is_the_best_of_all_beginnings(values: list[int], least: int) -> None:
    if len(values) < least:
        values = values * least
    exponent, xmin, distance = power_law_tail(torch.tensor(values), least)
    found = []
    for start in sorted(set(values)):
        if sum(value >= start for value in values) >= least:
            fitted = power_law_exponent(torch.tensor(values), start)
            found.append((slow.power_law_distance(values, fitted, start), start, fitted))
    assert distance == pytest.approx(min(found)[0], abs=1e-8)
    near = [start for gap, start, _ in found if gap <= distance + 1e-8]
    assert xmin in near
    assert exponent == power_law_exponent(torch.tensor(values), xmin)


@given(matrices(), st.integers(0, 12))
def test_strongest_agrees_with_the_loop(matrix: np.ndarray, count: int) -> None:
    found = strongest(torch.tensor(matrix), count)
    assert found.tolist() == slow.strongest(matrix, count).tolist()


@given(graphs)
def test_clustering_agrees_with_counting_squares_and_paths(edges: np.ndarray) -> None:
    assert bipartite_clustering(torch.tensor(edges)) == pytest.approx(slow.clustering(edges))


@given(graphs, st.data())
def test_path_lengths_agree_with_one_search_per_source(
    edges: np.ndarray, data: st.DataObject
) -> None:
    nodes = list(range(sum(edges.shape)))
    sources = data.draw(st.lists(st.sampled_from(nodes), unique=True))
    found = mean_path_length(torch.tensor(edges), torch.tensor(sources, dtype=torch.int64))
    assert found == pytest.approx(slow.path_length(edges, sources))
