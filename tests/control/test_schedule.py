"""Ramps, staged ramps and the distance of cuts, against their equations."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuroprune.control.schedule import (
    CUT_COST,
    HOLD,
    Ramp,
    cubic_sparsity,
    cut_interval,
    staged_progress,
    stages_of,
)

MARKS = st.lists(st.floats(0.01, 0.99), max_size=5, unique=True).map(lambda x: [*sorted(x), 1.0])


def path(total: int, levels: list[float], begin: float, end: float) -> list[float]:
    return [staged_progress(t, total, levels, begin, end) for t in range(total + 1)]


@given(MARKS, st.integers(1, 300), st.floats(0.0, 0.5), st.floats(0.01, 0.5))
@example([0.25, 0.5, 1.0], 1, 0.5, 0.5)
def test_a_staged_ramp_never_falls_and_ends_at_its_last_level(
    levels: list[float], total: int, begin: float, length: float
) -> None:
    found = path(total, levels, begin, begin + length)
    assert found == sorted(found)
    assert found[0] == 0.0
    assert found[-1] == 1.0, "exactly: the closing cut waits for it"


@given(MARKS, st.integers(1, 300), st.floats(0.0, 0.5), st.floats(0.01, 0.5))
def test_holds_are_exact_from_the_top_to_the_stop(
    levels: list[float], total: int, begin: float, length: float
) -> None:
    found = path(total, levels, begin, begin + length)
    stages = stages_of(len(levels), total, begin, begin + length)
    for level, stage in zip(levels, stages, strict=True):
        if stage.start < stage.top:
            hold = {*found[stage.top : stage.stop], found[stage.top]}
            if stage.stop < stages[-1].stop:  # at the last step, the last level counts
                hold.add(found[stage.stop])
            assert stage.top == stages[-1].stop or hold == {level}
            assert found[stage.top - 1] < level


@given(st.integers(1, 6), st.integers(1, 300), st.floats(0.0, 0.5), st.floats(0.01, 0.5))
def test_stages_are_equally_long_and_hold_for_their_share(
    number: int, total: int, begin: float, length: float
) -> None:
    stages = stages_of(number, total, begin, begin + length)
    assert stages[0].start == round(begin * total)
    assert stages[-1].top == stages[-1].stop == round((begin + length) * total)
    assert all(a.stop == b.start for a, b in itertools.pairwise(stages))
    spans = [s.stop - s.start for s in stages]
    assert max(spans) - min(spans) <= 1
    for stage, span in zip(stages[:-1], spans[:-1], strict=True):
        assert stage.start <= stage.top <= stage.stop
        assert abs((stage.stop - stage.top) - HOLD * span) <= 0.5


@given(st.integers(0, 220), st.floats(0.0, 1.0))
def test_one_level_is_the_cubic_ramp(step: int, level: float) -> None:
    expected = cubic_sparsity(step, 200, level, 0.1, 0.6)
    assert staged_progress(step, 200, [level], 0.1, 0.6) == pytest.approx(expected, abs=1e-12)


def test_each_stage_is_a_cubic_rise() -> None:
    # Two stages of 50 steps: 0 to 30 rise, 30 to 50 hold, 50 to 100 rise.
    for step in range(31):
        assert staged_progress(step, 100, [0.4, 1.0], 0.0, 1.0) == pytest.approx(
            0.4 * (1 - (1 - step / 30) ** 3)
        )
    for step in range(50, 101):
        assert staged_progress(step, 100, [0.4, 1.0], 0.0, 1.0) == pytest.approx(
            0.4 + 0.6 * (1 - (1 - (step - 50) / 50) ** 3)
        )


def test_the_cubic_ramp_is_its_equation() -> None:
    assert cubic_sparsity(0, 100, 0.8, 0.1, 0.6) == cubic_sparsity(10, 100, 0.8, 0.1, 0.6) == 0.0
    assert cubic_sparsity(35, 100, 0.8, 0.1, 0.6) == pytest.approx(0.8 * (1 - 0.5**3))
    assert cubic_sparsity(60, 100, 0.8, 0.1, 0.6) == cubic_sparsity(99, 100, 0.8, 0.1, 0.6) == 0.8
    assert cubic_sparsity(0, 0, 0.8) == 0.8


# -- cuts -----------------------------------------------------------------------------------------


@given(st.floats(0.01, 1.0), st.floats(10.0, 1e5), st.floats(0.01, 2.0))
def test_the_interval_is_where_waiting_and_cutting_cost_least(
    share: float, ramp: float, cost: float
) -> None:
    def per_step(n: float) -> float:
        return share / ramp * n / 2 + cost / n

    n = cut_interval(share, ramp, cost)
    best = max(1.0, math.sqrt(2 * cost * ramp / share))
    assert abs(n - best) <= 0.5
    assert per_step(best) <= per_step(best * 1.01) and (
        best == 1.0 or per_step(best) <= per_step(best / 1.01)
    )


def test_the_interval_grows_with_the_root_of_the_ramp() -> None:
    assert cut_interval(0.8, 1000) == round(math.sqrt(2 * CUT_COST * 1000 / 0.8)) == 19
    assert cut_interval(0.8, 4000) == 39
    assert cut_interval(0.2, 1000) == 39


@pytest.mark.parametrize(("share", "ramp"), [(0.0, 100.0), (-0.1, 100.0), (0.5, 0.0), (1.0, 1e-9)])
def test_the_interval_is_never_less_than_a_step(share: float, ramp: float) -> None:
    assert cut_interval(share, ramp) == 1


def test_next_to_nothing_waits_for_the_end() -> None:
    assert cut_interval(5e-324, 100.0) >= 10**6


@pytest.mark.parametrize("begin", [0.0, 0.05, 0.33])
@pytest.mark.parametrize("end", [0.4, 0.71, 1.0])
@pytest.mark.parametrize("steps", [10, 37, 314])
@pytest.mark.parametrize("interval", [1, 3])
def test_a_ramp_changes_at_its_intervals_and_ends_exactly(
    begin: float, end: float, steps: int, interval: int
) -> None:
    ramp = Ramp(begin, end, steps).every(interval)
    due = [step for step in range(1, steps + 1) if ramp.is_due(step)]
    assert due[-1] == ramp.last == round(end * steps)
    assert due[:-1] == list(range(ramp.first + interval, ramp.last, interval))
    progress = [ramp.progress(step) for step in range(steps + 1)]
    assert progress == sorted(progress)
    assert progress[ramp.last] == progress[-1] == 1.0
    before = ramp.last - 1
    assert progress[before] == cubic_sparsity(before, steps, 1.0, begin, end)
    assert all(progress[step] == 0.0 for step in range(int(begin * steps) + 1))
