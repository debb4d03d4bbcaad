"""Which student layer a teacher layer is matched with: against the slow twin, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.core.matching import closest, state_error, teaching_layers
from tests.reference import rivals

NAN_FREE = st.floats(0.0, 1e6)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    students=st.integers(1, 6),
    teachers=st.integers(1, 5),
    ordered=st.booleans(),
)
def test_the_sum_is_that_of_the_slow_twin(
    seed: int, students: int, teachers: int, ordered: bool
) -> None:
    generator = np.random.default_rng(seed)
    transform = generator.normal(size=(3, 3))
    ours = [generator.normal(size=(4, 3)) for _ in range(students)]
    theirs = [generator.normal(size=(4, 3)) for _ in range(teachers)]
    is_open = generator.random(students) < 0.7
    expected, matched = rivals.layer_distance(transform, ours, theirs, list(is_open), ordered)
    w = torch.from_numpy(transform)
    mapped = [torch.from_numpy(h) @ w.T for h in ours]
    errors = torch.stack(
        [torch.stack([state_error(m, torch.from_numpy(t)) for m in mapped]) for t in theirs]
    )
    found = closest(errors, torch.from_numpy(is_open), ordered)
    assert found.tolist() == matched
    total = float(errors[torch.arange(teachers), found].sum())
    assert total == pytest.approx(expected, rel=1e-9)


@given(
    rows=st.lists(st.lists(NAN_FREE, min_size=5, max_size=5), min_size=1, max_size=7),
    mask=st.lists(st.booleans(), min_size=5, max_size=5),
    ordered=st.booleans(),
)
def test_only_open_layers_are_matched_and_never_out_of_order(
    rows: list[list[float]], mask: list[bool], ordered: bool
) -> None:
    found = closest(torch.tensor(rows), torch.tensor(mask), ordered).tolist()
    assert len(found) == len(rows)
    assert all(mask[j] for j in found) or not any(mask)
    if ordered:
        assert found == sorted(found)


def test_ties_go_to_the_lower_layer_and_too_few_layers_are_shared() -> None:
    zeros, every = torch.zeros(3, 4), torch.ones(4, dtype=torch.bool)
    assert closest(zeros, every).tolist() == [0, 0, 0]
    errors = torch.tensor([[0.0, 9.0], [0.0, 9.0], [0.0, 9.0]])
    assert closest(errors, every[:2], ordered=True).tolist() == [0, 0, 0]
    errors = torch.tensor([[5.0, 9.0, 1.0], [9.0, 9.0, 0.0]])
    assert closest(errors, every[:3]).tolist() == [2, 2]
    assert closest(errors, every[:3], ordered=True).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(12, (3, 6, 9, 12)), (6, (2, 3, 5, 6)), (24, (6, 12, 18, 24)), (3, (1, 2, 3)), (1, (1,))],
)
def test_the_layers_that_teach(depth: int, expected: tuple[int, ...]) -> None:
    assert teaching_layers(depth) == expected


def test_no_position_has_no_distance() -> None:
    assert float(state_error(torch.zeros(0, 3), torch.zeros(0, 3))) == 0.0
