"""core.units, core.group_lasso and core.movement against plain loops, also for shared keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.group_lasso import group_lasso, group_lasso_prox_, norm_per_unit
from neuroprune.core.movement import movement, movement_per_unit
from neuroprune.core.units import mean_absolute_per_unit, scale_units_, sum_per_unit, unit_size
from tests import strategies as draw
from tests.reference import rivals

by_dtype = pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)


@st.composite
def groups(draw_: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Matrices of a block: (rows, columns, units), of unequal rows a unit, some units zero."""
    units = draw_(st.integers(1, 4))
    rng = np.random.default_rng(draw_(st.integers(0, 9999)))
    rows = [
        rng.normal(size=(units * draw_(st.integers(1, 3)), draw_(st.integers(1, 4))))
        for _ in range(draw_(st.integers(0, 3)))
    ]
    few = 0 if rows else 1
    columns = [
        rng.normal(size=(draw_(st.integers(1, 4)), units * draw_(st.integers(1, 3))))
        for _ in range(draw_(st.integers(few, 1)))
    ]
    for unit in rivals.places(rows, columns, units):
        kind = draw_(st.sampled_from(["drawn", "drawn", "zero", "tiny"]))
        for number, i, j in unit:
            matrix = (*rows, *columns)[number]
            matrix[i, j] *= {"drawn": 1.0, "zero": 0.0, "tiny": 1e-3}[kind]
    return rows, columns, units


def tensors(
    rows: list[np.ndarray], columns: list[np.ndarray], dtype: torch.dtype
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[np.ndarray]]:
    """Both sides as tensors, and what they hold."""
    ours = [draw.stored(m, dtype) for m in (*rows, *columns)]
    matrices = [t for t, _ in ours]
    return (
        matrices[: len(rows)],
        matrices[len(rows) :],
        [held.copy() for _, held in ours],
    )  # float64 shares memory


@by_dtype
@given(group=groups())
def test_scores_are_those_of_the_loops(dtype: torch.dtype, group: tuple) -> None:
    units = group[2]
    rows, columns, held = tensors(group[0], group[1], dtype)
    slow = [rivals.read(held, unit) for unit in rivals.places(group[0], group[1], units)]
    accurate = {"rtol": draw.RTOL[torch.float32], "atol": 1e-6}
    got = mean_absolute_per_unit(rows, columns, units)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    np.testing.assert_allclose(got, [rivals.mean_absolute(u) for u in slow], **accurate)
    np.testing.assert_allclose(
        sum_per_unit(rows, columns, units), [sum(u) for u in slow], rtol=1e-4, atol=1e-5
    )
    norms = [math.sqrt(sum(w * w for w in u)) for u in slow]
    np.testing.assert_allclose(norm_per_unit(rows, columns, units), norms, **accurate)
    assert float(group_lasso(rows, columns, units)) == pytest.approx(
        rivals.group_lasso(slow), rel=1e-5, abs=1e-9
    )
    assert unit_size(rows, columns, units) == len(slow[0])


@by_dtype
@given(group=groups(), t=draw.strengths())
def test_group_prox_is_the_minimiser(dtype: torch.dtype, group: tuple, t: float) -> None:
    units = group[2]
    rows, columns, held = tensors(group[0], group[1], dtype)
    group_lasso_prox_(rows, columns, units, t)
    after = [draw.as_float64(m) for m in (*rows, *columns)]
    assert all(m.dtype == dtype for m in (*rows, *columns))
    for unit in rivals.places(group[0], group[1], units):
        before, got = rivals.read(held, unit), rivals.read(after, unit)
        size = max(abs(w) for w in before)
        slow = rivals.group_prox(before, t)
        # A ternary search is accurate to the square root of the arithmetic.
        np.testing.assert_allclose(got, slow, rtol=0, atol=max(draw.RTOL[dtype], 1e-6) * size)
        if dtype is torch.float64:
            rng = np.random.default_rng(0)
            lowest = rivals.group_objective(got, before, t)
            for scale in (1e-6, 1e-3, 1.0):
                other = [g + scale * size * float(rng.normal()) for g in got]
                assert lowest <= rivals.group_objective(other, before, t) + 1e-12


