"""core.fisher: the search against all choices, exchanges and tuning against their slow twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.core.fisher import (
    LIMIT,
    contribution_moments,
    fisher_block,
    rearranged,
    removal_loss,
    search_masks,
    tuned_masks,
)
from neuroprune.core.importance import first_order_per_unit, gate_gradient
from tests.reference import rivals

seeds = st.integers(0, 9999)
NONE = torch.zeros(0, dtype=torch.float64)


def doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def searched(
    heads: list[float], head: float, neurons: list[float], neuron: float, needed: float
) -> tuple[Tensor, Tensor]:
    costs = [head] * len(heads), [neuron] * len(neurons)
    return search_masks(
        doubles(heads), doubles(costs[0]), doubles(neurons), doubles(costs[1]), needed
    )


# --- search --------------------------------------------------------------------------------------


@given(
    heads=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.5]), max_size=4),
    neurons=st.lists(st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.5]), max_size=6),
    head=st.sampled_from([1.0, 3.0, 4.5]),
    neuron=st.sampled_from([0.75, 1.0]),
    share=st.floats(-0.1, 1.0),
)
def test_no_other_choice_that_frees_the_budget_costs_less(
    heads: list[float], neurons: list[float], head: float, neuron: float, share: float
) -> None:
    scores, costs = heads + neurons, [head] * len(heads) + [neuron] * len(neurons)
    needed = share * sum(costs)
    best, sets = rivals.least_loss(scores, costs, needed)
    masks = searched(heads, head, neurons, neuron, needed)
    gone = torch.cat(masks).nonzero().squeeze(1).tolist()
    assert sum(scores[u] for u in gone) == pytest.approx(best, abs=1e-9)
    assert tuple(gone) in sets
    freed = sum(costs[u] for u in gone)
    assert freed >= needed - 1e-6
    if masks[1].any():
        assert freed < max(needed, 0.0) + neuron, "no neuron goes that need not"


@given(seed=seeds, number=st.integers(0, 5), share=st.floats(0, 1))
def test_a_number_of_heads_can_be_fixed(seed: int, number: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    heads, neurons = doubles(list(rng.random(5))), doubles(list(rng.random(7)))
    needed = share * (number * 4.0 + 7.0)
    costs = torch.full_like(heads, 4.0), torch.ones_like(neurons)
    gone, cut = search_masks(heads, costs[0], neurons, costs[1], needed, number)
    assert int(gone.sum()) == number
    assert torch.equal(gone.nonzero().squeeze(1), heads.argsort()[:number].sort().values)
    assert int(cut.sum()) == max(0, int(np.ceil(needed - number * 4.0 - 1e-6)))


def test_dear_units_go_by_score_per_cost_where_costs_differ() -> None:
    scores, costs = doubles([3.0, 2.0]), doubles([3.0, 1.0])
    heads, neurons = search_masks(scores, costs, NONE, NONE, 3.0)
    assert heads.tolist() == [True, False] and not neurons.tolist()


def test_what_is_not_enough_takes_all() -> None:
    heads, neurons = searched([1.0, 2.0], 2.0, [1.0], 1.0, 9.0)
    assert heads.all() and neurons.all()
    heads, neurons = searched([], 2.0, [], 1.0, 9.0)
    assert heads.shape == neurons.shape == (0,)
    assert not torch.cat(searched([0.0], 2.0, [0.0], 1.0, 0.0)).any()


# --- rearrangement -------------------------------------------------------------------------------


@given(seed=seeds, batches=st.integers(1, 5), units=st.integers(1, 8), share=st.floats(0, 1))
def test_exchanges_are_those_of_the_slow_twin_and_never_make_it_worse(
    seed: int, batches: int, units: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(batches, units))
    fisher = fisher_block(torch.tensor(gradients))
    gone = torch.zeros(units, dtype=torch.bool)
    gone[fisher.diagonal().argsort()[: round(share * units)]] = True
    before = gone.clone()
    after = rearranged(fisher, gone)
    assert torch.equal(gone, before), "the mask that was given is not changed"
    assert int(after.sum()) == int(gone.sum())
    loss, old = float(removal_loss(fisher, after)), float(removal_loss(fisher, gone))
    assert loss <= old + 1e-9
    assert loss == pytest.approx(
        rivals.masked_change(gradients, after.nonzero().squeeze(1).tolist())
    )
    twin = rivals.exchange(gradients, gone.nonzero().squeeze(1).tolist())
    assert loss == pytest.approx(rivals.masked_change(gradients, twin), abs=1e-9)


def test_a_unit_that_undoes_another_goes_with_it() -> None:
    """The third unit is the dearest by itself, and the first costs next to nothing beside it."""
    fisher = fisher_block(torch.tensor([[1.0, 1.0, -1.1], [2.0, 2.0, -2.1]]))
    gone = torch.tensor([True, True, False])
    found = rearranged(fisher, gone)
    assert found[2] and int(found.sum()) == 2
    assert float(removal_loss(fisher, found)) == pytest.approx(0.02)
    assert float(removal_loss(fisher, gone)) == 20.0


def test_nothing_is_exchanged_without_interactions() -> None:
    fisher = torch.diag(doubles([1.0, 2.0, 3.0, 3.0]))
    gone = torch.tensor([True, True, False, False])
    assert torch.equal(rearranged(fisher, gone), gone)
    assert torch.equal(rearranged(fisher, ~gone), gone), "a start that is not best is put right"
    for all_or_none in (torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        assert torch.equal(rearranged(fisher, all_or_none), all_or_none)
    zero = torch.zeros(4, 4, dtype=torch.float64)
    assert torch.equal(rearranged(zero, gone), gone), "ties exchange nothing"


# --- tuning --------------------------------------------------------------------------------------


def layer(seed: int, units: int, width: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    rng = np.random.default_rng(seed)
    n = units * width
    x = rng.normal(size=(3 * n + 5, n)) @ (np.eye(n) + 0.5 * rng.normal(size=(n, n)))
    weight = rng.normal(size=(3, n))
    return (
        x,
        weight,
        contribution_moments(torch.tensor(x.T @ x / len(x)), torch.tensor(weight), width),
    )


@given(
    seed=seeds, units=st.integers(2, 5), width=st.integers(1, 3), ridge=st.sampled_from([0.0, 1e-4])
)
def test_tuning_lowers_the_reconstruction_error(
    seed: int, units: int, width: int, ridge: float
) -> None:
    x, weight, moments = layer(seed, units, width)
    order = torch.tensor(np.random.default_rng(seed + 1).permutation(units))
    cut = 1 + seed % (units - 1)
    kept, removed = order[cut:], order[:cut]
    staying = kept.numpy()
    masks = np.zeros(units)
    masks[staying] = 1.0
    plain = rivals.reconstruction(x, weight, width, masks.tolist())
    masks[staying] = tuned_masks(moments, kept, removed, ridge).numpy()
    tuned = rivals.reconstruction(x, weight, width, masks.tolist())
    assert tuned <= plain * (1 + 1e-6)
    if ridge or np.abs(masks).max() == 1.0:
        return
    for u in kept.tolist():  # the minimum: a step in any direction raises the error
        for step in (1e-3, -1e-3):
            other = masks.copy()
            other[u] += step
            assert rivals.reconstruction(x, weight, width, other.tolist()) >= tuned * (1 - 1e-9)


def test_a_twin_takes_over_exactly() -> None:
    gram = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]).double()
    weight = torch.tensor([[1.0, 1.0, 5.0]]).double()
    moments = contribution_moments(gram, weight)
    masks = tuned_masks(moments, torch.tensor([0, 2]), torch.tensor([1]), ridge=0.0)
    torch.testing.assert_close(masks, doubles([2.0, 1.0]))


def test_masks_beyond_the_limit_are_not_used() -> None:
    """A faint copy of a strong unit would have to be blown up."""
    for faint, expected in ((0.5, 3.0), (0.05, 1.0)):
        x = torch.tensor([[faint, 1.0]]).double()
        moments = contribution_moments(x.T @ x, torch.ones(1, 2).double())
        masks = tuned_masks(moments, torch.tensor([0]), torch.tensor([1]), ridge=0.0)
        assert float(masks) == pytest.approx(expected)
        assert float(masks) <= LIMIT
    silent = torch.zeros(2, 2, dtype=torch.float64)
    assert tuned_masks(silent, torch.tensor([0]), torch.tensor([1])).tolist() == [1.0]


def test_features_divide_into_units() -> None:
    with pytest.raises(ValueError, match="units of 2 features, got 3"):
        contribution_moments(torch.eye(3), torch.ones(1, 3), 2)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3])
def test_the_gradient_of_a_gate_is_read_off_the_weights(width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 6), torch.randn(4, 6, requires_grad=True)
    gate = torch.ones(6 // width, requires_grad=True)
    ((x * gate.repeat_interleave(width)) @ weight.T).pow(3).sum().backward()
    assert weight.grad is not None and gate.grad is not None
    found = gate_gradient(weight, weight.grad, width)
    torch.testing.assert_close(found, gate.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first_order_per_unit(weight, weight.grad, width), found.square())
