"""The pressure controller: signs, anti-windup, and a plant that pushes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.control.controller import PressureController
from neuroprune.control.schedule import cut_interval


def test_no_error_is_the_base_pressure() -> None:
    assert PressureController(0.2).update(0.5, 0.5, 0.1) == 0.2


def test_behind_pushes_harder_and_ahead_softer() -> None:
    behind = PressureController(0.2).update(0.6, 0.5, 0.1)
    ahead = PressureController(0.2).update(0.5, 0.6, 0.1)
    assert ahead < 0.2 < behind


@given(st.lists(st.floats(-5.0, 5.0), max_size=60))
def test_pressure_is_never_negative_and_the_integral_is_bounded(errors: list[float]) -> None:
    controller = PressureController(0.1, limit=7.0)
    for error in errors:
        assert controller.update(error, 0.0, 0.05) >= 0.0
        assert abs(controller.integral) <= 7.0


def test_a_plant_that_stood_still_does_not_wind_it_up() -> None:
    """After a long stall the pressure is bounded, and falls as soon as the plant is ahead."""
    controller = PressureController(0.1)
    stalled = [controller.update(1.0, 0.0, 0.1) for _ in range(1000)]
    assert max(stalled) <= 0.1 * (1 + 0.3 * 10 + 0.05 * 20) + 1e-12
    controller.update(0.0, 2.0, 0.1)
    assert controller.update(0.0, 2.0, 0.1) == 0.0


@pytest.mark.parametrize("resistance", [0.0, 0.3, 0.6])
def test_a_plant_that_pushes_back_is_brought_onto_the_line(resistance: float) -> None:
    """x <- x + (1 - resistance) * pressure: without control it would end short of 1."""
    steps = 40
    controller, x = PressureController(1.0 / steps), 0.0
    for t in range(1, steps + 1):
        pressure = controller.update(t / steps, x + 1.0 / steps, 1.0 / steps)
        x += (1.0 - resistance) * pressure
    assert x == pytest.approx(1.0, abs=0.1)
    assert x > 1.0 - resistance + 0.2 or resistance == 0.0


def test_the_interval_balances_waiting_and_cutting() -> None:
    """Waste of waiting r n^2 / 2 equals the cost of a cut, for every speed of the ramp."""
    for share, ramp in ((0.8, 700.0), (0.5, 10_000.0), (0.95, 3000.0)):
        n = cut_interval(share, ramp, cost=0.15)
        assert share / ramp * n * n / 2 == pytest.approx(0.15, rel=0.1)


def test_no_ramp_or_nothing_to_remove_is_an_interval_of_one() -> None:
    assert cut_interval(0.0, 100.0) == cut_interval(0.5, 0.0) == 1
    assert cut_interval(0.9, 2.0) == 1