@by_dtype
def test_prox_lowers_the_rms_by_t_and_stops_at_zero(dtype: torch.dtype) -> None:
    rows, columns = [torch.full((4, 3), 0.5, dtype=dtype)], [torch.full((2, 4), 0.5, dtype=dtype)]
    rows[0][0], columns[0][:, 0] = 0.0, 0.0
    group_lasso_prox_(rows, columns, 4, 0.125)
    expected = torch.tensor([0.0, 0.375, 0.375, 0.375], dtype=dtype)
    torch.testing.assert_close(rows[0], expected.unsqueeze(1).expand(4, 3))
    torch.testing.assert_close(columns[0], expected.expand(2, 4))
    before = rows[0].clone()
    group_lasso_prox_(rows, columns, 4, 0.0)
    assert torch.equal(rows[0], before)
    for t in (0.376, 1e30, 1e300):
        fresh = [torch.full((4, 3), 0.375, dtype=dtype)]
        group_lasso_prox_(fresh, [], 4, t)
        assert not fresh[0].any()


@pytest.mark.parametrize("t", [-1e-9, -1.0, math.nan, math.inf])
def test_a_bad_step_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match="t must be"):
        group_lasso_prox_([torch.ones(2, 2)], [], 2, t)


def test_group_lasso_has_a_gradient_at_zero() -> None:
    rows = torch.zeros(4, 3, requires_grad=True)
    column = torch.ones(2, 4, requires_grad=True)
    with torch.no_grad():
        column[:, 0] = 0
    group_lasso([rows], [column], 4).backward()
    assert rows.grad is not None and column.grad is not None
    assert not rows.grad.any() and not column.grad[:, 0].any()
    # sqrt(5) * w / |w| with |w| = sqrt(2)
    torch.testing.assert_close(column.grad[:, 1:], torch.full((2, 3), math.sqrt(2.5)))


def test_a_block_without_units_is_no_obstacle() -> None:
    rows, columns = [torch.zeros(0, 3), torch.zeros(0, 3)], [torch.zeros(3, 0)]
    assert mean_absolute_per_unit(rows, columns, 0).shape == (0,)
    assert norm_per_unit(rows, columns, 0).shape == (0,)
    assert float(group_lasso(rows, columns, 0)) == 0.0
    assert movement_per_unit([(r, r) for r in rows], [], 0).shape == (0,)
    group_lasso_prox_(rows, columns, 0, 1.0)
    scale_units_(rows, columns, torch.ones(0))
    for function in (sum_per_unit, norm_per_unit):
        with pytest.raises(ValueError, match="give rows or columns"):
            function([], [], 2)


@by_dtype
@given(group=groups(), seed=st.integers(0, 99))
def test_units_are_scaled_one_by_one(dtype: torch.dtype, group: tuple, seed: int) -> None:
    units = group[2]
    rng = np.random.default_rng(seed)
    for factors in (rng.normal(size=units), rng.random(units) < 0.5):
        rows, columns, held = tensors(group[0], group[1], dtype)
        factor = torch.tensor(factors)
        scale_units_(rows, columns, factor if factor.dtype is torch.bool else factor.float())
        after = [draw.as_float64(m) for m in (*rows, *columns)]
        for u, unit in enumerate(rivals.places(group[0], group[1], units)):
            slow = [float(factors[u]) * w for w in rivals.read(held, unit)]
            near = max(draw.RTOL[dtype], 1e-6)
            np.testing.assert_allclose(rivals.read(after, unit), slow, rtol=near, atol=1e-12)


@by_dtype
@given(group=groups(), seed=st.integers(0, 99))
def test_movement_is_the_loop(dtype: torch.dtype, group: tuple, seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = group[2]
    rows, columns, held = tensors(group[0], group[1], dtype)
    drawn = [draw.stored(rng.normal(size=m.shape), dtype) for m in held]
    pairs = list(zip((*rows, *columns), (g for g, _ in drawn), strict=True))
    got = movement_per_unit(pairs[: len(rows)], pairs[len(rows) :], units)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    products = [w * g for w, (_, g) in zip(held, drawn, strict=True)]
    places = rivals.places(group[0], group[1], units)
    slow = [-sum(rivals.read(products, unit)) for unit in places]
    np.testing.assert_allclose(got, slow, rtol=1e-4, atol=1e-5)
    for (w, g), product in zip(pairs, products, strict=True):
        near = {"rtol": draw.RTOL[torch.float32], "atol": 1e-7}
        np.testing.assert_allclose(movement(w, g), -product, **near)
