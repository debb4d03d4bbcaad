"""Scores of units against plain loops, at zeros, for heads and neurons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.importance import (
    activity_per_unit,
    first_order_per_unit,
    first_order_per_weight,
    square_factors,
    square_per_unit,
)

shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))


def matrices(d: int, units: int, width: int, seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(d, units * width, generator=generator) for _ in range(count)]


@given(shapes)
def test_first_order_is_the_loop(shape: tuple[int, int, int, int]) -> None:
    d, units, width, seed = shape
    w, g = matrices(d, units, width, seed, 2)
    slow = np.zeros(units)
    for u in range(units):
        total = 0.0
        for f in range(u * width, (u + 1) * width):
            for i in range(d):
                total += float(w[i, f]) * float(g[i, f])
        slow[u] = total**2
    np.testing.assert_allclose(
        first_order_per_unit(w, g, width).numpy(), slow, rtol=1e-4, atol=1e-6
    )


@given(shapes)
def test_activity_is_the_loop(shape: tuple[int, int, int, int]) -> None:
    d, units, width, seed = shape
    w, x = matrices(d, units, width, seed, 2)
    mean_square = x[0].square()
    slow = np.zeros(units)
    for u in range(units):
        for f in range(u * width, (u + 1) * width):
            for i in range(d):
                slow[u] += float(mean_square[f]) * float(w[i, f]) ** 2
    found = activity_per_unit(w, mean_square, width).numpy()
    np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-6)


def test_first_order_is_the_change_of_the_loss_squared() -> None:
    """Scaling a unit's outgoing weights by 1 - h changes the loss by -h * sum w dL/dw."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return (x @ weight.T).tanh().square().sum()

    loss(w).backward()
    assert w.grad is not None
    scores = first_order_per_unit(w, w.grad)
    h = 1e-6
    with torch.no_grad():
        for unit in range(4):
            gate = torch.ones(4, dtype=torch.float64)
            gate[unit] -= h
            slope = (loss(w * gate) - loss(w)) / h
            assert float(slope**2) == pytest.approx(float(scores[unit]), rel=1e-3)


def test_units_without_weight_score_zero() -> None:
    zeros = torch.zeros(3, 4)
    assert not first_order_per_unit(zeros, torch.ones(3, 4), 2).any()
    assert not activity_per_unit(zeros, torch.ones(4), 2).any()
    assert not square_per_unit([torch.zeros(4, 3)], [zeros], 2).any()


@given(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99)))
def test_factors_of_a_square_are_its_means(shape: tuple[int, int, int]) -> None:
    n, m, seed = shape
    g = matrices(n, m, 1, seed, 1)[0]
    rows, columns = square_factors(g)
    np.testing.assert_allclose(rows.numpy(), np.square(g.numpy()).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(columns.numpy(), np.square(g.numpy()).mean(axis=0), rtol=1e-5)


def test_single_weights_are_scored_exactly_where_squares_are_a_product() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(5, generator=generator), torch.rand(7, generator=generator)
    w = torch.randn(5, 7, generator=generator)
    g = a.sqrt().unsqueeze(1) * b.sqrt()
    found = first_order_per_weight(w, *square_factors(g))
    torch.testing.assert_close(found, (w * g).abs())


def test_scores_of_single_weights_stay_close_over_samples_of_independent_factors() -> None:
    """E[g^2] of g = delta x with independent delta and x, which is what the factors assume."""
    generator = torch.Generator().manual_seed(4)
    scale_in, scale_out = torch.rand(6, generator=generator), torch.rand(8, generator=generator)
    w, seen = torch.ones(8, 6), []
    for _ in range(4000):
        x = torch.randn(6, generator=generator) * scale_in
        delta = torch.randn(8, generator=generator) * scale_out
        seen.append(torch.outer(delta, x))
    gradients = torch.stack(seen)
    factors = [square_factors(g) for g in gradients]
    rows, columns = (torch.stack(f).mean(dim=0) for f in zip(*factors, strict=True))
    exact = gradients.square().mean(dim=0).sqrt()
    torch.testing.assert_close(first_order_per_weight(w, rows, columns), exact, rtol=0.1, atol=1e-3)


def test_without_a_gradient_a_weight_has_no_score() -> None:
    w = torch.ones(3, 4)
    assert not first_order_per_weight(w, *square_factors(torch.zeros(3, 4))).any()


def test_half_precision_gradients_are_summed_in_float32() -> None:
    g = torch.full((4, 600), 1e-3, dtype=torch.bfloat16)
    rows, columns = square_factors(g)
    assert rows.dtype is columns.dtype is torch.float32
    torch.testing.assert_close(rows, g.float().square().mean(dim=1))
    assert first_order_per_weight(g, rows, columns).dtype is torch.float32
