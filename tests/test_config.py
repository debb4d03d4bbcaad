"""config.py: every value outside its range is refused by name, and dictionaries round-trip."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.config import (
    L1,
    METHODS,
    Apply,
    Config,
    ConfigError,
    Magnitude,
    NeuroPrune,
    Structure,
    method_config,
    method_name,
)

NUMBERS = [
    *((NeuroPrune, name) for name in ("alpha", "beta", "theta", "eps")),
    *((L1, name) for name in ("strength", "eps")),
    *((Magnitude, name) for name in ("target", "begin", "end", "every", "eps")),
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [-1, -1e-12, math.nan, math.inf, -math.inf])
def test_a_number_outside_its_range_is_refused(kind: type[Config], name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name} must be a finite number") as e:
        kind(**{name: value})
    assert repr(value) in str(e.value)


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_what_is_no_number_is_refused(kind: type[Config], name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name}: expected a number, got"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in NUMBERS if k is not Magnitude])
def test_zero_is_allowed(kind: type[Config], name: str) -> None:
    assert getattr(kind(**{name: 0}), name) == 0


@pytest.mark.parametrize("target", [1.0, 1.5, 0.9999])
def test_magnitude_cannot_remove_everything(target: float) -> None:
    with pytest.raises(ConfigError, match=r"Magnitude\.target must be .* in \[0, 0\.999\], got"):
        Magnitude(target=target)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (0.6, 0.5), (1.0, 1.0)])
def test_magnitude_begins_before_it_ends(begin: float, end: float) -> None:
    with pytest.raises(ConfigError, match=r"Magnitude\.begin .* must be before end"):
        Magnitude(begin=begin, end=end)


@pytest.mark.parametrize("every", [0, 0.5, 2.5])
def test_magnitude_counts_whole_steps(every: float) -> None:
    with pytest.raises(ConfigError, match=r"Magnitude\.every"):
        Magnitude(every=every)


@pytest.mark.parametrize(
    ("kind", "name", "choices"),
    [(NeuroPrune, "apply", Apply), (L1, "apply", Apply), (Magnitude, "structure", Structure)],
)
def test_a_choice_is_mapped_once_or_refused(kind: type[Config], name: str, choices: Any) -> None:
    for choice in choices:
        assert getattr(kind(**{name: str(choice)}), name) is choice
        assert getattr(kind(**{name: choice}), name) is choice
    for wrong in ("", "proximal", None, 1, ["prox"]):
        with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{name} must be one of '") as e:
            kind(**{name: wrong})
        assert all(repr(str(choice)) in str(e.value) for choice in choices)


def test_a_config_is_frozen_and_named_only() -> None:
    config = NeuroPrune()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.alpha = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        NeuroPrune(1e-4)  # type: ignore[misc]
    assert config == NeuroPrune(apply="penalty")
    assert hash(config) == hash(NeuroPrune())


@given(
    alpha=st.floats(0, 1),
    theta=st.floats(0, 1),
    every=st.integers(1, 99),
    apply=st.sampled_from(Apply),
)
def test_dictionaries_round_trip(alpha: float, theta: float, every: int, apply: Apply) -> None:
    for config in (
        NeuroPrune(alpha=alpha, theta=theta, apply=apply),
        L1(strength=alpha, apply=apply),
        Magnitude(target=alpha / 2, every=every),
    ):
        data = json.loads(json.dumps(config.to_dict()))
        assert type(config).from_dict(data) == config
        again = method_config(method_name(config), data)
        assert again == config
        assert type(again) is type(config)


@pytest.mark.parametrize("kind", METHODS.values())
def test_an_unknown_setting_is_refused_with_the_known_ones(kind: type[Config]) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__} has no setting aplha, zeta\.") as e:
        kind.from_dict({"zeta": 1, "aplha": 1})
    assert all(field.name in str(e.value) for field in dataclasses.fields(kind))


def test_from_dict_checks_values_too() -> None:
    with pytest.raises(ConfigError, match=r"NeuroPrune\.alpha must be"):
        NeuroPrune.from_dict({"alpha": -1.0})
    assert NeuroPrune.from_dict({}) == NeuroPrune()


def test_methods_by_name() -> None:
    for name, kind in METHODS.items():
        assert type(method_config(name)) is kind
        assert method_name(kind()) == name
    with pytest.raises(ConfigError, match="unknown method 'lottery'; choose one of neuroprune, l1"):
        method_config("lottery")


def test_a_config_that_is_no_method_has_no_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other(Config):
        pass

    with pytest.raises(ConfigError):
        method_name(Other())


@pytest.mark.parametrize("target", [0.5, "heads:3", "flops:0.5", ["flops:0.5", "heads:3"]])
def test_what_counts_as_zero_is_no_setting_of_whole_units(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"NeuroPrune\.eps"):
        NeuroPrune(target=target, eps=0.1)
    assert NeuroPrune(target="weights:0.5", eps=0.1).eps == 0.1


def test_snapshots_have_a_span_of_their_own() -> None:
    def span(**settings: Any) -> tuple[float, float]:
        config = NeuroPrune(**settings)
        assert NeuroPrune.from_dict(config.to_dict()) == config
        assert (config.to_dict()["begin"], config.to_dict()["end"]) == config.span
        return config.span

    assert span(target=0.8) == (0.05, 0.4)
    assert span(target=0.8, snapshots=[0.5]) == (0.3, 0.85)
    assert span(target=0.8, snapshots=[0.5], begin=0.05) == (0.05, 0.85)
    assert span(target=0.8, snapshots=[0.5], end=0.4) == (0.3, 0.4)
    plain = NeuroPrune(target=0.8, end=0.6)
    assert dataclasses.replace(plain, snapshots=(0.5,)).span == (0.3, 0.6)
    assert dataclasses.replace(plain, end=None, snapshots=(0.5,)).span == (0.3, 0.85)
    assert NeuroPrune(target=0.8, begin=0.05) == NeuroPrune(target=0.8)
    assert "begin" not in NeuroPrune().to_dict()
    with pytest.raises(ConfigError, match=r"only for target mode: NeuroPrune\.begin"):
        NeuroPrune(begin=0.1)
    with pytest.raises(ConfigError, match=r"begin \(0\.3\) must be before end \(0\.2\); the def"):
        NeuroPrune(target=0.8, snapshots=[0.5], end=0.2)
