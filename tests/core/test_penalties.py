"""core.penalties: value and gradient against the loops, autograd and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core import penalties
from tests import strategies as draw
from tests.reference import paper

by_dtype = pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)


def autograd(penalty: Callable[..., torch.Tensor], *parts: torch.Tensor) -> list[torch.Tensor]:
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    return list(torch.autograd.grad(penalty(*leaves), leaves))


def split(matrix: torch.Tensor, where: list[int]) -> list[torch.Tensor]:
    """Columns cut at `where` (positions modulo the width); parts may be empty."""
    cuts = sorted(cut % (matrix.shape[1] + 1) for cut in where)
    return list(torch.tensor_split(matrix, cuts, dim=1))


def close(got: torch.Tensor, expected: np.ndarray | float, dtype: torch.dtype) -> None:
    np.testing.assert_allclose(draw.as_float64(got), expected, rtol=draw.RTOL[dtype], atol=1e-12)


# --- preferential attachment ---------------------------------------------------------------------


@by_dtype
@given(matrix=draw.matrices())
def test_mlp_value_and_gradients_equal_the_reference(
    dtype: torch.dtype, matrix: np.ndarray
) -> None:
    weight, held = draw.stored(matrix, dtype)
    eps = draw.rounded(draw.EPS, dtype)
    close(penalties.mlp_penalty(weight, draw.EPS), paper.mlp_penalty(held, eps), dtype)
    expected = paper.mlp_penalty_gradient(held, eps)
    closed = penalties.mlp_penalty_grad(weight, draw.EPS)
    (by_autograd,) = autograd(lambda w: penalties.mlp_penalty(w, draw.EPS), weight)
    assert closed.dtype == by_autograd.dtype == dtype
    close(closed, expected, dtype)
    close(by_autograd, expected, dtype)


@given(matrix=draw.smooth_matrices(), dead=st.lists(st.integers(0, 3), max_size=4))
def test_mlp_gradient_equals_finite_differences(matrix: np.ndarray, dead: list[int]) -> None:
    for row, column in enumerate(dead):  # some entries below eps: no connection, still penalised
        matrix[row % matrix.shape[0], column % matrix.shape[1]] = draw.EPS / 2
    expected = paper.finite_differences(lambda w: paper.mlp_penalty(w, draw.EPS), matrix)
    got = penalties.mlp_penalty_grad(torch.tensor(matrix), draw.EPS)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_poor_rows_are_pushed_harder() -> None:
    """The point of the penalty, on numbers worked out by hand."""
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert penalties.mlp_penalty(weight, draw.EPS).item() == 4.0 / 1.0 + 1.0 / 0.25 + 0.0
    assert penalties.mlp_penalty_grad(weight, draw.EPS).tolist() == [
        [1.0, 1.0, 1.0, 1.0],
        [4.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]


# --- the rows of [Q, K, V] -----------------------------------------------------------------------


@by_dtype
@given(matrix=draw.matrices(), cuts=st.lists(st.integers(0, 20), max_size=2))
def test_attention_value_and_gradients_equal_the_reference(
    dtype: torch.dtype, matrix: np.ndarray, cuts: list[int]
) -> None:
    rows, held = draw.stored(matrix, dtype)
    parts = split(rows, cuts)
    close(penalties.attention_penalty(*parts), paper.attention_penalty(held), dtype)
    expected = paper.attention_penalty_gradient(held)
    closed = penalties.attention_penalty_grad(*parts)
    by_autograd = autograd(penalties.attention_penalty, *parts)
    for part, one, other in zip(parts, closed, by_autograd, strict=True):
        assert one.dtype == other.dtype == dtype
        assert one.shape == other.shape == part.shape
    close(torch.cat(list(closed), dim=1), expected, dtype)
    close(torch.cat(by_autograd, dim=1), expected, dtype)


@by_dtype
@given(matrix=draw.matrices(), cuts=st.lists(st.integers(0, 20), max_size=2))
def test_row_weight_is_what_the_sign_is_multiplied_by(
    dtype: torch.dtype, matrix: np.ndarray, cuts: list[int]
) -> None:
    rows, held = draw.stored(matrix, dtype)
    expected = [0.0 if not row.any() else 0.5 / math.sqrt(np.abs(row).sum()) for row in held]
    got = penalties.attention_row_weight(*split(rows, cuts))
    np.testing.assert_allclose(draw.as_float64(got), expected, rtol=draw.RTOL[dtype])


@given(matrix=draw.smooth_matrices())
def test_attention_gradient_equals_finite_differences(matrix: np.ndarray) -> None:
    expected = paper.finite_differences(paper.attention_penalty, matrix)
    (got,) = penalties.attention_penalty_grad(torch.tensor(matrix))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


@given(seed=st.integers(0, 99), d=st.integers(1, 4), heads=st.integers(1, 3))
def test_rows_are_columns_of_the_stored_weights(seed: int, d: int, heads: int) -> None:
    """Self-attention is one group set; cross-attention reads two spaces and is two."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(2 * heads, d)) * rng.integers(0, 2, (1, d)) for _ in range(3))
    tensors = [torch.tensor(part).T for part in (q, k, v)]
    self_attention = penalties.attention_penalty(*tensors)
    close(self_attention, paper.attention_penalty(paper.rows_of(q, k, v)), torch.float64)
    cross = penalties.attention_penalty(tensors[0]) + penalties.attention_penalty(*tensors[1:])
    expected = paper.attention_penalty(paper.rows_of(q)) + paper.attention_penalty(
        paper.rows_of(k, v)
    )
    close(cross, expected, torch.float64)


