"""Tiles against loops over single entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.tiles import lowest_tiles, over_tiles, sum_per_tile, tile_sizes

SIDES = st.integers(1, 5)
LENGTHS = st.integers(0, 9)


@given(n=LENGTHS, m=LENGTHS, a=SIDES, b=SIDES, seed=st.integers(0, 99))
def test_tiles_against_loops(n: int, m: int, a: int, b: int, seed: int) -> None:
    matrix = torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sums = np.zeros((-(-n // a), -(-m // b)))
    sizes = np.zeros_like(sums, dtype=int)
    marks = np.arange(sums.size).reshape(sums.shape) % 3 == 0
    spread = np.zeros((n, m), dtype=bool)
    for i in range(n):
        for j in range(m):
            sums[i // a, j // b] += float(matrix[i, j])
            sizes[i // a, j // b] += 1
            spread[i, j] = marks[i // a, j // b]
    torch.testing.assert_close(sum_per_tile(matrix, (a, b)), torch.from_numpy(sums))
    assert tile_sizes((n, m), (a, b)).tolist() == sizes.tolist()
    assert over_tiles(torch.from_numpy(marks), (n, m), (a, b)).tolist() == spread.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_at_least_float32(dtype: torch.dtype) -> None:
    found = sum_per_tile(torch.full((64, 64), 1.001953125).to(dtype), (32, 64))
    assert found.dtype == torch.float32
    assert found.tolist() == [[2048 * float(torch.tensor(1.001953125).to(dtype))]] * 2


@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=3),
    count=st.integers(-2, 80),
    seed=st.integers(0, 999),
)
def test_the_lowest_go_one_by_one_until_they_are_enough(
    shapes: list[tuple[int, int]], count: int, seed: int
) -> None:
    numbers = torch.Generator().manual_seed(seed)
    means = [torch.randint(0, 4, shape, generator=numbers).float() for shape in shapes]
    sizes = [torch.randint(1, 5, shape, generator=numbers) for shape in shapes]
    marks = lowest_tiles(means, sizes, count)
    assert [m.shape for m in marks] == [m.shape for m in means]
    flat = [float(x) for m in means for x in m.flatten()]
    entries = [int(x) for s in sizes for x in s.flatten()]
    expected, gone = [False] * len(flat), 0
    for place in sorted(range(len(flat)), key=lambda i: (flat[i], i)):
        if gone >= count:
            break
        expected[place] = True
        gone += entries[place]
    assert [bool(x) for m in marks for x in m.flatten()] == expected


def test_without_matrices_nothing_goes() -> None:
    assert lowest_tiles([], [], 3) == ()
