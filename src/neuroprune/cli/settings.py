"""From options to one `RunConfig`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.cli.console import UsageError

if TYPE_CHECKING:
    from neuroprune.bench.config import RunConfig


def load_config(
    path: Path | None,
    model: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    settings: Sequence[str] | None = None,
) -> RunConfig:
    """A configuration file with the command line's changes.

    Args:
        path: TOML, or a RunRecord.
        model: in place of `[model] source`.
        seed: in place of `[training] seed`.
        threads: in place of `[training] threads`.
        settings: "table.name=value" each, the value as in TOML; bare words are text.

    Raises:
        UsageError: no file was given, or a setting is not of that form.
        ConfigError: the file or a changed value is wrong.
    """
    from neuroprune.bench.config import RunConfig

    if path is None:
        raise UsageError(
            "give an experiment with --config FILE.toml, such as "
            "benchmarks/experiments/demo/config.toml, or a RunRecord to run again."
        )
    return changed(RunConfig.load(path), str(path), model, seed, threads, settings)


def changed(
    config: RunConfig,
    where: str,
    model: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    settings: Sequence[str] | None = None,
) -> RunConfig:
    """A configuration with the command line's changes; see `load_config`."""
    from neuroprune.bench.config import RunConfig

    data = config.to_dict()
    if model is not None:
        data["model"] = {"source": model}
    for text in settings or ():
        table, name, value = _parse(text)
        data.setdefault(table, {})[name] = value
    if threads is not None:
        data["training"]["threads"] = threads
    new = RunConfig.from_dict(data, f"{where} with the options given")
    return new if seed is None else new.with_seed(seed)


def _parse(text: str) -> tuple[str, str, Any]:
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (equals and dot and table and name):
        raise UsageError(f"--set {text}: expected TABLE.NAME=VALUE, such as training.epochs=1.")
    try:
        return table, name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return table, name, value.strip()
