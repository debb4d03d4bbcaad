"""Which runs there are: records below a folder, by experiment, method and setting.

The folders say what belongs together, RESULTS/EXPERIMENT/CELL/seed-N.json; RESULTS may also be one
experiment, or one cell. Standard library only. Nothing is left out in silence: what cannot be
shown is kept in `Collection.notes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroprune.record import RecordError, RunRecord, differing
from neuroprune.report.figure import ReportError
from neuroprune.report.in_turns import in_turns
from neuroprune.report.names import number, slug, unique
from neuroprune.report.rows import order_of
from neuroprune.report.runs import (
    Cell,
    Collection,
    Experiment,
    Run,
    dense_config,
    series_and_setting,
    table_of,
)
from neuroprune.report.structures import read_structure

_MACHINE = ("processor", "device", "threads", "packages")
_FAILURES = "*.failed.txt"
_TRAINED = "record.json"
_BENCHED = "seed-*.json"
_OF_THE_PAGE = ("summary", "missing", "measurements")  # identifiers of its own parts


def collect(root: Path) -> Collection:
    """Read every record below a folder.

    Args:
        root: the folder.

    Raises:
        ReportError: the folder is missing or has no record of a training; a JSON file is no record
            of this version; a seed stands twice in one cell; a cell holds two methods; or two
            records of one seed and one configuration of the dense run give it different results.
            The files are named.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ReportError(
            f"{root} {what}: expected a folder of records such as benchmarks/results, as "
            "`neuroprune bench run` makes them."
        )
    base = root.resolve()
    failures = list(_failures(root, base))
    folders: dict[str, dict[str, dict[int, Run]]] = {}
    measurements: list[Run] = []
    notes: list[str] = []
    for path in _files(root):
        folder, label = _place(path, root, base)
        run = _run(path, f"{folder}/{label}/{path.name}")
        sides = [side for side in ("dense", "pruned") if side in run.record.metrics]
        if not sides:
            measurements.append(run)
        elif len(sides) == 1:
            notes.append(f"{run.name} has the quality of the {sides[0]} model alone: not shown.")
        else:
            _add(folders.setdefault(folder, {}).setdefault(label, {}), run)
    if not folders:
        raise ReportError(_nothing(root, len(measurements), notes, failures))
    found: list[Experiment] = []
    for name, cells in folders.items():
        made = list(_experiments(name, cells))
        notes += _split(name, made)
        notes += [note for one in made for note in (*_mixed(one), *_changed_by_saving(one))]
        found += made
    names = unique(experiment.name for experiment in found)
    slugs = unique(map(slug, names), _OF_THE_PAGE)
    experiments = tuple(
        replace(experiment, name=name, slug=slug_, in_turns=in_turns(experiment, measurements))
        for experiment, name, slug_ in zip(found, names, slugs, strict=True)
    )
    names_of_measurements = tuple(run.name for run in measurements)
    return Collection(experiments, names_of_measurements, tuple(failures), tuple(notes))


def _add(seeds: dict[int, Run], run: Run) -> None:
    """Put a run into its cell: each seed once, all of one method."""
    first = seeds.setdefault(run.record.seed, run)
    if first is not run:
        raise ReportError(
            f"{first.path} and {run.path} are both of seed {run.record.seed}: a seed counts once. "
            "Remove the one that does not belong there."
        )
    other = next(iter(seeds.values()))
    if other.record.method != run.record.method:
        raise ReportError(
            f"{other.path} is of the method {other.record.method} and {run.path} of "
            f"{run.record.method}: the runs of a folder differ in their seed only. Keep them in "
            "folders of their own."
        )


def _failures(root: Path, base: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob(_FAILURES)):
        reason = path.read_text(encoding="utf-8", errors="replace").strip() or "no reason given"
        yield "/".join((*_place(path, root, base), path.name)), reason.splitlines()[0]


def _nothing(
    root: Path,
    measurements: int,
    notes: Sequence[str],
    failures: Sequence[tuple[str, str]],
) -> str:
    """What to say of a folder without a training."""
    told = f"; records of speed or size alone: {measurements}" if measurements else ""
    told += "".join(f"; {note.removesuffix('.')}" for note in notes)
    if failures:
        told += f"; {number(len(failures), 'run')} failed, {failures[0][0]}: {failures[0][1]}"
    return (
        f"{root} has no record of a training below it{told}. Run `neuroprune bench run` first, or "
        "give the folder that it wrote to."
    )


