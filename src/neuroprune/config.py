"""Frozen, typed configurations that validate themselves. Their *type* picks the behaviour."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class ConfigError(ValueError):
    """A configuration value is outside what it may be; the message says what may be."""


class Apply(StrEnum):
    """How a penalty acts: inside the gradient (the paper) or as a decoupled proximal step."""

    PENALTY = "penalty"
    PROX = "prox"


class Structure(StrEnum):
    """What `Magnitude` removes: single weights or whole heads and neurons."""

    WEIGHTS = "weights"
    UNITS = "units"


def check_finite(owner: object, name: str, low: float, high: float = math.inf) -> None:
    """Refuse a field of a configuration that is not a finite number in [low, high].

    Raises:
        ConfigError: the value is no number, NaN, infinite or outside the range.
    """
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{type(owner).__name__}.{name}: expected a number, got {value!r}.")
    if not math.isfinite(value) or not low <= value <= high:
        bound = f">= {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be a finite number {bound}, got {value!r}."
        )


def check_choice(owner: object, name: str, kind: type[StrEnum]) -> None:
    """Map a field given as a string to its typed choice, once.

    Raises:
        ConfigError: the string is none of the choices.
    """
    value = getattr(owner, name)
    try:
        object.__setattr__(owner, name, kind(value))
    except ValueError:
        names = ", ".join(repr(str(k)) for k in kind)
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be one of {names}, got {value!r}."
        ) from None


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: exact round trip to plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; None values are left out."""
        items = dataclasses.asdict(self)
        return {
            k: str(v) if isinstance(v, StrEnum) else v for k, v in items.items() if v is not None
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: an unknown key, or a value outside its range.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no setting {', '.join(unknown)}. Its settings: "
                f"{', '.join(sorted(known))}."
            )
        return cls(**data)


@dataclass(frozen=True, kw_only=True)
class NeuroPrune(Config):
    """The paper's method: preferential attachment, row groups and redundant heads.

    task loss + alpha * sum_layers [R_mlp(L_in) + R_mlp(L_out)] + beta * sum_layers R_attn(A),
    and after every epoch the removal of heads within l_inf distance theta of a dominating head.

    Args:
        alpha: strength of the connectivity-weighted l1 penalty on the MLP matrices.
        beta: strength of the group l_1^(1/2) penalty on the rows of [Q, K, V].
        theta: two heads whose weight blocks differ by at most theta in every entry are similar.
            0 merges exact copies only.
        eps: a weight below eps in absolute value counts as no connection.
        apply: "penalty" adds the penalty's gradient before the optimizer step (the paper);
            "prox" takes the exact proximal step after it (exact zeros, any optimizer).

    Raises:
        ConfigError: a value is negative, NaN or infinite, or `apply` is unknown.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.
    """

    alpha: float = 1e-4
    beta: float = 1e-3
    theta: float = 0.15
    eps: float = 1e-4
    apply: Apply | str = Apply.PENALTY

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "theta", "eps"):
            check_finite(self, name, 0.0)
        check_choice(self, "apply", Apply)


@dataclass(frozen=True, kw_only=True)
class L1(Config):
    """The paper's baseline: strength * sum of |w| over the prunable matrices, no head removal.

    Args:
        strength: weight of the penalty.
        eps: a weight below eps in absolute value counts as zero when training ends.
        apply: "penalty" or "prox", as in `NeuroPrune`.

    Raises:
        ConfigError: a value is negative, NaN or infinite, or `apply` is unknown.
    """

    strength: float = 1e-4
    eps: float = 1e-4
    apply: Apply | str = Apply.PENALTY

    def __post_init__(self) -> None:
        check_finite(self, "strength", 0.0)
        check_finite(self, "eps", 0.0)
        check_choice(self, "apply", Apply)


@dataclass(frozen=True, kw_only=True)
class Magnitude(Config):
    """Gradual magnitude pruning on the cubic schedule of Zhu and Gupta (2017).

    sparsity(t) = target * (1 - (1 - (t - t_begin) / (t_end - t_begin))^3) between
    t_begin = begin * total_steps and t_end = end * total_steps.

    Args:
        target: final share of the prunable weights that is zero or removed, in [0, 1).
        structure: "weights" zeroes the smallest weights of the whole model; "units" removes the
            heads and neurons of the smallest mean squared weight.
        begin: share of the training before the first cut.
        end: share of the training after which the target holds; the rest is recovery.
        every: steps between two updates of the mask ("weights"). Units go at `prune()`.
        eps: a weight below eps in absolute value counts as zero when training ends.

    Raises:
        ConfigError: a value is outside its range, or begin is not before end.
    """

    target: float = 0.5
    structure: Structure | str = Structure.WEIGHTS
    begin: float = 0.05
    end: float = 0.6
    every: int = 10
    eps: float = 1e-4

    def __post_init__(self) -> None:
        check_finite(self, "target", 0.0, 0.999)
        check_finite(self, "begin", 0.0, 1.0)
        check_finite(self, "end", 0.0, 1.0)
        check_finite(self, "every", 1)
        if self.every != int(self.every):
            raise ConfigError(f"Magnitude.every must be a whole number, got {self.every!r}.")
        check_finite(self, "eps", 0.0)
        if self.begin >= self.end:
            raise ConfigError(f"Magnitude.begin ({self.begin}) must be before end ({self.end}).")
        check_choice(self, "structure", Structure)


METHODS: Mapping[str, type[Config]] = {"neuroprune": NeuroPrune, "l1": L1, "magnitude": Magnitude}


def method_config(name: str, settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration of the method called `name` (a key of `METHODS`).

    Raises:
        ConfigError: no such method, or a setting it does not have.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name].from_dict(settings or {})


def method_name(config: Config) -> str:
    """The key of `METHODS` under which this configuration's type stands.

    Raises:
        ConfigError: it is not the configuration of a method that ships.
    """
    for name, kind in METHODS.items():
        if type(config) is kind:
            return name
    raise ConfigError(
        f"{type(config).__name__} is not the configuration of a method that ships: "
        f"{', '.join(METHODS)}."
    )
