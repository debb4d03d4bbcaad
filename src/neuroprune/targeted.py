"""What configurations of methods with a target share, for NeuroPrune's rivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neuroprune.choices import check_finite
from neuroprune.errors import ConfigError
from neuroprune.settings import Config
from neuroprune.targets import Weights, parse_targets


@dataclass(frozen=True, kw_only=True)
class Targeted(Config):
    """A method that removes whole units until a target is met.

    Args:
        target: what is asked for, as in `NeuroPrune`: a structural sparsity such as 0.8, a target
            such as `Flops(0.25)`, or its text.

    Raises:
        ConfigError: the target is none, or is about single weights.
    """

    target: Any = 0.5

    def __post_init__(self) -> None:
        if self.target is not None:
            object.__setattr__(self, "target", parse_targets(self.target))
            if isinstance(self.target[0], Weights) and not self._takes_weights():
                raise ConfigError(
                    f"{type(self).__name__} removes whole heads and neurons, and {self.target[0]} "
                    "is about single weights. Give a structural target, such as target=0.5."
                )

    def _takes_weights(self) -> bool:
        return False

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form."""
        out = super().to_dict()
        if self.target is not None:
            out["target"] = [str(t) for t in self.target]
        return out


@dataclass(frozen=True, kw_only=True)
class Budgeted(Targeted):
    """A method that meets its target along a cubic schedule.

    Args:
        target: see `Targeted`.
        begin: share of the training before the first cut.
        end: share of the training after which nothing more is removed; the rest is recovery.

    Raises:
        ConfigError: a value is outside its range, or begin is not before end.
    """

    begin: float = 0.05
    end: float = 0.4

    def __post_init__(self) -> None:
        check_finite(self, "begin", 0.0, 1.0)
        check_finite(self, "end", 0.0, 1.0)
        if self.begin >= self.end:
            name = type(self).__name__
            raise ConfigError(f"{name}.begin ({self.begin}) must be before end ({self.end}).")
        super().__post_init__()

    @property
    def span(self) -> tuple[float, float]:
        """begin and end."""
        return self.begin, self.end


@dataclass(frozen=True, kw_only=True)
class Free(Budgeted):
    """A method that also works without a target: then its strength decides."""

    target: Any = None

    def _idle(self) -> tuple[str, ...]:
        """Settings that play no part: without a target, those of its schedule."""
        return ("begin", "end") if self.target is None else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [n for n in self._idle() if getattr(self, n) != default_of(type(self), n)]
        if given:
            name, lead = type(self).__name__, "without" if self.target is None else "with"
            raise ConfigError(
                f"{name}.{', '.join(given)} would do nothing {lead} a target. Leave it out, or "
                f"{'give a target, such as 0.5' if self.target is None else 'the target'}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; settings that play no part are left out."""
        return {k: v for k, v in super().to_dict().items() if k not in self._idle()}


def default_of(kind: type[Config], name: str) -> Any:
    """The value that a setting has where it is not given.

    Args:
        kind: of configuration.
        name: of the setting.
    """
    return kind.__dataclass_fields__[name].default
