"""core.proximal: every map against a minimiser found by search, in the cases that have corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core import proximal
from tests import strategies as draw
from tests.reference import paper

by_dtype = pytest.mark.parametrize("dtype", draw.DTYPES, ids=str)
bad_t = pytest.mark.parametrize("t", [-1e-9, -1.0, math.nan])
short_rows = draw.matrices(max_rows=3, max_cols=4)

# How far above the searched minimum the objective of a result may lie, relative to its scale.
SLACK = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}


def objective(z: torch.Tensor, a: np.ndarray, t: float) -> list[float]:
    rows = zip(draw.as_float64(z), a, strict=True)
    return [paper.group_objective(z_i, a_i, t) for z_i, a_i in rows]


def assert_row_optimal(
    got: np.ndarray, a: np.ndarray, t: float, dtype: torch.dtype, *, exhaustive: bool
) -> None:
    """As cheap as the best candidate, and, where no other comes close, equal to it."""
    row, a_row = [float(value) for value in got], [float(value) for value in a]
    search = paper.group_candidates_exhaustive if exhaustive else paper.group_candidates_by_size
    candidates = search(a_row, t)
    lowest, best = candidates[0]
    scale = 1.0 + lowest + max(abs(value) for value in a_row)
    assert paper.group_objective(row, a_row, t) <= lowest + SLACK[dtype] * scale
    rivals = [cost for cost, z in candidates if not np.allclose(z, best, rtol=1e-6, atol=1e-9)]
    if not rivals or rivals[0] > lowest + 10 * SLACK[dtype] * scale:
        size = max(abs(value) for value in a_row)
        np.testing.assert_allclose(row, best, rtol=0, atol=draw.RTOL[dtype] * size)


# --- soft threshold and weighted l1 --------------------------------------------------------------


@by_dtype
@given(matrix=draw.matrices(), t=draw.strengths())
def test_soft_threshold_equals_the_reference(
    dtype: torch.dtype, matrix: np.ndarray, t: float
) -> None:
    weight, held = draw.stored(matrix, dtype)
    level = draw.rounded(t, dtype)
    expected = paper.weighted_l1_prox(held, np.ones(held.shape[0]), level)
    before = weight.clone()
    got = proximal.soft_threshold(weight, t)
    assert got.dtype == dtype
    assert torch.equal(weight, before)
    atol = draw.RTOL[dtype] * 2
    np.testing.assert_allclose(draw.as_float64(got), expected, rtol=draw.RTOL[dtype], atol=atol)
    assert np.array_equal(draw.as_float64(got) == 0, np.abs(held) <= level)
    as_tensor = proximal.soft_threshold(weight, torch.full_like(weight, t))
    assert torch.equal(as_tensor, got)


@by_dtype
@given(matrix=draw.matrices(), t=draw.strengths(), seed=st.integers(0, 99))
def test_weighted_l1_prox_equals_the_reference(
    dtype: torch.dtype, matrix: np.ndarray, t: float, seed: int
) -> None:
    weight, held = draw.stored(matrix, dtype)
    row_weight = np.random.default_rng(seed).choice([0.0, 1.0, 1.5, 6.0], held.shape[0])
    expected = paper.weighted_l1_prox(held, row_weight, t)
    got = proximal.weighted_l1_prox(weight, torch.tensor(row_weight, dtype=dtype), t)
    assert got.dtype == dtype
    assert got.shape == weight.shape
    np.testing.assert_allclose(
        draw.as_float64(got), expected, rtol=draw.RTOL[dtype], atol=2 * draw.RTOL[dtype]
    )


def test_weighted_l1_prox_accepts_float32_row_weights_for_bfloat16() -> None:
    """connectivity() of a bfloat16 matrix is float32."""
    weight = torch.tensor([[1.0, -0.25], [2.0, 0.0]], dtype=torch.bfloat16)
    got = proximal.weighted_l1_prox(weight, torch.tensor([1.0, 2.0]), 0.5)
    assert got.dtype == torch.bfloat16
    assert got.tolist() == [[0.5, 0.0], [1.0, 0.0]]


# --- the searches, against each other ------------------------------------------------------------


@given(matrix=draw.matrices(max_rows=1, max_cols=2), t=draw.strengths())
def test_the_searches_agree_with_a_search_that_knows_nothing(matrix: np.ndarray, t: float) -> None:
    a = [float(value) for value in matrix[0]]
    lowest = paper.group_candidates_exhaustive(a, t)[0][0]
    assert paper.group_candidates_by_size(a, t)[0][0] == pytest.approx(lowest, abs=1e-12)
    if any(a):
        box = paper.group_search_box(a, t, points=21, zooms=4)
        assert lowest <= box + 1e-12
        assert box <= lowest + 2e-3


@given(matrix=draw.matrices(max_rows=1, max_cols=4), t=draw.strengths())
def test_the_searches_agree_on_sign_patterns(matrix: np.ndarray, t: float) -> None:
    a = [float(value) for value in matrix[0]]
    lowest = paper.group_candidates_exhaustive(a, t)[0][0]
    assert paper.group_candidates_by_size(a, t)[0][0] == pytest.approx(lowest, abs=1e-12)
    assert lowest <= paper.group_search_levels(a, t, points=100) + 1e-12


# --- group l_1^(1/2) -----------------------------------------------------------------------------


@by_dtype
@given(matrix=short_rows, t=draw.strengths())
def test_group_prox_is_the_global_minimiser(
    dtype: torch.dtype, matrix: np.ndarray, t: float
) -> None:
    rows, held = draw.stored(matrix, dtype)
    before = rows.clone()
    got = proximal.group_l1_half_prox(rows, t)
    assert got.dtype == dtype
    assert got.shape == rows.shape
    assert torch.equal(rows, before)
    for z_i, a_i in zip(draw.as_float64(got), held, strict=True):
        assert_row_optimal(z_i, a_i, t, dtype, exhaustive=True)


@by_dtype
@given(seed=st.integers(0, 10_000), m=st.integers(5, 40), exponent=st.integers(-4, 1))
def test_group_prox_of_long_rows(dtype: torch.dtype, seed: int, m: int, exponent: int) -> None:
    """Over five decades of t, so that every way of solving a row is taken."""
    rng = np.random.default_rng(seed)
    t = float(rng.uniform(1, 10) * 10.0**exponent)
    a = rng.normal(size=(2, m)) * rng.choice([0.0, 0.01, 1.0], size=(2, m))
    rows, held = draw.stored(a, dtype)
    for z_i, a_i in zip(draw.as_float64(proximal.group_l1_half_prox(rows, t)), held, strict=True):
        assert_row_optimal(z_i, a_i, t, dtype, exhaustive=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@given(matrix=draw.matrices(), t=draw.strengths())
def test_group_prox_is_stationary(dtype: torch.dtype, matrix: np.ndarray, t: float) -> None:
    """0 is a subgradient: one threshold t / (2 sqrt(||z||_1)) for the whole row, signs kept."""
    rows, held = draw.stored(matrix, dtype)
    z = draw.as_float64(proximal.group_l1_half_prox(rows, t))
    tolerance = 20 * draw.RTOL[dtype]
    for z_i, a_i in zip(z, held, strict=True):
        alive = z_i != 0
        assert np.array_equal(np.sign(z_i[alive]), np.sign(a_i[alive]))
        if not alive.any():
            continue
        threshold = t / (2 * math.sqrt(np.abs(z_i).sum()))
        np.testing.assert_allclose((np.abs(a_i) - np.abs(z_i))[alive], threshold, atol=tolerance)
        assert (np.abs(a_i)[~alive] <= threshold + tolerance).all()


@by_dtype
@given(matrix=draw.matrices())
def test_t_zero_changes_nothing_and_t_huge_leaves_nothing(
    dtype: torch.dtype, matrix: np.ndarray
) -> None:
    rows, _ = draw.stored(matrix, dtype)
    assert torch.equal(proximal.group_l1_half_prox(rows, 0.0), rows)
    for t in (1e6, 1e30, 1e300):
        assert torch.equal(proximal.group_l1_half_prox(rows, t), torch.zeros_like(rows))


@by_dtype
@pytest.mark.parametrize("t", [1e-300, 1e-40, 1e-12])
def test_a_tiny_t_changes_next_to_nothing(dtype: torch.dtype, t: float) -> None:
    rows = torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    got = proximal.group_l1_half_prox(rows, t)
    assert torch.allclose(got, rows, rtol=0, atol=2 * t)
    assert torch.equal(got[1], rows[1])


@by_dtype
def test_one_entry_jumps_to_zero_where_the_search_says(dtype: torch.dtype) -> None:
    """m = 1, t = 1: below a = 1.5 the row dies, above it keeps more than two thirds of itself."""
    rows = torch.tensor([[1.48], [-1.48], [1.52], [-1.52], [0.0]], dtype=dtype)
    got = proximal.group_l1_half_prox(rows, 1.0)
    assert [bool(value) for value in got[:, 0]] == [False, False, True, True, False]
    for z_i, a_i in zip(draw.as_float64(got), draw.as_float64(rows), strict=True):
        assert_row_optimal(z_i, a_i, 1.0, dtype, exhaustive=True)


@by_dtype
@pytest.mark.parametrize("m", [2, 3, 4, 30])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.0, 2.0])
def test_tied_entries_stay_tied(dtype: torch.dtype, m: int, t: float) -> None:
    signs = torch.tensor([(-1.0) ** j for j in range(m)], dtype=dtype)
    tied = 0.75 * signs
    two_levels = torch.where(torch.arange(m) < m // 2, tied, 0.125 * signs)
    rows = torch.stack([tied, two_levels])
    got = proximal.group_l1_half_prox(rows, t)
    assert got[0].abs().unique().numel() == 1
    assert got[1].abs().unique().numel() <= 2
    for z_i, a_i in zip(draw.as_float64(got), draw.as_float64(rows), strict=True):
        assert_row_optimal(z_i, a_i, t, dtype, exhaustive=m <= 4)


def test_an_exact_tie_between_zero_and_not_zero_costs_the_same() -> None:
    """m = 1: a = 1.5 t^(2/3) is where both are global minimisers; either answer is right."""
    a = np.array([[1.5], [-6.0]])
    for row, t in zip(a, (1.0, 8.0), strict=True):
        z = proximal.group_l1_half_prox(torch.tensor(row[None]), t)
        lowest = paper.group_candidates_exhaustive(list(row), t)[0][0]
        assert objective(z, row[None], t)[0] == pytest.approx(lowest, abs=1e-12)
        assert z.item() == 0 or z.item() == pytest.approx(row[0] * 2 / 3, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("t", [0.125, 1.0, 1.7, 32.0])
def test_entries_exactly_at_the_threshold_of_their_row(count: int, t: float) -> None:
    """[s + h, h, ...] with h the threshold t / (2 sqrt(s)): the small entries are active or not
    by rounding alone, which must not rule out both sets and so kill the row.
    """
    for root in np.arange(1.5, 8.0, 0.125):
        s = (root * t ** (1 / 3)) ** 2
        at = t / (2 * math.sqrt(s))
        a = np.array([[s + at, *[at] * count]])
        got = proximal.group_l1_half_prox(torch.tensor(a), t).numpy()
        np.testing.assert_allclose(got[0], [s, *[0.0] * count], rtol=1e-12, atol=1e-12 * s)


@pytest.mark.parametrize("n", [1, 2, 10, 200])
@pytest.mark.parametrize("t", [1e-4, 0.01, 1.0])
def test_rows_far_from_zero_are_solved_to_rounding(n: int, t: float) -> None:
    """The threshold of a row is that of its own result, for norms over three decades."""
    rng = np.random.default_rng(n)
    for norm in np.geomspace(2, 2000, 25) * (n * t) ** (2 / 3):
        a = rng.uniform(0.5, 1.5, size=(1, n))
        a *= norm / a.sum()
        z = proximal.group_l1_half_prox(torch.tensor(a), t).numpy()
        alive = z > 0
        threshold = t / (2 * math.sqrt(z.sum()))
        assert alive.any()
        assert np.abs((a - z)[alive] - threshold).max() <= 4e-15 * a.max()
        single = proximal.group_l1_half_prox(torch.tensor(a, dtype=torch.float32), t)
        np.testing.assert_allclose(single.numpy(), z, atol=4e-7 * a.max())


def big_and_small(small: float, count: int = 100) -> np.ndarray:
    return np.array([[1.0, *[small] * count]])


def local_minima(a: np.ndarray, t: float) -> list[tuple[float, int]]:
    """(objective, active entries) of the candidates that are local minima of their whole row."""
    found = []
    for cost, z in paper.group_candidates_by_size(list(a[0]), t):
        s = sum(abs(value) for value in z)
        if s == 0:
            continue
        level = t / (2 * math.sqrt(s))
        signs_agree = all(z_j * a_j >= 0 for z_j, a_j in zip(z, a[0], strict=True))
        rest_inactive = all(abs(a_j) <= level for z_j, a_j in zip(z, a[0], strict=True) if z_j == 0)
        active = sum(1 for value in z if value)
        if signs_agree and rest_inactive and active * t / (4 * s**1.5) < 1:
            found.append((cost, active))
    return found


@by_dtype
@pytest.mark.parametrize(
    ("small", "winner"), [(0.16, 1), (0.166, 1), (0.172, 101), (0.2, 101), (0.28, 101)]
)
def test_of_two_active_sets_that_are_both_local_minima_the_global_one_wins(
    dtype: torch.dtype, small: float, winner: int
) -> None:
    t = 0.5
    rows, held = draw.stored(big_and_small(small), dtype)
    minima = local_minima(held, t)
    assert sorted(active for _, active in minima) == [1, 101], "the test needs two local minima"
    assert min(minima)[1] == winner
    assert abs(minima[0][0] - minima[1][0]) > 5e-3
    got = proximal.group_l1_half_prox(rows, t)
    assert int((got != 0).sum()) == winner
    assert_row_optimal(draw.as_float64(got)[0], held[0], t, dtype, exhaustive=False)
    found = paper.group_search_levels(list(held[0]), t)
    assert objective(got, held, t)[0] <= found + 10 * SLACK[dtype]


@given(
    big=st.floats(0.5, 4),
    small=st.floats(0.01, 0.5),
    count=st.integers(2, 120),
    t=st.floats(0.05, 3),
)
def test_one_big_and_many_small_entries(big: float, small: float, count: int, t: float) -> None:
    a = big * big_and_small(small, count)
    got = proximal.group_l1_half_prox(torch.tensor(a), t)
    assert_row_optimal(got.numpy()[0], a[0], t, torch.float64, exhaustive=False)


@given(matrix=short_rows, t=st.floats(0.01, 2), seed=st.integers(0, 99))
def test_symmetries(matrix: np.ndarray, t: float, seed: int) -> None:
    """Signs, the order of entries and of rows, and scale go through the map."""
    rng = np.random.default_rng(seed)
    rows = torch.tensor(matrix)
    z = proximal.group_l1_half_prox(rows, t)
    columns = torch.tensor(rng.permutation(matrix.shape[1]))
    order = torch.tensor(rng.permutation(matrix.shape[0]))
    signs = torch.tensor(rng.choice([-1.0, 1.0], matrix.shape))
    moved = proximal.group_l1_half_prox((rows * signs)[order][:, columns], t)
    assert torch.allclose(moved, (z * signs)[order][:, columns], rtol=1e-9, atol=1e-12)
    scaled = proximal.group_l1_half_prox(4 * rows, 8 * t)  # prox_{c^1.5 t}(c a) = c prox_t(a)
    assert torch.allclose(scaled, 4 * z, rtol=1e-9, atol=1e-12)


# --- rows split over several matrices ------------------------------------------------------------


@by_dtype
@given(
    matrix=draw.matrices(), t=draw.strengths(), first=st.integers(0, 6), second=st.integers(0, 6)
)
def test_split_rows_equal_the_concatenation(
    dtype: torch.dtype, matrix: np.ndarray, t: float, first: int, second: int
) -> None:
    rows, held = draw.stored(matrix, dtype)
    m = rows.shape[1]
    cuts = sorted((first % (m + 1), second % (m + 1)))
    parts = [part.clone() for part in torch.tensor_split(rows, cuts, dim=1)]
    returned = proximal.group_l1_half_prox_(parts, t)
    assert all(one is other for one, other in zip(returned, parts, strict=True))
    whole = proximal.group_l1_half_prox(rows, t)
    joined = torch.cat(parts, dim=1)
    # Sums in another order may tip an exact tie, never the objective.
    for one, other in zip(objective(joined, held, t), objective(whole, held, t), strict=True):
        assert one == pytest.approx(other, rel=SLACK[dtype], abs=SLACK[dtype])
    if dtype == torch.float64:
        assert torch.allclose(joined, whole, rtol=1e-9, atol=1e-12)


@by_dtype
def test_parts_may_be_transposed_views_of_stored_parameters(dtype: torch.dtype) -> None:
    """Columns of the stored q, k, v weights, of different heights, thresholded where they lie."""
    rng = np.random.default_rng(3)
    d, t = 5, 0.4
    held = [draw.stored(rng.normal(size=(out, d)), dtype) for out in (6, 2, 2)]
    parameters = [torch.nn.Parameter(tensor) for tensor, _ in held]
    a = paper.rows_of(*(values for _, values in held))
    with torch.no_grad():
        proximal.group_l1_half_prox_([parameter.T for parameter in parameters], t)
    z = paper.rows_of(*(draw.as_float64(parameter) for parameter in parameters))
    for z_i, a_i in zip(z, a, strict=True):
        assert_row_optimal(z_i, a_i, t, dtype, exhaustive=False)


def test_rows_are_independent() -> None:
    """A row solved by one way beside rows solved by another."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 30)) * np.logspace(-4, 2, 40)[:, None]
    together = proximal.group_l1_half_prox(torch.tensor(a), 0.05)
    alone = torch.cat([proximal.group_l1_half_prox(torch.tensor(row[None]), 0.05) for row in a])
    assert torch.equal(together, alone)
    assert 0 < int((together == 0).all(dim=1).sum()) < 40


