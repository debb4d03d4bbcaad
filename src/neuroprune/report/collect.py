"""Which runs there are: records below a folder, by experiment, method and setting.

The folders say what belongs together, RESULTS/EXPERIMENT/CELL/seed-N.json; RESULTS may also be one
experiment, or one cell. Standard library only. Nothing is left out in silence: what cannot be
shown is kept in `Collection.notes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroprune.record import RecordError, RunRecord
from neuroprune.report.figure import ReportError
from neuroprune.report.numbers import Spread, number_of, spread_of
from neuroprune.report.structures import Structure, read_structure

# A number at the end of a label is a setting; the 1 of "l1" is none.
_SETTING = re.compile(r"(.+?)(?:[@_-]|(?<=[A-Za-z]{2}))(\d+(?:\.\d+)?)")
_OF_THE_DENSE_RUN = ("model", "task", "training")
_FAILURES = "*.failed.txt"
_TRAINED = "record.json"


def series_and_setting(label: str) -> tuple[str, str]:
    """A label without the number at its end, and that number: settings of one method.

    Args:
        label: such as "neuroprune-80".

    Returns:
        ("neuroprune", "80"); the setting is empty where the label ends with no number.
    """
    found = _SETTING.fullmatch(label)
    return (found[1], found[2]) if found else (label, "")


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
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def series(self) -> str:
        """The label without its setting: what one line of a plot shows."""
        return series_and_setting(self.label)[0]

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
    """

    name: str
    cells: tuple[Cell, ...]

    @property
    def slug(self) -> str:
        """The name as part of a file's name."""
        return re.sub(r"[^\w.]+", "-", self.name).strip("-.")

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
        return str(_table(self.records[0].config, "task").get("kind", ""))

    @property
    def metrics(self) -> list[str]:
        """Quality metrics, the first one counts."""
        return [str(name) for name in self.records[0].metrics.get("names", ())]

    @property
    def series(self) -> dict[str, list[Cell]]:
        """Cells by method, our own first."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.series, []).append(cell)
        names = sorted(found, key=lambda name: (found[name][0].method != "neuroprune", name))
        return {name: found[name] for name in names}


@dataclass(frozen=True)
class Collection:
    """Everything below a results folder.

    Args:
        experiments: those with trainings.
        measurements: names of the records of measurements without training.
        failures: names of the files that failed runs left, and their first line.
    """

    experiments: tuple[Experiment, ...]
    measurements: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]

    @property
    def runs(self) -> list[Run]:
        """All runs of all experiments."""
        return [run for experiment in self.experiments for run in experiment.runs]


def collect(root: Path) -> Collection:
    """Read every record below a folder.

    Args:
        root: the folder.

    Raises:
        ReportError: the folder is missing or has no record of a training; a JSON file is no record
            of this version; a seed stands twice in one cell; or two records of one seed and one
            configuration of the dense run give it different results. The files are named.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ReportError(
            f"{root} {what}: expected a folder of records such as benchmarks/results, as "
            "`neuroprune bench run` makes them."
        )
    base = root.resolve()
    folders: dict[str, dict[str, dict[int, Run]]] = {}
    measurements = []
    for path in _files(root):
        folder, label = _place(path, root, base)
        run = _run(path, f"{folder}/{label}/{path.name}")
        if "pruned" not in run.record.metrics or "dense" not in run.record.metrics:
            measurements.append(run.name)
            continue
        seeds = folders.setdefault(folder, {}).setdefault(label, {})
        first = seeds.setdefault(run.record.seed, run)
        if first is not run:
            raise ReportError(
                f"{first.path} and {path} are both of seed {run.record.seed}: a seed counts once. "
                "Remove the one that does not belong there."
            )
    if not folders:
        found = f"; its {len(measurements)} records measure no quality" if measurements else ""
        raise ReportError(
            f"{root} has no record of a training below it{found}. Run `neuroprune bench run` "
            "first, or give the folder that it wrote to."
        )
    failures = [
        (
            "/".join((*_place(path, root, base), path.name)),
            (path.read_text(encoding="utf-8").strip() or "no reason given").splitlines()[0],
        )
        for path in sorted(root.rglob(_FAILURES))
    ]
    experiments = tuple(e for name, cells in folders.items() for e in _experiments(name, cells))
    return Collection(experiments, tuple(measurements), tuple(failures))


