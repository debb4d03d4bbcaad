"""The named choices of configurations, and the checks of their fields."""

from __future__ import annotations

import math
from enum import StrEnum

from neuroprune.errors import ConfigError

DENSE = "dense"  # teacher: the model as it was at `attach`
FINETUNED = "finetuned"  # teacher, in an experiment: its dense run of the same seed


class Apply(StrEnum):
    """How a penalty acts: inside the gradient (the paper) or as a decoupled proximal step."""

    PENALTY = "penalty"
    PROX = "prox"


class Structure(StrEnum):
    """What `Magnitude` removes: single weights or whole heads and neurons."""

    WEIGHTS = "weights"
    UNITS = "units"


class Granularity(StrEnum):
    """What `Movement` scores and masks as one.

    weights: single weights.
    blocks: squares of attention matrices, and whole neurons.
    units: whole heads and neurons, over all of their matrices.
    """

    WEIGHTS = "weights"
    BLOCKS = "blocks"
    UNITS = "units"


class Training(StrEnum):
    """Whether gates are learnt together with the weights, or after them."""

    JOINT = "joint"
    PIPELINED = "pipelined"


class Distill(StrEnum):
    """What a student is compared with its teacher by.

    layers: the hidden states of layers and the answers, in place of the task's loss.
    logits: the answers, mixed with the task's loss.
    """

    LAYERS = "layers"
    LOGITS = "logits"


class Connectivity(StrEnum):
    """What makes a unit rich, in target mode.

    fisher: running mean of (sum_j w_j dL/dw_j)^2 over the unit's outgoing weights.
    strength: sum of squared weights, in and out; per weight that it costs, their mean.
    activity: mean squared activation times the squared norm of the outgoing weights.
    mixed: geometric mean of fisher and activity, each relative to the model's mean.

    With a target of `Weights`, single weights have a value that their row's connectivity multiplies
    (`ZerosMethod`): |w_ij| sqrt(r_i s_j / mean(r)) with fisher, r and s running row and column
    means of the squared gradient; |w_ij| with strength, the paper's; no others.
    """

    FISHER = "fisher"
    STRENGTH = "strength"
    ACTIVITY = "activity"
    MIXED = "mixed"


class Redundancy(StrEnum):
    """How the likeness of two heads is measured.

    weights: l_inf distance of the weight blocks (the paper).
    circuit: the QK and OV products, whatever basis they are written in.
    output: the heads' outputs on the training batches.
    """

    WEIGHTS = "weights"
    CIRCUIT = "circuit"
    OUTPUT = "output"


class Dominating(StrEnum):
    """How the heads that stand for others are found.

    paper: the one-pass rule of Algorithm 3. greedy: the head that stands for most, again and again.
    exact: a minimum dominating set, by integer programming.
    """

    PAPER = "paper"
    GREEDY = "greedy"
    EXACT = "exact"


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


def check_whole(owner: object, name: str, low: float, high: float = math.inf) -> None:
    """Refuse a field of a configuration that is not a whole number in [low, high].

    Raises:
        ConfigError: the value is no such number.
    """
    check_finite(owner, name, low, high)
    value = getattr(owner, name)
    if value != int(value):
        raise ConfigError(f"{type(owner).__name__}.{name} must be a whole number, got {value!r}.")


def check_flag(owner: object, name: str) -> None:
    """Refuse a field of a configuration that is neither true nor false.

    Raises:
        ConfigError: the value is something else.
    """
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise ConfigError(f"{type(owner).__name__}.{name} must be true or false, got {value!r}.")


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


def check_teacher(owner: object) -> None:
    """Refuse a field `teacher` that is neither None nor the name of a teacher.

    Raises:
        ConfigError: the value is no text, or empty.
    """
    value = getattr(owner, "teacher", None)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(
            f'{type(owner).__name__}.teacher must be "{DENSE}", a directory or a hub name (in an '
            f'experiment also "{FINETUNED}"); pass a model that is in memory as attach(..., '
            f"teacher=model). Got {value if isinstance(value, str) else type(value).__name__!r}."
        )
