"""A matrix: methods x sparsities x seeds on one task, from one TOML file.

The file has `name`, `seeds`, the tables `[model]`, `[task]`, `[training]` and `[evaluation]` of an
experiment, and one table `[methods.LABEL]` per method: its `name` and settings as in an
experiment's `[method]`, and beside them

- `targets`: one cell per target, `LABEL-50` for 0.5, `LABEL-heads-24` for "heads:24";
- `[methods.LABEL.grid]`: one cell per combination; what has several values is in the cell's name;
- `seeds`: in place of the matrix's.

A cell is an experiment like any other: its records are RESULTS/NAME/CELL/seed-N.json.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from neuroprune.bench.config import RunConfig, check_known
from neuroprune.bench.suite import Job, find_configs, is_config, job_name, jobs_of
from neuroprune.config import (
    METHODS,
    ConfigError,
    Flops,
    Heads,
    Latency,
    Parameters,
    Structural,
    Target,
    Weights,
)
from neuroprune.targets import parse_target

_SHARED = ("model", "task", "training", "evaluation")
_OF_A_METHOD = ("name", "seeds", "targets", "grid")
_NAME = re.compile(r"[\w-]+")  # what a table's marker can say
_LABEL = re.compile(r"[\w.-]+")


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises:
        ConfigError: it is not TOML; the file is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def is_matrix(path: Path) -> bool:
    """Whether a file is a matrix: TOML with a table [methods]."""
    return path.suffix == ".toml" and "methods" in read_toml(path)


@dataclass(frozen=True)
class Matrix:
    """A matrix, expanded.

    Args:
        name: the folder of its records.
        cells: an experiment per cell, by label; each with its seeds.

    Raises:
        ConfigError: the name is no folder's.
    """

    name: str
    cells: Mapping[str, RunConfig]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                "name must be a text of letters, digits, - and _, which names the folder of the "
                f"records, got {self.name!r}."
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and expand a matrix file.

        Raises:
            ConfigError: not TOML, or see `from_dict`; the file is named.
            OSError: the file cannot be read.
        """
        return cls.from_dict(read_toml(path), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "matrix") -> Self:
        """Expand the contents of a matrix file.

        Args:
            data: as in the module's docstring.
            where: named in front of every error, such as the file's name.

        Raises:
            ConfigError: a table or setting is unknown (with the closest name), missing, or outside
                its range; or two cells have one label.
        """
        check_known(data, ["name", "seeds", *_SHARED, "methods"], where, "entry")
        for name in ("name", "methods"):
            if not data.get(name):
                raise ConfigError(f"{where}: a matrix needs {name!r}, which is missing or empty.")
        shared = {name: data[name] for name in _SHARED if name in data}
        seeds = data.get("seeds", [])
        cells: dict[str, RunConfig] = {}
        for label, table in _tables(data["methods"], where).items():
            for cell, config in _cells(label, table, shared, seeds, f"{where}: [methods.{label}]"):
                if cell in cells:
                    raise ConfigError(
                        f"{where}: two cells are called {cell!r}; the second comes from "
                        f"[methods.{label}]. Rename a method's table, or give each target once."
                    )
                cells[cell] = config
        try:
            return cls(data["name"], cells)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def _tables(methods: Any, where: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(methods, Mapping):
        raise ConfigError(f"{where}: [methods] must be a table of tables, got {methods!r}.")
    for label, table in methods.items():
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{where}: methods.{label} must be a table, [methods.{label}]; got {table!r}."
            )
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{where}: the label {label!r} names a folder: use letters, digits, '.', - and _."
            )
    return methods


def _cells(
    label: str, table: Mapping[str, Any], shared: Mapping[str, Any], seeds: Any, where: str
) -> Iterator[tuple[str, RunConfig]]:
    """Label and configuration of every cell of one method."""
    kind = METHODS.get(str(table.get("name")))
    if kind is not None:
        settings = (field.name for field in dataclasses.fields(kind))
        check_known(table, [*_OF_A_METHOD, *settings], where, "setting")
    own = {key: value for key, value in table.items() if key not in _OF_A_METHOD[1:]}
    seeds = table.get("seeds", seeds)
    for suffix, chosen in _variants(table, where):
        data = {**shared, "method": own | chosen, "seeds": seeds}
        config = RunConfig.from_dict(data, f"{where}, cell {label + suffix}")
        twice = [seed for seed, count in Counter(config.seeds).items() if count > 1]
        if twice:
            raise ConfigError(f"{where}: the seed {twice[0]} is given twice.")
        yield label + suffix, config


