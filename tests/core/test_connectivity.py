"""core.connectivity against the loops, where entries are zero, at eps, or few."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from neuroprune.core.connectivity import connectivity
from tests import strategies as draw
from tests.reference import paper


@pytest.mark.parametrize("eps", [0.0, 2.0**-13, draw.EPS])
@pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
@given(matrix=draw.matrices())
def test_equals_the_reference(dtype: torch.dtype, eps: float, matrix: np.ndarray) -> None:
    weight, held = draw.stored(matrix, dtype)
    expected = paper.connectivity(held, draw.rounded(eps, dtype))
    got = connectivity(weight, eps)
    np.testing.assert_allclose(draw.as_float64(got), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
def test_an_entry_at_eps_is_a_connection_and_one_below_is_none(dtype: torch.dtype) -> None:
    at = torch.tensor([draw.EPS, -draw.EPS, 0.0, 1.0], dtype=dtype)
    below = torch.nextafter(at, torch.zeros_like(at))
    weight = torch.stack([at, below])
    assert connectivity(weight, draw.EPS).tolist() == [0.75, 0.25]


@pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
def test_a_row_without_connections_has_the_floor(dtype: torch.dtype) -> None:
    assert connectivity(torch.zeros(2, 8, dtype=dtype), draw.EPS).tolist() == [0.125, 0.125]
    assert connectivity(torch.zeros(3, 1, dtype=dtype), draw.EPS).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("eps", [0.0, draw.EPS])
def test_eps_zero_counts_every_entry(eps: float) -> None:
    """|w| < 0 holds for no w: with eps = 0 even zeros are connections."""
    weight = torch.tensor([[0.0, 0.0, 1.0]])
    expected = 1.0 if eps == 0 else 1 / 3
    assert connectivity(weight, eps).item() == pytest.approx(expected)


def test_many_columns_are_counted_exactly_in_bfloat16() -> None:
    """bfloat16 holds no odd integer above 256; the count must not be rounded to one it holds."""
    m = 1031
    weight = torch.zeros(1, m, dtype=torch.bfloat16)
    weight[:, :517] = 1.0
    got = connectivity(weight, draw.EPS)
    assert got.item() == pytest.approx(517 / m, rel=1e-6)


def test_is_constant_for_the_gradient_and_leaves_its_input_alone() -> None:
    weight = torch.nn.Parameter(torch.tensor([[0.0, -0.5], [1e-5, 2.0]]))
    before = weight.detach().clone()
    assert not connectivity(weight, draw.EPS).requires_grad
    assert torch.equal(weight, before)


@pytest.mark.parametrize("eps", [-1e-9, -1.0, math.nan, math.inf])
def test_bad_eps_names_itself_and_its_range(eps: float) -> None:
    with pytest.raises(ValueError, match=rf"eps must be .*>= 0.* got {eps!r}"):
        connectivity(torch.ones(2, 2), eps)


def test_a_matrix_without_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="without columns"):
        connectivity(torch.ones(2, 0), draw.EPS)
