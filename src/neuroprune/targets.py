"""What can be asked for: a size, a speed or a number of heads, as typed, self-checking values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from neuroprune.errors import ConfigError


def _number(owner: object, name: str, value: Any, low: float, high: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{type(owner).__name__}: {name} must be a number, got {value!r}.")
    number = float(value)
    if not low <= number <= high:
        raise ConfigError(f"{type(owner).__name__}: {name} must be {what}, got {value!r}.")
    return number


def _whole(owner: object, name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Real) or value % 1 != 0:
        raise ConfigError(f"{type(owner).__name__}: {name} must be a whole number, got {value!r}.")
    number = int(float(value))
    if number < low:
        raise ConfigError(f"{type(owner).__name__}: {name} must be >= {low}, got {value!r}.")
    return number


def _text(value: float) -> str:
    """As short as it can be read back."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


@dataclass(frozen=True)
class Target:
    """Base of all targets. `str(target)` is what `parse_target` reads back."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Structural(Target):
    """Structural sparsity: the share of the dense prunable weights that is physically removed.

    Args:
        sparsity: in [0, 1); what a bare number means.

    Raises:
        ConfigError: outside that range. (So do all targets.)
    """

    kind: ClassVar[str] = "structural"
    sparsity: float

    def __post_init__(self) -> None:
        value = _number(self, "sparsity", self.sparsity, 0.0, 0.9999, "in [0, 0.9999]")
        object.__setattr__(self, "sparsity", value)

    def __str__(self) -> str:
        return f"structural:{_text(self.sparsity)}"


@dataclass(frozen=True)
class Weights(Target):
    """Weight sparsity: the share of the dense prunable weights that is zero or removed.

    Args:
        sparsity: in [0, 1); the paper's sparsity.
    """

    kind: ClassVar[str] = "weights"
    sparsity: float

    def __post_init__(self) -> None:
        value = _number(self, "sparsity", self.sparsity, 0.0, 0.9999, "in [0, 0.9999]")
        object.__setattr__(self, "sparsity", value)

    def __str__(self) -> str:
        return f"weights:{_text(self.sparsity)}"


@dataclass(frozen=True)
class Parameters(Target):
    """Parameters kept: of the whole model, embeddings and head included, shared ones once.

    Args:
        count: how many, >= 1.
    """

    kind: ClassVar[str] = "parameters"
    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", _whole(self, "count", self.count, 1))

    def __str__(self) -> str:
        return f"parameters:{self.count}"


@dataclass(frozen=True)
class _Kept(Target):
    """A share of the dense model's cost of a forward pass that is kept.

    Args:
        kept: in (0, 1].
        batch: sequences in the pass.
        length: tokens per sequence.
    """

    kept: float
    batch: int = 1
    length: int = 128

    def __post_init__(self) -> None:
        value = _number(self, "kept", self.kept, 1e-4, 1.0, "the share to keep, in [0.0001, 1]")
        object.__setattr__(self, "kept", value)
        object.__setattr__(self, "batch", _whole(self, "batch", self.batch, 1))
        object.__setattr__(self, "length", _whole(self, "length", self.length, 1))

    def __str__(self) -> str:
        return f"{self.kind}:{_text(self.kept)}@{self.batch}x{self.length}"


@dataclass(frozen=True)
class Flops(_Kept):
    """Floating-point operations of a forward pass, as a share of the dense model's.

    Also of a model that was cut before: what the dense model took is counted, exactly.
    """

    kind: ClassVar[str] = "flops"


@dataclass(frozen=True)
class Latency(_Kept):
    """Time of a forward pass on this machine, as a share of the dense model's.

    The time after a cut is predicted from timed copies that were cut. For a model that was cut
    before, the dense model's time is taken on a model of the dense sizes with random weights, in
    turns with it, before the first step. A training that is resumed keeps the times it began with.
    """

    kind: ClassVar[str] = "latency"


@dataclass(frozen=True)
class Heads(Target):
    """Attention heads kept, in the whole model.

    Args:
        count: how many query heads, >= 0.
    """

    kind: ClassVar[str] = "heads"
    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", _whole(self, "count", self.count, 0))

    def __str__(self) -> str:
        return f"heads:{self.count}"


_SHAPED = {kind.kind: kind for kind in (Flops, Latency)}
_PLAIN: dict[str, Any] = {kind.kind: kind for kind in (Structural, Weights, Parameters, Heads)}
_FORM = re.compile(r"(?:(?P<kind>[a-z]+):)?(?P<value>[^@:]+)(?:@(?P<batch>\d+)x(?P<length>\d+))?")


def parse_target(value: Any) -> Target:
    """A target from what a user may write.

    Args:
        value: a target; a number, which is a structural sparsity; or a text: "0.8",
            "structural:0.8", "weights:0.8", "parameters:5e6", "flops:0.25", "latency:0.3", both of
            them also with a shape, "latency:0.3@32x128" (batch x tokens), or "heads:24".

    Raises:
        ConfigError: none of these.
    """
    if isinstance(value, Target):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return Structural(float(value))
    match = _FORM.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    kind = (match["kind"] or "structural") if match else ""
    if match is None or kind not in {*_SHAPED, *_PLAIN}:
        raise ConfigError(
            f"{value!r} is no target. Write a structural sparsity such as 0.8, or "
            '"weights:0.8", "parameters:5000000", "flops:0.25", "latency:0.3@1x128" or "heads:24".'
        )
    try:
        number = float(match["value"])
    except ValueError:
        raise ConfigError(f"{value!r}: {match['value']!r} is no number.") from None
    if kind in _SHAPED:
        shape = (int(match["batch"]), int(match["length"])) if match["batch"] else ()
        return _SHAPED[kind](number, *shape)
    if match["batch"]:
        raise ConfigError(f"{value!r}: only flops and latency take a shape.")
    target: Target = _PLAIN[kind](number)
    return target


def parse_targets(value: Any) -> tuple[Target, ...]:
    """One or two targets: at most one of size or speed, and at most one of heads.

    Args:
        value: what `parse_target` takes, or a sequence of it.

    Raises:
        ConfigError: no target, or two that contradict each other.
    """
    many = isinstance(value, Sequence) and not isinstance(value, str)
    targets = tuple(parse_target(v) for v in (value if many else [value]))
    heads = [t for t in targets if isinstance(t, Heads)]
    others = [t for t in targets if not isinstance(t, Heads)]
    if not targets or len(heads) > 1 or len(others) > 1:
        raise ConfigError(
            f"expected one target of size or speed, or one of heads, or one of each; got "
            f"{', '.join(map(str, targets)) or 'none'}, which leaves it open which one holds."
        )
    if heads and others and isinstance(others[0], Weights):
        raise ConfigError(
            "a weight sparsity counts zeros inside heads that stay, so it cannot be combined with "
            "a number of heads. Use Structural(...) with Heads(...)."
        )
    return (*others, *heads)