def _variants(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What distinguishes the cells of a method: the end of the label, and settings."""
    targets = _values(table["targets"], f"{where}: targets") if "targets" in table else [None]
    grid = table.get("grid", {})
    if not isinstance(grid, Mapping):
        raise ConfigError(f"{where}: grid must be a table of lists, got {grid!r}.")
    lists = {key: _values(values, f"{where}: grid.{key}") for key, values in grid.items()}
    twice = [key for key in grid if key in table or (key == "target" and "targets" in table)]
    if twice:
        raise ConfigError(f"{where}: {twice[0]!r} is given in the grid and outside it.")
    for target, *values in itertools.product(targets, *lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        told = "".join(f"-{key}{_text(chosen[key])}" for key in lists if len(lists[key]) > 1)
        if target is None:
            yield told, chosen
            continue
        try:
            label = target_label(target)
        except ConfigError as error:
            raise ConfigError(f"{where}: targets: {error}") from error
        yield f"-{label}{told}", {"target": target, **chosen}


def _values(values: Any, where: str) -> Sequence[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where} must be a list of at least one value, got {values!r}.")
    return values


def _text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def target_label(value: Any) -> str:
    """How a target is called in the name of a cell: "50", "weights-50", "heads-24".

    Shares are percentages; a pair of targets is joined by "-".

    Args:
        value: a target as in a configuration, or a list of them.

    Raises:
        ConfigError: it is no target.
    """
    if isinstance(value, list):
        return "-".join(map(target_label, value))
    shape = str(value).partition("@")[2]
    return _amount(parse_target(value)) + (f"-{shape}" if shape else "")


def _amount(target: Target) -> str:
    if isinstance(target, Structural):
        return f"{100 * target.sparsity:g}"
    if isinstance(target, Weights):
        return f"weights-{100 * target.sparsity:g}"
    if isinstance(target, Flops | Latency):
        return f"{target.kind}-{100 * target.kept:g}"
    if isinstance(target, Heads | Parameters):
        return f"{target.kind}-{target.count}"
    raise ConfigError(f"the target {target} has no name as part of a cell.")


@dataclass(frozen=True)
class Plan:
    """What paths ask for.

    Args:
        jobs: one per seed of every experiment and cell.
        folders: folders of the results that hold records of these jobs and nothing else.
    """

    jobs: tuple[Job, ...]
    folders: tuple[Path, ...]


def plan(
    paths: Iterable[Path],
    results: Path,
    seeds: Sequence[int] | None = None,
    change: Callable[[RunConfig], RunConfig] = lambda config: config,
    wanted: Callable[[str], bool] = lambda name: True,
) -> Plan:
    """The jobs of experiments and matrices.

    Args:
        paths: experiment folders, configurations, matrices, or folders of any of them.
        results: folder of the records.
        seeds: in place of the seeds of the files.
        change: applied to every wanted configuration, for settings given on the command line.
        wanted: says by its name, TASK/METHOD-SETTING, whether an experiment or cell is meant.

    Raises:
        ConfigError: a file is wrong and is named; or two differ about one record.
    """
    found: dict[Path, Job] = {}
    folders: dict[Path, None] = {}
    for path in find_configs(paths, lambda file: is_config(file) or is_matrix(file)):
        if is_matrix(path):
            matrix = Matrix.load(path)
            cells = {f"{matrix.name}/{label}": c for label, c in matrix.cells.items()}
            folders[results / matrix.name] = None
        else:
            cells = {job_name(path): RunConfig.load(path)}
            folders[results / job_name(path)] = None
        for name, config in cells.items():
            if not wanted(name):
                continue
            for job in jobs_of(name, change(config), path, results, seeds):
                first = found.setdefault(job.record, job)
                if first.config != job.config:
                    raise ConfigError(
                        f"{first.source} and {path} differ about {job.title}, and both write "
                        f"{job.record}. Rename one of them."
                    )
    return Plan(tuple(found.values()), tuple(folders))
