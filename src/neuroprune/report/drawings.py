"""Which figures an experiment has: the paper's, drawn from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuroprune.report.collect import Cell, Collection, Experiment
from neuroprune.report.curves import equal_heads, plot_curves, plot_equal_heads, quality
from neuroprune.report.degrees import plot_degrees, plot_spread
from neuroprune.report.heads import REFERENCE, by_method, plot_heads, plot_relative
from neuroprune.report.patterns import plot_patterns

_Files = tuple[Path, Path]


@dataclass(frozen=True)
class Drawing:
    """One figure, not drawn yet.

    Args:
        experiment: name of the experiment it belongs to.
        stem: name of its files, without folder and ending.
        title: what it shows.
        caption: how to read it, and which figure of the paper it is.
        kind: "curves", "heads", "degrees" or "patterns".
        draw: makes its SVG and PNG at a path.
    """

    experiment: str
    stem: str
    title: str
    caption: str
    kind: str
    draw: Callable[[Path], _Files]


def drawings(collection: Collection) -> list[Drawing]:
    """Every figure of every experiment.

    Args:
        collection: what is below a results folder.
    """
    return [d for experiment in collection.experiments for d in _of(experiment)]


def main_metric(experiment: Experiment) -> str | None:
    """The quality metric that counts, where every record has it.

    Args:
        experiment: the cells.
    """
    for name in experiment.metrics:
        value = quality(experiment, name).of
        if all(value(cell) is not None for cell in experiment.cells):
            return name
    return None


def _of(experiment: Experiment) -> Iterator[Drawing]:
    metric = main_metric(experiment)
    if metric is not None:
        yield from _curves(experiment, metric)
    shown = {
        name: kept
        for name, cells in experiment.series.items()
        if (kept := [cell for cell in cells if cell.structures])
    }
    if shown:
        yield from _heads(experiment, shown)
        yield from _degrees(experiment, shown)
        for cells in shown.values():
            for cell in cells:
                yield from _patterns(experiment, cell)


def _curves(experiment: Experiment, metric: str) -> Iterator[Drawing]:
    make = partial(Drawing, experiment.name, kind="curves")
    yield make(
        f"{experiment.slug}-curves",
        "Quality, speed and training time",
        "Against weight sparsity, where a removed unit and a single zero count alike, and against "
        "the number of heads left; mean and standard deviation over the seeds, the dense model in "
        "grey. Speeds are ratios of medians timed in turns. The two trainings of a run are not "
        "timed in turns: other work on the machine moves that row. After Figures 4, 5 and 11 of "
        "the paper.",
        draw=partial(plot_curves, experiment, metric),
    )
    groups = equal_heads(experiment)
    if groups:
        yield make(
            f"{experiment.slug}-equal-heads",
            "Quality against sparsity, at equal heads",
            "Methods that leave equally many heads are joined by a grey line; the number of heads "
            "stands beside each point. Further right is sparser. After Figure 6 of the paper.",
            draw=partial(plot_equal_heads, experiment, groups, metric),
        )


def _heads(experiment: Experiment, shown: dict[str, list[Cell]]) -> Iterator[Drawing]:
    counted = {name: r for name, r in by_method(shown).items() if r.total > 0.0}
    make = partial(Drawing, experiment.name, kind="heads")
    for name, removals in counted.items():
        yield make(
            f"{experiment.slug}-heads-{name}",
            f"Removed heads: {name}",
            "How often each head is removed, over all settings and seeds of the method: by layer "
            "and index, and the means of both. After Figures 3 and 7 of the paper.",
            draw=partial(plot_heads, name, removals),
        )
    reference = next((n for n in counted if shown[n][0].method == REFERENCE), None)
    if reference is not None and len(counted) > 1:
        yield make(
            f"{experiment.slug}-heads-relative",
            f"Where heads are removed, beside {reference}",
            "Share of a method's own removals that falls on a head index and on a layer, so that "
            "methods which remove more or fewer heads can be compared. After Figure 7 of the "
            "paper.",
            draw=partial(plot_relative, counted, reference),
        )


def _degrees(experiment: Experiment, shown: dict[str, list[Cell]]) -> Iterator[Drawing]:
    make = partial(Drawing, experiment.name, kind="degrees")
    yield make(
        f"{experiment.slug}-degree-spread",
        "Spread of the MLPs' degrees against sparsity",
        "Standard deviation of the degrees of all rows of MLP-in and MLP-out, as a share of the "
        "dense row; removed rows have the degree 0. After Figure 2 of the paper.",
        draw=partial(plot_spread, shown),
    )
    for name, cells in shown.items():
        yield make(
            f"{experiment.slug}-degrees-{name}",
            f"Degrees in the MLPs: {name}",
            "A line tells which share of the rows keeps at least this share of the dense row's "
            "connections; all layers and seeds together, removed rows have the degree 0. After "
            "Figure 2 of the paper.",
            draw=partial(plot_degrees, name, cells),
        )


def _patterns(experiment: Experiment, cell: Cell) -> Iterator[Drawing]:
    run = next(run for run in cell.runs if run.structure is not None)
    structure = run.structure
    assert structure is not None  # the run was chosen for it
    if not structure.has_patterns:
        return
    yield Drawing(
        experiment.name,
        f"{experiment.slug}-patterns-{cell.label.replace('/', '-')}",
        f"What is left of every matrix: {cell.label}, seed {run.record.seed}",
        "Density of the connections that are left, in the dense model's shape: a row of pictures "
        "per matrix, a column per layer; white is gone. After Figures 1 and 8 to 10 of the paper.",
        "patterns",
        partial(plot_patterns, structure, f"{cell.label}, seed {run.record.seed}"),
    )