def _files(root: Path) -> list[Path]:
    """The records below a folder; `neuroprune train` leaves one there, beside files of models."""
    single = root / _TRAINED
    return sorted([single, *root.rglob(_BENCHED)] if single.is_file() else root.rglob("*.json"))


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
    for position, group in enumerate(groups.values()):
        _check_dense(run for seeds in group.values() for run in seeds.values())
        name = folder
        if len(groups) > 1:
            again = names[:position].count(names[position])
            name = f"{folder}, {names[position]}" + (f" ({again + 1})" if again else "")
        _check_shape(run for seeds in group.values() for run in seeds.values())
        yield Experiment(
            name,
            tuple(sorted(_cells(group), key=lambda c: order_of(c.label, c.records))),
            slug(name),
            folder,
        )


def _cells(group: Mapping[str, Mapping[int, Run]]) -> Iterator[Cell]:
    """The cells of an experiment; one line of a plot shows one method only."""
    methods: dict[str, set[str]] = {}
    for label, seeds in group.items():
        method = next(iter(seeds.values())).record.method
        methods.setdefault(series_and_setting(label)[0], set()).add(method)
    for label, seeds in group.items():
        runs = tuple(seeds[seed] for seed in sorted(seeds))
        series = series_and_setting(label)[0]
        if len(methods[series]) > 1:
            series = f"{series} ({runs[0].record.method})"
        yield Cell(label, runs, series)


def _split(folder: str, made: Sequence[Experiment]) -> Iterator[str]:
    """Why one folder has several experiments."""
    if len(made) > 1:
        configs = [_dense_config(experiment.records[0]) for experiment in made]
        keys = sorted({key for config in configs for key in config})
        apart = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
        yield (
            f"{folder}: its dense runs have {len(made)} configurations, which differ in "
            f"{', '.join(apart)}: they are {len(made)} experiments here, and their cells are not "
            "compared with each other."
        )


def _mixed(experiment: Experiment) -> Iterator[str]:
    """Cells whose runs differ in more than the seed."""
    for cell in experiment.cells:
        if said := mixed(cell.label, cell.records):
            yield f"{experiment.name}: {said}"


def mixed(label: str, records: Sequence[RunRecord]) -> str:
    """In what the runs of a cell differ beside their seed, in words; empty for nothing.

    Args:
        label: of the cell.
        records: its records, at least one.
    """
    first, *others = map(_conditions, records)
    apart = sorted({key for one in others for key in differing(first, one)})
    if not apart:
        return ""
    return (
        f"the runs of {label} differ in {apart[0]}, not in their seed only; their mean is of "
        "different settings."
    )


def _conditions(record: RunRecord) -> dict[str, Any]:
    """What all runs of a cell share: the method, how it is measured, and on what."""
    tables = {name: table_of(record.config, name) for name in ("method", "evaluation")}
    machine = {name: record.environment.get(name) for name in _MACHINE}
    return {**tables, "environment": machine}


def _changed_by_saving(experiment: Experiment) -> Iterator[str]:
    """Cells whose saved models are not measured as they were in the training process."""
    for cell in experiment.cells:
        less = [r for r in cell.records if r.metrics.get("reload_matches") is False]
        if less:
            precisions = {table_of(r.config, "training").get("precision", "fp32") for r in less}
            why = (
                "a defect to report"
                if "fp32" in precisions
                else f"trained and measured there in {' and '.join(sorted(precisions))}"
            )
            yield (
                f"{experiment.name}: loaded again, {len(less)} of {number(len(cell.runs), 'model')}"
                f" of {cell.label} measured otherwise than in the training process ({why}); shown "
                "is what was loaded."
            )


def _task(group: Mapping[str, Mapping[int, Run]]) -> str:
    return next(run.record.task for seeds in group.values() for run in seeds.values())


def _dense_key(record: RunRecord) -> str:
    """What makes the dense run what it is, but for its seed."""
    return json.dumps(_dense_config(record), sort_keys=True)


def _dense_config(record: RunRecord) -> dict[str, Any]:
    return {"task": record.task, **dense_config(record)}


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
