"""Equations of graphs, at values that are known."""

from __future__ import annotations

import math

import pytest
import torch

from neuroprune.core.graphs import (
    bipartite_clustering,
    effective_rank,
    gini,
    power_law_exponent,
    strongest,
)


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