# --- bad input -----------------------------------------------------------------------------------


@bad_t
def test_a_bad_t_names_itself_and_its_range(t: float) -> None:
    w = torch.ones(2, 3)
    message = rf"t must be .*>= 0.* got {t!r}"
    with pytest.raises(ValueError, match=message):
        proximal.soft_threshold(w, t)
    with pytest.raises(ValueError, match=message):
        proximal.weighted_l1_prox(w, torch.ones(2), t)
    with pytest.raises(ValueError, match=message):
        proximal.group_l1_half_prox(w, t)
    with pytest.raises(ValueError, match=message):
        proximal.group_l1_half_prox_([w], t)
    assert torch.equal(w, torch.ones(2, 3))


@bad_t
def test_a_bad_threshold_tensor_is_refused(t: float) -> None:
    thresholds = torch.tensor([[0.5], [t]])
    with pytest.raises(ValueError, match="must be >= 0"):
        proximal.soft_threshold(torch.ones(2, 3), thresholds)
    with pytest.raises(ValueError, match="must be >= 0"):
        proximal.weighted_l1_prox(torch.ones(2, 3), thresholds[:, 0], 1.0)


@pytest.mark.parametrize("heights", [(3, 2), (3, 1), (1, 3)])
def test_parts_with_different_rows_are_refused_untouched(heights: tuple[int, int]) -> None:
    parts = [torch.ones(height, 2) for height in heights]
    with pytest.raises((ValueError, TypeError)):
        proximal.group_l1_half_prox_(parts, 0.5)
    assert all(torch.equal(part, torch.ones_like(part)) for part in parts)