@by_dtype
def test_an_all_zero_row_contributes_no_gradient(dtype: torch.dtype) -> None:
    """Naive autograd gives 0 * inf = NaN here."""
    q = torch.tensor([[0.0, -0.0], [4.0, 0.0], [0.0, 0.0]], dtype=dtype)
    k = torch.tensor([[0.0], [0.0], [-0.25]], dtype=dtype)
    expected = [[[0.0, 0.0], [0.25, 0.0], [0.0, 0.0]], [[0.0], [0.0], [-1.0]]]
    for got in (
        penalties.attention_penalty_grad(q, k),
        autograd(penalties.attention_penalty, q, k),
    ):
        assert [part.tolist() for part in got] == expected
    assert penalties.attention_penalty(q, k).item() == 2.0 + 0.5


@by_dtype
def test_all_zero_matrices_have_zero_penalty_and_gradient(dtype: torch.dtype) -> None:
    zero = torch.zeros(3, 4, dtype=dtype)
    for penalty in (
        lambda w: penalties.mlp_penalty(w, draw.EPS),
        penalties.attention_penalty,
        penalties.l1_penalty,
    ):
        assert penalty(zero).item() == 0.0
        (gradient,) = autograd(penalty, zero)
        assert torch.equal(gradient, zero)
    assert torch.equal(penalties.mlp_penalty_grad(zero, draw.EPS), zero)
    assert torch.equal(penalties.attention_penalty_grad(zero)[0], zero)
    assert torch.equal(penalties.l1_penalty_grad(zero), zero)


# --- the baseline --------------------------------------------------------------------------------


@by_dtype
@given(matrix=draw.matrices())
def test_l1_value_and_gradients_equal_the_reference(dtype: torch.dtype, matrix: np.ndarray) -> None:
    weight, held = draw.stored(matrix, dtype)
    close(penalties.l1_penalty(weight), paper.l1_penalty(held), dtype)
    expected = paper.l1_penalty_gradient(held)
    assert np.array_equal(draw.as_float64(penalties.l1_penalty_grad(weight)), expected)
    assert np.array_equal(draw.as_float64(autograd(penalties.l1_penalty, weight)[0]), expected)


# --- all of them ---------------------------------------------------------------------------------


def test_sums_do_not_drown_in_bfloat16() -> None:
    """3,000 ones sum to 3,000, not to the 256 at which bfloat16 stops counting."""
    ones = torch.ones(1, 3000, dtype=torch.bfloat16)
    assert penalties.l1_penalty(ones).item() == 3000.0
    assert penalties.mlp_penalty(ones, draw.EPS).item() == 3000.0
    assert penalties.attention_penalty(ones).item() == pytest.approx(math.sqrt(3000), rel=1e-6)


def test_inputs_are_left_alone_and_gradients_carry_no_graph() -> None:
    weight = torch.nn.Parameter(torch.tensor([[0.0, -0.5], [1e-5, 2.0]]))
    before = weight.detach().clone()
    gradients = [
        penalties.mlp_penalty_grad(weight, draw.EPS),
        *penalties.attention_penalty_grad(weight),
        penalties.l1_penalty_grad(weight),
    ]
    assert not any(gradient.requires_grad for gradient in gradients)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("function", [penalties.mlp_penalty, penalties.mlp_penalty_grad])
@pytest.mark.parametrize("eps", [-1e-9, math.nan, math.inf])
def test_bad_eps_names_itself_and_its_range(
    function: Callable[..., torch.Tensor], eps: float
) -> None:
    with pytest.raises(ValueError, match=rf"eps must be .*>= 0.* got {eps!r}"):
        function(torch.ones(2, 2), eps)


def test_parts_with_different_rows_are_refused() -> None:
    """Broadcasting one row against many would be a silent wrong answer."""
    for function in (penalties.attention_penalty, penalties.attention_penalty_grad):
        with pytest.raises((ValueError, TypeError), match=r"rows|shape|dim"):
            function(torch.ones(3, 2), torch.ones(1, 2))
