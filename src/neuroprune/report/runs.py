"""Runs, cells and experiments: what tables and figures are made of. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroprune.record import RunRecord
from neuroprune.report.numbers import OURS, Spread, metric_names, number_of, spread_of
from neuroprune.report.structures import Structure

_OF_THE_DENSE_RUN = ("model", "task", "training")
# A number at the end of a label is a setting; the 1 of "l1" is none.
_SETTING = re.compile(r"(.+?)(?:[@/_-]|(?<=[A-Za-z]{2}))(\d+(?:\.\d+)?(?:e-?\d+)?)")
# A point of a grid has several, each with its name: "alpha1e-05-beta0.01".
_GRID = re.compile(r"(.+?)((?:-[A-Za-z_]+\d+(?:\.\d+)?(?:e-?\d+)?){2,})")


def series_and_setting(label: str) -> tuple[str, str]:
    """A label without the number at its end, and that number: settings of one method.

    Args:
        label: such as "neuroprune-80", or "neuroprune-alpha1e-05-beta0.01" of a grid.

    Returns:
        ("neuroprune", "80") and ("neuroprune", "alpha1e-05-beta0.01"); the setting is empty where
        the label ends with no number.
    """
    grid = _GRID.fullmatch(label)
    if grid:
        return grid[1], grid[2].removeprefix("-")
    found = _SETTING.fullmatch(label)
    return (found[1], found[2]) if found else (label, "")


def order_of_lines(name: str, ours: bool) -> tuple[bool, bool, str]:
    """What lines are sorted by: NeuroPrune as it comes, its variants, and the others.

    Args:
        name: of the line.
        ours: whether its method is NeuroPrune.
    """
    return not ours, name != OURS, name


def table_of(tables: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of a record by its name; empty where it is absent or something else.

    Args:
        tables: such as the record's configuration.
        key: the name.
    """
    value = tables.get(key)
    return value if isinstance(value, Mapping) else {}


def dense_config(record: RunRecord) -> dict[str, Any]:
    """What makes a dense run what it is, but for its seed: dotted keys and their values.

    Args:
        record: its model, task and training count.
    """
    config = {
        f"{table}.{key}": value
        for table in _OF_THE_DENSE_RUN
        for key, value in table_of(record.config, table).items()
    }
    config.pop("training.seed", None)
    return config


@dataclass(frozen=True)
class Run:
    """One record, and where it is.

    Args:
        path: its file.
        name: of the file, as a reader of the report sees it.
        record: what it says.
        structure: what is left of every matrix; None for a record that does not say it.
    """

    path: Path
    name: str
    record: RunRecord
    structure: Structure | None


@dataclass(frozen=True)
class Cell:
    """One setting of one method, over its seeds.

    Args:
        label: name of its folder.
        runs: one per seed, seeds in order.
        series: the label without its setting: what one line of a plot shows.
    """

    label: str
    runs: tuple[Run, ...]
    series: str

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.runs[0].record.method

    @property
    def records(self) -> list[RunRecord]:
        """One per seed."""
        return [run.record for run in self.runs]

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return [run.record.seed for run in self.runs]

    def spread(self, value: Callable[[RunRecord], float | None]) -> Spread | None:
        """Mean and deviation over the seeds; None where one of them lacks the number."""
        return spread_of([value(record) for record in self.records])

    def sparsity(self, kind: str = "structural") -> Spread | None:
        """Structural or weight sparsity, in [0, 1]."""
        return self.spread(lambda r: number_of(r, "sizes", "pruned", f"{kind}_sparsity"))

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Of the runs that have one."""
        return tuple(run.structure for run in self.runs if run.structure is not None)


@dataclass(frozen=True)
class Experiment:
    """Cells that are compared with the same dense runs.

    Args:
        name: of the folder; with the task, where a folder holds several.
        cells: by method, then by what was reached.
        slug: the name as part of a file's name, different for every experiment.
        folder: the folder's name.
        in_turns: of some cells, by label, the time of a step in units of a dense one, from a
            measurement of the same training in which all took turns.
    """

    name: str
    cells: tuple[Cell, ...]
    slug: str
    folder: str
    in_turns: Mapping[str, float] = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        """All runs, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]

    @property
    def records(self) -> list[RunRecord]:
        """All records, cell by cell."""
        return [run.record for run in self.runs]

    @property
    def kind(self) -> str:
        """Kind of the task, such as "translation"; empty where no record says it."""
        task = self.records[0].config.get("task")
        return str(task.get("kind", "")) if isinstance(task, Mapping) else ""

    @property
    def metrics(self) -> list[str]:
        """Quality metrics that any record names, the first one counts."""
        return metric_names(self.records)

    @property
    def series(self) -> dict[str, list[Cell]]:
        """Cells by method: NeuroPrune as it comes, its variants, and the others."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.series, []).append(cell)
        names = sorted(found, key=lambda name: order_of_lines(name, found[name][0].method == OURS))
        return {name: found[name] for name in names}


@dataclass(frozen=True)
class Collection:
    """Everything below a results folder.

    Args:
        experiments: those with trainings.
        measurements: names of the records of measurements without training.
        failures: names of the files that failed runs left, and their first line.
        notes: what is there and cannot be shown, or not beside the rest, in sentences.
    """

    experiments: tuple[Experiment, ...]
    measurements: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """All runs of all experiments."""
        return [run for experiment in self.experiments for run in experiment.runs]


def lacking(experiment: Experiment) -> list[str]:
    """Cells that lack seeds which other cells of their experiment have.

    Args:
        experiment: the cells.
    """
    wanted = sorted({seed for cell in experiment.cells for seed in cell.seeds})
    short = []
    for cell in experiment.cells:
        missing = [seed for seed in wanted if seed not in cell.seeds]
        if missing:
            told = ", ".join(map(str, missing))
            short.append(f"{cell.label} has {len(cell.seeds)} of {len(wanted)} seeds, not {told}.")
    return short
