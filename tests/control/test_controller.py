"""The pressure controller: signs, anti-windup, and a plant that pushes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.control.controller import PressureController
from neuroprune.control.schedule import cut_interval

STEP = 0.01  # of the schedule


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


def test_the_first_step_is_its_equation() -> None:
    controller = PressureController(base=2.0, k_p=0.3, k_i=0.05)
    # Three steps behind: e / step = 3 and I = 3.
    assert controller.update(0.5, 0.47, STEP) == pytest.approx(2.0 * (1 + 0.3 * 3 + 0.05 * 3))
    # One step ahead: e / step = -1 and I = 2.
    assert controller.update(0.5, 0.51, STEP) == pytest.approx(2.0 * (1 - 0.3 + 0.05 * 2))


def test_the_gains_know_no_unit() -> None:
    """The same course in weights instead of shares gives the same pressures."""
    shares, weights = PressureController(base=1.0), PressureController(base=1.0)
    for wanted, measured in [(0.1, 0.08), (0.2, 0.15), (0.3, 0.31)]:
        expected = shares.update(wanted, measured, STEP)
        assert weights.update(1e6 * wanted, 1e6 * measured, 1e6 * STEP) == pytest.approx(expected)


def test_a_long_standstill_does_not_wind_up() -> None:
    """After a plant that could not follow, the pressure is back within the bound's worth of steps.

    Without the bound it would take as many steps as the standstill lasted.
    """

    def steps_to_recover(limit: float) -> int:
        controller = PressureController(base=1.0, limit=limit)
        for _ in range(1000):
            controller.update(1.0, 0.0, 1.0)  # a whole step behind, all the time
        count = 0
        while controller.update(0.0, 1.0, 1.0) > 1.0:  # a whole step ahead
            count += 1
        return count

    assert steps_to_recover(20.0) <= 20
    assert steps_to_recover(1e9) > 900


def run(gain: float, drag: float, disturbance: float = 0.0, steps: int = 400) -> list[float]:
    """Errors, in schedule steps, of a plant that moves by gain * pressure - drag a step."""
    controller = PressureController(base=STEP)
    x, errors = 0.0, []
    for t in range(1, steps + 1):
        wanted = t * STEP
        pressure = controller.update(wanted, x + STEP, STEP)  # as `Pressure` asks: one step on
        x += gain * pressure - drag - (disturbance if t > steps // 2 else 0.0)
        errors.append((wanted - x) / STEP)
    return errors


@pytest.mark.parametrize("gain", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("drag", [0.0, 0.1 * STEP])
def test_it_follows_the_schedule_of_a_plant_it_does_not_know(gain: float, drag: float) -> None:
    errors = run(gain, drag)
    assert all(abs(e) < 0.05 for e in errors[-50:])
    assert max(abs(e) for e in errors) < 5.0


def test_the_integral_alone_reaches_twice_the_base() -> None:
    """1 + k_i * limit = 2: a plant that needs more is followed with an offset."""
    needed = (1.0 + 0.5) / 0.6  # pressures of the base
    errors = run(0.6, 0.5 * STEP)
    assert errors[-1] == pytest.approx((needed - 2.0) / 0.3, abs=0.05)


def test_it_makes_up_for_a_disturbance() -> None:
    errors = run(1.0, 0.0, disturbance=0.4 * STEP)
    assert max(abs(e) for e in errors[200:260]) > 0.3, "the disturbance is felt"
    assert all(abs(e) < 0.05 for e in errors[-50:]), "and made up for"


def test_without_the_integral_an_offset_stays() -> None:
    """What the integral is for: on the proportional part alone the plant stays behind."""
    controller = PressureController(base=STEP, k_i=0.0)
    x = 0.0
    for t in range(1, 401):
        x += 0.6 * controller.update(t * STEP, x + STEP, STEP)
    assert (400 * STEP - x) / STEP > 1.0


def test_it_continues_from_its_integral() -> None:
    whole = PressureController(base=1.0)
    first = PressureController(base=1.0)
    for t in range(5):
        whole.update(t, 0.5 * t, 1.0)
        first.update(t, 0.5 * t, 1.0)
    second = PressureController(base=1.0, integral=first.integral)
    assert second.update(9.0, 7.0, 1.0) == whole.update(9.0, 7.0, 1.0)
