"""core.similarity against d x d circuits and samples, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neuroprune.core import similarity
from tests.reference import function

seeds = st.integers(0, 999)
by_type = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.tensor(a) for a in arrays]


def drawn_heads(seed: int, k: int, cross: bool = False) -> list[np.ndarray]:
    """Q, K, V, O of k heads; some all zero, some without one of the circuits, some copies."""
    rng = np.random.default_rng(seed)
    d_q, d_kv = 5, 3 if cross else 5
    shapes = ((k, 2, d_q), (k, 2, d_kv), (k, 3, d_kv), (k, 3, d_q))
    parts = [rng.normal(size=shape) for shape in shapes]
    for head in range(k):
        kind = rng.integers(0, 6)
        zeroed = {0: (0, 1, 2, 3), 1: (0,), 2: (3,)}.get(int(kind), ())
        for part in zeroed:
            parts[part][head] = 0
        if kind == 3:
            for part in parts:
                part[head] = part[0]
    return parts


def samples(seed: int, heads: int, width: int, count: int = 17) -> np.ndarray:
    """Correlated features with a mean, one head silent now and then."""
    rng = np.random.default_rng(seed)
    n = heads * width
    x = rng.normal(size=(count, n)) @ rng.normal(size=(n, n)) + rng.normal(size=n)
    if rng.integers(0, 3) == 0:
        x[:, :width] = 0
    return x


# --- circuits ------------------------------------------------------------------------------------


@given(seed=seeds, k=st.integers(1, 5), cross=st.booleans())
def test_circuits_equal_the_reference(seed: int, k: int, cross: bool) -> None:
    parts = drawn_heads(seed, k, cross)
    got = similarity.circuit_similarity(*tensors(*parts))
    assert got.dtype == torch.float32
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), torch.ones(k))
    assert got.abs().max() <= 1
    np.testing.assert_allclose(got.numpy(), function.circuit_similarity(*parts), atol=1e-6)


@given(seed=seeds, k=st.integers(1, 4), spread=st.sampled_from([1.0, 30.0]))
def test_circuits_do_not_depend_on_the_basis(seed: int, k: int, spread: float) -> None:
    """Q -> R Q, K -> R^-T K, V -> S V, O -> S^-T O, bases of condition up to about 1000."""
    q, keys, v, o = drawn_heads(seed, k)
    before = similarity.circuit_similarity(*tensors(q, keys, v, o))
    rng = np.random.default_rng(seed + 1)
    for head in range(k):
        r = np.linalg.qr(rng.normal(size=(2, 2)))[0] @ np.diag([spread, 1 / spread])
        s = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag([spread, 1.0, 1 / spread])
        q[head], keys[head] = r @ q[head], np.linalg.inv(r).T @ keys[head]
        v[head], o[head] = s @ v[head], np.linalg.inv(s).T @ o[head]
    after = similarity.circuit_similarity(*tensors(q, keys, v, o))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@by_type
def test_a_copy_in_another_scale_is_a_copy_and_an_opposite_is_not(dtype: torch.dtype) -> None:
    parts = [torch.randn(1, 2, 4, dtype=torch.float64).to(dtype) for _ in range(4)]
    q, k, v, o = (torch.cat([p, p, p]) for p in parts)
    q[1] *= 4
    q[2] *= -1
    o[2] *= -1
    got = similarity.circuit_similarity(q, k, v, o)
    assert torch.equal(got[0], torch.tensor([1.0, 1.0, -1.0]))


def test_zero_heads_are_like_no_other_and_there_may_be_no_head() -> None:
    zeros = torch.zeros(3, 2, 4)
    assert torch.equal(similarity.circuit_similarity(zeros, zeros, zeros, zeros), torch.eye(3))
    none = torch.zeros(0, 2, 4)
    assert similarity.circuit_similarity(none, none, none, none).shape == (0, 0)


# --- outputs -------------------------------------------------------------------------------------


@given(seed=seeds, heads=st.integers(1, 4), width=st.integers(1, 3))
def test_outputs_equal_the_reference(seed: int, heads: int, width: int) -> None:
    x = samples(seed, heads, width)
    weight = np.random.default_rng(seed + 1).normal(size=(4, heads * width))
    gram, w = tensors(x.T @ x / len(x), weight)
    got = similarity.output_similarity(gram, w, heads)
    assert torch.equal(got, got.T)
    assert torch.equal(got.diagonal(), torch.ones(heads))
    expected = function.output_similarity(x, weight, heads)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_silent_heads_are_like_no_other() -> None:
    gram, weight = torch.zeros(6, 6), torch.ones(2, 6)
    assert torch.equal(similarity.output_similarity(gram, weight, 3), torch.eye(3))
    assert similarity.output_similarity(torch.zeros(0, 0), torch.ones(2, 0), 0).shape == (0, 0)


@pytest.mark.parametrize("heads", [0, 4, -1])
def test_moments_of_other_heads_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"moments of {heads} heads .* got 6 features"):
        similarity.output_similarity(torch.eye(6), torch.ones(2, 6), heads)


# --- parallel neurons ----------------------------------------------------------------------------


def neurons(seed: int, d_ff: int) -> np.ndarray:
    """Rows in few directions, scaled, opposite and zero ones among them."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(3, 6))
    scale = rng.choice([0.0, 0.5, 1.0, 1.03, -1.0, 3.0], size=(d_ff, 1))
    return scale * directions[rng.integers(0, 3, d_ff)] + 0.02 * scale * rng.normal(size=(d_ff, 6))


