"""From options to one `RunConfig`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.cli.console import UsageError

if TYPE_CHECKING:
    from neuroprune.bench.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks of the method.

    Args:
        target: `--target`, a size or a speed.
        heads: `--heads`, how many to keep.
        snapshots: `--snapshots`, structural sparsities with commas between them.
        teacher: `--teacher`.
        uniform: `--uniform`.
    """

    target: str | None = None
    heads: int | None = None
    snapshots: str | None = None
    teacher: str | None = None
    uniform: bool | None = None

    def method(self, old: Mapping[str, Any]) -> Mapping[str, Any]:
        """The [method] table with what is asked for.

        Args:
            old: that of the configuration. In target mode its other settings stay; otherwise they
                belong to another method, or to the paper's mode, and are dropped.

        Raises:
            UsageError: the snapshots are no numbers.
        """
        targets = [] if self.target is None else [self.target]
        targets += [] if self.heads is None else [f"heads:{self.heads}"]
        new = {
            "target": targets or None,
            "snapshots": None if self.snapshots is None else _numbers(self.snapshots),
            "teacher": self.teacher,
            "uniform": self.uniform,
        }
        new = {name: value for name, value in new.items() if value is not None}
        if not new:
            return old
        if old.get("name") != "neuroprune" or "target" not in old:
            old = {}
        return {**old, "name": "neuroprune", **new}


def load_config(
    path: Path | None,
    model: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    settings: Sequence[str] | None = None,
    asked: Asked | None = None,
) -> RunConfig:
    """A configuration file with the command line's changes.

    Args:
        path: TOML, or a RunRecord.
        model: in place of `[model] source`.
        seed: in place of `[training] seed`.
        threads: in place of `[training] threads`.
        settings: "table.name=value" each, the value as in TOML; bare words are text. They come
            last. A source of data takes the place of the configuration's.
        asked: in place of `[method]`.

    Raises:
        UsageError: no file was given, or a matrix, or a setting is not of that form.
        ConfigError: the file or a changed value is wrong.
    """
    from neuroprune.bench.config import RunConfig
    from neuroprune.bench.matrix import is_matrix

    if path is None:
        raise UsageError(
            "give an experiment with --config FILE.toml, such as "
            "benchmarks/experiments/demo/config.toml, or a RunRecord to run again."
        )
    if path.is_file() and is_matrix(path):
        raise UsageError(
            f"{path} is a matrix of experiments, and one is wanted here. Run it with `neuroprune "
            f"bench run {path}`, or one of its cells with --only."
        )
    return changed(RunConfig.load(path), str(path), model, seed, threads, settings, asked)


def changed(
    config: RunConfig,
    where: str,
    model: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    settings: Sequence[str] | None = None,
    asked: Asked | None = None,
) -> RunConfig:
    """A configuration with the command line's changes; see `load_config`."""
    from neuroprune.bench.config import RunConfig
    from neuroprune.tasks.config import SOURCES, from_another

    data = config.to_dict()
    for name in ("begin", "end"):  # not chosen: it may be another with what is asked for now
        if getattr(config.method, name, 0.0) is None:
            data["method"].pop(name, None)
    if model is not None:
        data["model"] = {"source": model}
    if asked is not None:
        data["method"] = dict(asked.method(data["method"]))
    for text in settings or ():
        table, name, value = _parse(text)
        if table == "task" and name in SOURCES:
            data["task"] = from_another(config.task, data["task"], name, value)
        else:
            data.setdefault(table, {})[name] = value
    if threads is not None:
        data["training"]["threads"] = threads
    new = RunConfig.from_dict(data, f"{where} with the options given")
    return new if seed is None else new.with_seed(seed)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            f"--snapshots {text}: expected structural sparsities with commas between them, such "
            "as 0.5,0.7,0.8."
        ) from None


def _parse(text: str) -> tuple[str, str, Any]:
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (equals and dot and table and name):
        raise UsageError(f"--set {text}: expected TABLE.NAME=VALUE, such as training.epochs=1.")
    try:
        return table, name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return table, name, value.strip()


def chosen_names(names: Iterable[str], patterns: Sequence[str] | None) -> set[str]:
    """The names that --only asks for; all of them where it was not given.

    Args:
        names: what there is.
        patterns: with * and ?; each has to match something.

    Raises:
        UsageError: one matches nothing; the message lists the names.
    """
    found = sorted(set(names))
    if not patterns:
        return set(found)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UsageError(
                f"--only {pattern}: nothing is called so. There are: {', '.join(found)}."
            )
    return {name for name in found if any(fnmatchcase(name, p) for p in patterns)}
