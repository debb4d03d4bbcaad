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
    mean_square_per_unit,
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
    assert not mean_square_per_unit([torch.zeros(4, 3)], zeros, 2).any()