@given(
    seed=seeds,
    d_ff=st.integers(0, 14),
    degree=st.sampled_from([None, 1, 2]),
    threshold=st.sampled_from([0.5, 0.99, 1.0]),
    block=st.sampled_from([1, 3, 100]),
)
def test_parallel_neurons_equal_the_reference(
    seed: int, d_ff: int, degree: int | None, threshold: float, block: int
) -> None:
    rows = neurons(seed, d_ff)
    expected = function.parallel_neurons(rows, threshold, degree, 0.05)
    got = similarity.parallel_neurons(torch.tensor(rows), threshold, degree, 0.05, block)
    assert {n: r for n, (r, _) in got.items()} == {n: r for n, (r, _) in expected.items()}
    for n, (_, scale) in expected.items():
        assert got[n][1] == pytest.approx(scale)
    assert not set(got) & {r for r, _ in got.values()}


@pytest.mark.parametrize("gated", [False, True])
@given(seed=seeds)
def test_folding_parallel_relu_neurons_is_exact(gated: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fan_in = rng.normal(size=(3, 8))[rng.integers(0, 3, 7)] * rng.uniform(0.2, 3, (7, 1))
    x, down = rng.normal(size=(5, 3)), rng.normal(size=(2, 7))

    def emit(rows: np.ndarray) -> np.ndarray:
        up, gate = x @ rows[:, :3].T + rows[:, 3], x @ rows[:, 4:7].T + rows[:, 7]
        return np.maximum(gate, 0) * up if gated else np.maximum(up, 0)

    rows = fan_in if gated else fan_in[:, :4]
    folds = similarity.parallel_neurons(torch.tensor(rows), 1.0, degree=2 if gated else 1)
    assert len(folds) == 7 - len(np.unique(np.round(rows / rows[:, :1], 6), axis=0))
    folded = down.copy()
    for n, (r, s) in folds.items():
        folded[:, r] += down[:, n] * s
        folded[:, n] = 0
    np.testing.assert_allclose(emit(fan_in) @ folded.T, emit(fan_in) @ down.T, atol=1e-9)


@by_type
def test_exact_copies_fold_whatever_the_activation(dtype: torch.dtype) -> None:
    row = torch.randn(1, 300).to(dtype)
    rows = torch.cat([row, -row, 2 * row, row, torch.zeros_like(row), torch.zeros_like(row)])
    assert similarity.parallel_neurons(rows, 1.0) == {3: (0, 1.0)}
    got = similarity.parallel_neurons(rows, 1.0, degree=1)
    assert set(got) == {2, 3}
    assert got[2] == (0, pytest.approx(2.0, rel=1e-5))


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_bad_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\]"):
        similarity.parallel_neurons(torch.ones(2, 2), threshold)


def test_bad_block_and_tolerance_are_refused() -> None:
    with pytest.raises(ValueError, match="block must be >= 1, got 0"):
        similarity.parallel_neurons(torch.ones(2, 2), 0.9, block=0)
    with pytest.raises(ValueError, match="tolerance must be"):
        similarity.parallel_neurons(torch.ones(2, 2), 0.9, tolerance=-1.0)
