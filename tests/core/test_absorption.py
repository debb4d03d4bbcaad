"""core.absorption against lstsq on the samples, and at its corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.core.absorption import absorb, cross_validated_ridge
from tests.reference import function

seeds = st.integers(0, 999)


def layer(seed: int, n: int, d: int = 3) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor]:
    """Correlated samples and the weight that reads them; the same as moments, float64."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * n + 5, n)) @ (np.eye(n) + 0.5 * rng.normal(size=(n, n)))
    weight = rng.normal(size=(d, n))
    return x, weight, torch.tensor(x.T @ x / len(x)), torch.tensor(weight)


def split(seed: int, n: int) -> tuple[list[int], list[int]]:
    """Kept and removed features in any order, some in neither."""
    rng = np.random.default_rng(seed)
    order = [int(f) for f in rng.permutation(n)]
    a, b = sorted(rng.integers(0, n + 1, 2))
    return order[:a], order[a:b]


def index(features: list[int]) -> Tensor:
    return torch.tensor(features, dtype=torch.int64)


@given(seed=seeds, n=st.integers(1, 8), ridge=st.sampled_from([0.0, 1e-12]))
def test_absorption_equals_least_squares_on_the_samples(seed: int, n: int, ridge: float) -> None:
    x, weight, gram, w = layer(seed, n)
    kept, removed = split(seed + 1, n)
    got = absorb(gram, w, index(kept), index(removed), ridge)
    np.testing.assert_allclose(got.numpy(), function.absorb(x, weight, kept, removed), atol=1e-6)


@given(seed=seeds, n=st.integers(2, 6), ridge=st.sampled_from([1e-3, 0.5]))
def test_no_other_weight_is_better(seed: int, n: int, ridge: float) -> None:
    """The damped objective has its minimum at W': every small change of W' raises it."""
    x, weight, gram, w = layer(seed, n)
    kept, removed = list(range(n - 1)), [n - 1]
    got = absorb(gram, w, index(kept), index(removed), ridge).numpy()
    lam = ridge * float(gram.diagonal()[:-1].mean())

    def objective(absorbed: np.ndarray) -> float:
        damped = lam * float(((absorbed - weight[:, kept]) ** 2).sum())
        return function.residual(x, weight, absorbed, kept, removed) + damped

    best = objective(got)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        assert objective(got + 1e-2 * rng.normal(size=got.shape)) > best


def test_a_copy_in_another_basis_is_absorbed_without_loss() -> None:
    x, weight, _, w = layer(0, 4)
    x[:, 2:] = x[:, :2] @ np.array([[2.0, 1.0], [-1.0, 3.0]])
    gram = torch.tensor(x.T @ x / len(x))
    kept, removed = index([0, 1]), index([2, 3])
    absorbed = absorb(gram, w, kept, removed, 1e-12)
    np.testing.assert_allclose(x[:, :2] @ absorbed.numpy().T, x @ weight.T, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_narrow_weights_come_back_in_float32(dtype: torch.dtype) -> None:
    _, _, gram, w = layer(1, 4)
    got = absorb(gram.float(), w.to(dtype), index([0, 1]), index([2, 3]))
    assert got.dtype == torch.float32
    expected = absorb(gram, w.to(dtype).double(), index([0, 1]), index([2, 3]))
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_dead_and_repeated_features(ridge: float) -> None:
    """All-zero moments change nothing; a repeated kept feature shares the work; no NaN."""
    w = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(absorb(zeros, w, index([0, 1]), index([2]), ridge), w[:, :2])
    ones = torch.ones(3, 3, dtype=torch.float64)
    got = absorb(ones, w, index([0, 1]), index([2]), ridge)
    torch.testing.assert_close(got, w[:, :2] + w[:, 2:] / 2, rtol=0, atol=1e-3)
    assert absorb(ones, w, index([]), index([2]), ridge).shape == (2, 0)
    assert torch.equal(absorb(ones, w, index([0, 1, 2]), index([]), ridge), w)


def test_slightly_indefinite_moments_are_damped_more() -> None:
    gram = torch.ones(3, 3, dtype=torch.float64)
    gram[0, 0] -= 1e-3
    got = absorb(gram, torch.ones(1, 3, dtype=torch.float64), index([0, 1]), index([2]), 1e-9)
    assert got.isfinite().all()
    assert got.abs().max() < 10


# --- the choice of the damping -----------------------------------------------------------------


@given(seed=seeds, n=st.integers(2, 8))
def test_the_chosen_damping_does_best_on_the_other_half(seed: int, n: int) -> None:
    """Against the plain loop over samples; none where removal alone does better."""
    x, weight, _, w = layer(seed, n)
    kept, removed = split(seed + 1, n)
    halves = x[: len(x) // 2], x[len(x) // 2 :]
    grams = [torch.tensor(h.T @ h / len(h)) for h in halves]
    ridges = (1e-3, 1e-1, 1.0)

    def error(ridge: float | None) -> float:
        total = 0.0
        for fitted, other in ((0, 1), (1, 0)):
            absorbed = weight[:, kept]
            if ridge is not None:
                absorbed = absorb(grams[fitted], w, index(kept), index(removed), ridge).numpy()
            total += function.residual(halves[other], weight, absorbed, kept, removed)
        return total

    got = cross_validated_ridge((grams[0], grams[1]), w, index(kept), index(removed), ridges)
    assert error(got) <= min(map(error, (None, *ridges))) * (1 + 1e-9) + 1e-12
    if not removed or not kept:
        assert got is None


def test_noise_is_not_absorbed() -> None:
    """Independent features, fewer samples than features: no damping of those given helps."""
    rng = np.random.default_rng(0)
    grams = [torch.tensor(x.T @ x / 5) for x in rng.normal(size=(2, 5, 20))]
    weight = torch.tensor(rng.normal(size=(4, 20)))
    kept, removed = index(list(range(15))), index(list(range(15, 20)))
    assert cross_validated_ridge((grams[0], grams[1]), weight, kept, removed, (1e-4, 1e-2)) is None


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [-1e-9, math.nan, math.inf])
def test_bad_ridge_is_refused(ridge: float) -> None:
    with pytest.raises(ValueError, match="ridge must be"):
        absorb(torch.eye(2), torch.ones(1, 2), index([0]), index([1]), ridge)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_moments_that_are_not_finite_are_refused(value: float) -> None:
    gram = torch.eye(2)
    gram[0, 1] = value
    with pytest.raises(ValueError, match="finite second moments"):
        absorb(gram, torch.ones(1, 2), index([0]), index([1]))


@pytest.mark.parametrize("ridge", [0.0, -1.0, math.nan])
def test_bad_ridges_to_choose_from_are_refused(ridge: float) -> None:
    eye, kept, removed = torch.eye(2), index([0]), index([1])
    with pytest.raises(ValueError, match="ridge"):
        cross_validated_ridge((eye, eye), torch.ones(1, 2), kept, removed, (1e-2, ridge))
