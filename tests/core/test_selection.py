"""The lowest entries of many matrices, exactly, ties and signs included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.core.selection import lowest_mask, lowest_masks
from tests.reference import rivals


@given(
    values=st.lists(st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.25, 1.0]), min_size=0, max_size=20),
    cut=st.integers(0, 20),
    count=st.integers(-2, 25),
)
def test_the_lowest_are_masked_exactly(values: list[float], cut: int, count: int) -> None:
    """Ties included: as many as asked for, never more."""
    parts = [torch.tensor([values[:cut]]), torch.tensor([values[cut:]])]
    masks = lowest_mask(parts, count)
    found = torch.cat([m.flatten() for m in masks]).tolist()
    assert found == rivals.lowest(values, count)
    assert [m.shape for m in masks] == [p.shape for p in parts]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 60),
    power=st.sampled_from([-30, -3, 0, 4]),
)
def test_numbers_of_any_size_and_sign(
    dtype: torch.dtype, seed: int, count: int, power: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [(torch.randn(4, 5, generator=generator) * 10.0**power).to(dtype) for _ in range(3)]
    values = torch.cat([part.flatten() for part in parts]).tolist()
    masks = lowest_mask(parts, count)
    assert torch.cat([m.flatten() for m in masks]).tolist() == rivals.lowest(values, count)


def test_no_two_parts_exist_at_a_time_and_one_may_change_once_its_mask_is_out() -> None:
    weights = [torch.randn(6, 6) for _ in range(4)]
    wanted = torch.cat([m.flatten() for m in lowest_mask([w.abs() for w in weights], 70)])
    alive = 0

    def parts() -> Iterator[torch.Tensor]:
        nonlocal alive
        for w in weights:
            alive += 1
            assert alive == 1
            yield w.abs()
            alive -= 1

    for w, mask in zip(weights, lowest_masks(parts, 70), strict=True):
        w.masked_fill_(mask, 0.0)
    assert torch.equal(torch.cat([(w == 0).flatten() for w in weights]), wanted)