def _files(root: Path) -> list[Path]:
    """The records below a folder; of a folder that `neuroprune train` left, its one record."""
    single = root / _TRAINED
    return [single] if single.is_file() else sorted(root.rglob("*.json"))


def _place(path: Path, root: Path, base: Path) -> tuple[str, str]:
    """Names of the experiment and of the cell that a file belongs to."""
    parts = path.parent.relative_to(root).parts
    if not parts:
        return base.parent.name or "results", base.name
    if len(parts) == 1:
        return base.name, parts[0]
    return parts[0], "/".join(parts[1:])


def _run(path: Path, name: str) -> Run:
    try:
        record = RunRecord.load(path)
    except RecordError as error:
        raise ReportError(f"{error} A results folder holds records and nothing else.") from error
    return Run(path, name, record, read_structure(record.structure, path))


def _experiments(folder: str, cells: Mapping[str, Mapping[int, Run]]) -> Iterator[Experiment]:
    """The experiments of one folder: one, or one per configuration of the dense run."""
    groups: dict[str, dict[str, dict[int, Run]]] = {}
    for label, seeds in cells.items():
        for seed, run in seeds.items():
            groups.setdefault(_dense_key(run.record), {}).setdefault(label, {})[seed] = run
    names = [_task(group) for group in groups.values()]
    for number, group in enumerate(groups.values()):
        _check_dense(run for seeds in group.values() for run in seeds.values())
        name = folder
        if len(groups) > 1:
            again = names[:number].count(names[number])
            name = f"{folder}, {names[number]}" + (f" ({again + 1})" if again else "")
        _check_shape(run for seeds in group.values() for run in seeds.values())
        made = [
            Cell(label, tuple(seeds[s] for s in sorted(seeds))) for label, seeds in group.items()
        ]
        yield Experiment(name, tuple(sorted(made, key=_order)))


def _task(group: Mapping[str, Mapping[int, Run]]) -> str:
    return next(run.record.task for seeds in group.values() for run in seeds.values())


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _dense_key(record: RunRecord) -> str:
    """What makes the dense run what it is, but for its seed."""
    config = {key: dict(_table(record.config, key)) for key in _OF_THE_DENSE_RUN}
    config["training"].pop("seed", None)
    return json.dumps([record.task, config], sort_keys=True)


def _check_dense(runs: Iterable[Run]) -> None:
    first: dict[int, Run] = {}
    for run in runs:
        other = first.setdefault(run.record.seed, run)
        ours, theirs = run.record.metrics["dense"], other.record.metrics["dense"]
        if ours != theirs:
            raise ReportError(
                f"{other.path} and {run.path} have different dense runs of seed {run.record.seed} "
                f"with one configuration: {theirs} against {ours}. Make one of them again beside "
                "the other, or keep them in folders of their own."
            )


def _check_shape(runs: Iterable[Run]) -> None:
    """Refuse models that cannot be laid on each other, though their dense runs are the same."""
    first: Run | None = None
    for run in runs:
        if run.structure is None:
            continue
        first = first or run
        assert first.structure is not None  # the first one was chosen for it
        if run.structure.shape != first.structure.shape:
            raise ReportError(
                f"{first.path} and {run.path} have one configuration and dense models of different "
                "shape: one of them is not of this experiment. Make it again, or remove it."
            )


def _order(cell: Cell) -> tuple[bool, str, float, float, str]:
    structural, weight = (cell.sparsity(kind) for kind in ("structural", "weight"))
    reached = (0.0 if s is None else round(s.mean, 3) for s in (structural, weight))
    one, other = reached
    return cell.method != "neuroprune", cell.series, one, other, cell.label


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
