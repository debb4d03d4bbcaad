"""Gates against plain loops, Monte Carlo and hand-made gradients; at the ends and at zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.gates import (
    deterministic_gate,
    expected_sparsity,
    gumbel,
    hard_concrete,
    lagrangian,
    location_of,
    open_probability,
    relaxed_top_k,
    top_k,
)
from tests.reference import gates as slow

locations = st.lists(st.floats(-6, 6), min_size=1, max_size=6)
choices = st.integers(1, 8).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, 99))
)


def normal(n: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, generator=generator, dtype=torch.float64)


# --- hard-concrete -------------------------------------------------------------------------------


@given(locations, st.integers(0, 99))
def test_samples_are_the_loop(log_alpha: list[float], seed: int) -> None:
    uniform = torch.rand(len(log_alpha), generator=torch.Generator().manual_seed(seed)).double()
    found = hard_concrete(torch.tensor(log_alpha, dtype=torch.float64), uniform)
    expected = [slow.sample(a, u) for a, u in zip(log_alpha, uniform.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, -0.3, 0.0, 1.0, 3.0])
def test_the_open_probability_is_how_often_a_gate_is_not_zero(log_alpha: float) -> None:
    number = 200_000
    uniform = torch.rand(number, generator=torch.Generator().manual_seed(0))
    drawn = hard_concrete(torch.full((number,), log_alpha), uniform)
    probability = float(open_probability(torch.tensor([log_alpha])))
    deviation = math.sqrt(probability * (1 - probability) / number)
    assert float((drawn > 0).double().mean()) == pytest.approx(probability, abs=4 * deviation)
    assert probability == pytest.approx(slow.open_share(log_alpha), abs=1e-4)
    assert drawn.min() >= 0 and drawn.max() <= 1


def test_samples_reach_both_ends_and_carry_no_nan() -> None:
    log_alpha = torch.zeros(4, requires_grad=True)
    uniform = torch.tensor([0.0, 1e-6, 0.5, 1 - 1e-6])
    drawn = hard_concrete(log_alpha, uniform)
    drawn.sum().backward()
    assert drawn[0] == 0 and drawn[1] == 0 and drawn[3] == 1 and 0 < drawn[2] < 1
    assert log_alpha.grad is not None and log_alpha.grad.isfinite().all()
    assert log_alpha.grad[2] > 0 and log_alpha.grad[0] == 0


def test_the_deterministic_gate_is_exactly_closed_and_exactly_open_at_the_ends() -> None:
    closed, wide = math.log(1 / 11), math.log(11)  # sigmoid = 1/12 and 11/12
    gates = deterministic_gate(torch.tensor([-9.0, closed - 1e-3, closed + 1e-2, 0.0, wide + 1e-3]))
    assert gates[0] == gates[1] == 0.0 and gates[4] == 1.0
    assert 0 < gates[2] < 0.01 and gates[3] == pytest.approx(0.5)


@pytest.mark.parametrize("probability", [0.01, 0.5, 0.99])
def test_a_location_has_its_open_probability(probability: float) -> None:
    found = open_probability(torch.tensor([location_of(probability)], dtype=torch.float64))
    assert float(found) == pytest.approx(probability)


# --- sparsity and Lagrangian ---------------------------------------------------------------------


@given(
    blocks=st.lists(
        st.tuples(st.floats(-5, 5), st.lists(st.floats(-5, 5), max_size=4), st.floats(0.0, 9.0)),
        min_size=1,
        max_size=4,
    ),
    wanted=st.floats(0, 0.99),
    first=st.floats(-5, 5),
    second=st.floats(0, 5),
)
def test_the_lagrangians_gradient_is_the_one_by_hand(
    blocks: list[tuple[float, list[float], float]], wanted: float, first: float, second: float
) -> None:
    alpha, members, costs = (list(x) for x in zip(*blocks, strict=True))
    whole = 1.0 + sum(c * len(m) for c, m in zip(costs, members, strict=True))
    units = torch.tensor([a for m in members for a in m], dtype=torch.float64, requires_grad=True)
    own = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    strengths = torch.tensor([first, second], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([len(m) for m in members], dtype=torch.int64)
    block_of = torch.arange(len(blocks)).repeat_interleave(sizes)
    price = torch.tensor(costs, dtype=torch.float64)[block_of]
    p, q = open_probability(units), open_probability(own)
    s = expected_sparsity(p, q, block_of, price, whole)
    parts = [x.tolist() for x in p.detach().split(sizes.tolist())]
    assert float(s.detach()) == pytest.approx(
        slow.expected_sparsity(q.tolist(), parts, costs, whole), abs=1e-12
    )
    found = torch.autograd.grad(lagrangian(s, wanted, strengths), [units, own, strengths])
    by_hand = slow.lagrangian_gradient(alpha, members, costs, whole, wanted, (first, second))
    np.testing.assert_allclose(found[0].numpy(), [x for m in by_hand[0] for x in m], atol=1e-12)
    np.testing.assert_allclose(found[1].numpy(), by_hand[1], atol=1e-12)
    np.testing.assert_allclose(found[2].numpy(), by_hand[2], atol=1e-12)


def test_sparsity_of_open_and_of_closed_gates() -> None:
    """All open: what was removed before. A closed block takes its units with it."""
    block_of, costs = torch.tensor([0, 0, 1]), torch.tensor([2.0, 2.0, 4.0])
    ones = torch.ones(3)
    assert float(expected_sparsity(ones, torch.ones(2), block_of, costs, 10.0)) == pytest.approx(
        0.2
    )
    closed = torch.tensor([0.0, 1.0])
    assert float(expected_sparsity(ones, closed, block_of, costs, 10.0)) == pytest.approx(0.6)
    assert float(expected_sparsity(0 * ones, closed, block_of, costs, 10.0)) == 1.0


def test_the_lagrangian_of_a_met_target_is_zero() -> None:
    assert float(lagrangian(torch.tensor(0.5), 0.5, torch.tensor([3.0, 7.0]))) == 0.0


# --- relaxed top-k -------------------------------------------------------------------------------


@given(choices, st.floats(0.05, 20.0))
def test_the_relaxed_choice_is_the_loop_and_sums_to_k(
    choice: tuple[int, int, int], temperature: float
) -> None:
    n, count, seed = choice
    scores = normal(n, seed)
    gates = relaxed_top_k(scores, count, temperature)
    assert float(gates.sum()) == pytest.approx(count, abs=1e-9)
    expected = slow.relaxed_top_k(scores.numpy(), count, temperature)
    np.testing.assert_allclose(gates.numpy(), expected, atol=1e-6)


@given(choices, st.sampled_from([1e-2, 1e-4, 1e-8]))
def test_cold_it_is_the_hard_choice(choice: tuple[int, int, int], temperature: float) -> None:
    """Also in float32, with scores far apart, where a softmax rounds to 1."""
    n, count, seed = choice
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for gap in (1.0, 300.0):
        scores = (gap * order).float().requires_grad_()
        gates = relaxed_top_k(scores, count, temperature)
        np.testing.assert_allclose(
            gates.detach().numpy(), top_k(scores.detach(), count).numpy(), atol=1e-5
        )
        gates.square().sum().backward()
        assert scores.grad is not None and scores.grad.isfinite().all()


def test_warm_it_is_uniform() -> None:
    gates = relaxed_top_k(normal(6, 0), 2, 1e4)
    np.testing.assert_allclose(gates.numpy(), 2 / 6, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_its_gradient_is_that_of_differences(count: int) -> None:
    scores = normal(5, 3).requires_grad_()
    for temperature in (0.3, 1.0, 4.0):
        assert torch.autograd.gradcheck(lambda r, t=temperature: relaxed_top_k(r, count, t), scores)


def test_the_hard_choice_breaks_ties_in_order() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 1.0])
    assert top_k(logits, 2).tolist() == [1.0, 1.0, 0.0, 0.0]
    assert top_k(logits, 0).tolist() == [0.0] * 4 and top_k(logits, 4).tolist() == [1.0] * 4


def test_the_hard_choice_of_noisy_logits_samples_without_replacement() -> None:
    """One of three is drawn with probability softmax(logits)."""
    logits = torch.tensor([0.0, 1.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    count = torch.zeros(3)
    for _ in range(4000):
        count += top_k(logits + gumbel(torch.rand(3, generator=generator)), 1)
    np.testing.assert_allclose((count / 4000).numpy(), logits.softmax(0).numpy(), atol=0.03)
    assert gumbel(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()
