"""Which figures an experiment has: the paper's, drawn from its records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from neuroprune.report.compare import Comparison, by_another_metric, compare
from neuroprune.report.curves import apart, equal_heads, plot_curves, plot_equal_heads, quality
from neuroprune.report.degrees import plot_degrees, plot_spread
from neuroprune.report.figure import PALETTE
from neuroprune.report.grids import best_of_grids, best_of_group, dropped_from
from neuroprune.report.heads import REFERENCE, by_method, plot_heads, plot_relative
from neuroprune.report.importance import plot_importance, relative_importance
from neuroprune.report.names import slug, unique
from neuroprune.report.numbers import OURS
from neuroprune.report.pace import plot_pace, relative_pace
from neuroprune.report.patterns import plot_patterns
from neuroprune.report.runs import Cell, Collection, Experiment

_Files = tuple[Path, Path]


@dataclass(frozen=True)
class Drawing:
    """One figure, not drawn yet.

    Args:
        experiment: name of the experiment it belongs to.
        stem: name of its files, without folder and ending; no two figures share one.
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
    found = [d for experiment in collection.experiments for d in _of(experiment)]
    # An experiment's section of the page is called by its slug.
    stems = unique((d.stem for d in found), (e.slug for e in collection.experiments))
    return [replace(d, stem=stem) for d, stem in zip(found, stems, strict=True)]


def main_metric(experiment: Experiment) -> str | None:
    """The quality metric that counts: the first that every cell has, or else that any has.

    Args:
        experiment: the cells.

    Returns:
        Its name; None where no cell has a metric for all its seeds.
    """
    having = [(name, without_metric(experiment, name)) for name in experiment.metrics]
    some = [(name, less) for name, less in having if len(less) < len(experiment.cells)]
    return next((name for name, less in some if not less), some[0][0] if some else None)


def chosen(experiment: Experiment) -> Experiment:
    """What curves and comparisons show: of a grid of strengths, the best at each sparsity.

    Args:
        experiment: the cells.
    """
    metric = main_metric(experiment)
    return experiment if metric is None else best_of_grids(experiment, metric)


def not_chosen(experiment: Experiment) -> str:
    """What `chosen` leaves out, in words; empty for nothing.

    Args:
        experiment: the cells.
    """
    metric = main_metric(experiment)
    return "" if metric is None else dropped_from(experiment, chosen(experiment), metric)


def comparisons_of(experiment: Experiment) -> list[Comparison]:
    """Our cells with those of rivals, by the metric that counts; none where there is none.

    Args:
        experiment: the cells; of a grid of strengths, those that `chosen` leaves.
    """
    metric = main_metric(experiment)
    return [] if metric is None else compare(experiment, metric)


def by_other_metrics(experiment: Experiment) -> list[str]:
    """What comparisons say by the metrics that are not the main one, a sentence each.

    Args:
        experiment: as for `comparisons_of`.
    """
    main = main_metric(experiment)
    others = (compare(experiment, metric) for metric in experiment.metrics if metric != main)
    return [said for found in others if found and (said := by_another_metric(found))]


def without_metric(experiment: Experiment, metric: str) -> list[Cell]:
    """Cells of which a run lacks a metric: no curve shows them, and nothing is compared with them.

    Args:
        experiment: the cells.
        metric: its name.
    """
    value = quality(experiment, metric).of
    return [cell for cell in experiment.cells if value(cell) is None]


def not_drawn(experiment: Experiment) -> Iterator[str]:
    """What the figures of an experiment leave out, in sentences.

    Args:
        experiment: the cells.
    """
    metric = main_metric(experiment)
    if metric is None:
        yield (
            "no metric that all runs of a cell have: there are no curves, and nothing is compared."
        )
    else:
        first = experiment.metrics[0]
        if metric != first:
            yield f"curves and comparisons are of {metric}, since not every run has {first}."
        less = without_metric(experiment, metric)
        dropped = not_chosen(experiment)
        if dropped:
            yield dropped
        if less:
            yield f"not in the curves of {metric}, and not compared: {_listed(less)}."
    times = apart(experiment)
    untimed = [cell for cell in experiment.cells if cell.label not in experiment.in_turns]
    if times is not None and untimed:
        seed, low, high = times
        whose = f" of {_listed(untimed)}" if experiment.in_turns else ""
        yield (
            f"no training times{whose}, since the dense run of seed {seed} took {low:.0f} to "
            f"{high:.0f} s: cells of one seed were made at different times, and what divides them "
            "differs."
        )
    less = [cell for cell in experiment.cells if cell.sparsity("weight") is None]
    if less:
        yield f"no weight sparsity, and so in no curve against it: {_listed(less)}."
    less = [
        cell
        for cell in experiment.cells
        if any(s.heads_kept < s.heads_dense for s in cell.structures)
        and relative_importance(cell) is None
    ]
    if less:
        yield (
            "not in the picture of how important the removed heads were, since not every run says "
            f"it, or not every run removes one: {_listed(less)}."
        )
    less = [
        cell
        for cell in experiment.cells
        if cell.structures and not any(s.has_patterns for s in cell.structures)
    ]
    if less:
        yield f"no patterns, since the records have none: {_listed(less)}."
    counted = by_method(_shown(experiment))
    whole = [name for name, removals in counted.items() if removals.total == 0.0]
    if whole:
        yield f"no picture of removed heads, since none is removed: {', '.join(whole)}."


def _listed(cells: list[Cell]) -> str:
    return ", ".join(cell.label for cell in cells)


def _shown(experiment: Experiment) -> dict[str, list[Cell]]:
    """Cells that say what is left of every matrix, by method."""
    return {
        name: kept
        for name, cells in experiment.series.items()
        if (kept := [cell for cell in cells if cell.structures])
    }


def _of(experiment: Experiment) -> Iterator[Drawing]:
    metric = main_metric(experiment)
    if metric is not None:
        yield from _curves(chosen(experiment), metric)
        yield from _equal_heads(experiment, metric)
    yield from _paces(chosen(experiment))
    shown = _shown(experiment)
    if shown:
        yield from _heads(experiment, shown)
        yield from _degrees(experiment, shown)
        for cells in shown.values():
            for cell in cells:
                yield from _patterns(experiment, cell)


def _curves(experiment: Experiment, metric: str) -> Iterator[Drawing]:
    parts = _parts(experiment)
    for number, names in enumerate(parts, 1):
        of = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        again = f" {names[0]} stands in each of them." if len(parts) > 1 else ""
        yield Drawing(
            experiment.name,
            f"{experiment.slug}-curves" + (f"-{number}" if len(parts) > 1 else ""),
            f"Quality, speed and training time{of}",
            "Against weight sparsity, where a removed unit and a single zero count alike, and, "
            "where the records tell it, against the number of heads left; mean and standard "
            f"deviation over the seeds, the dense model in grey.{again} Speeds are ratios of "
            "medians timed in turns. Training times are in turns where the axis says so; else the "
            "two trainings of a run came one after the other, and other work on the machine moves "
            "them. After Figures 4, 5 and 11 of the paper.",
            "curves",
            partial(plot_curves, experiment, metric, names),
        )


def _parts(experiment: Experiment) -> list[list[str]]:
    """Names of at most as many lines as there are colours, the first one in every part."""
    series = experiment.series
    first, *others = series
    if len(series) <= len(PALETTE):
        return [list(series)]
    others.sort(key=lambda name: (series[name][0].method != OURS, _keeps_zeros(series[name])))
    count = math.ceil(len(others) / (len(PALETTE) - 1))
    size = math.ceil(len(others) / count)
    return [[first, *others[i : i + size]] for i in range(0, len(others), size)]


def _keeps_zeros(cells: list[Cell]) -> bool:
    """Whether a method's zeros stay in place, for the most part."""
    return not all(
        structural is not None and weight is not None and structural.mean > 0.9 * weight.mean
        for structural, weight in ((c.sparsity(), c.sparsity("weight")) for c in cells)
    )


def _equal_heads(experiment: Experiment, metric: str) -> Iterator[Drawing]:
    """Of a grid the best at each number of heads, not those that are best at a sparsity."""
    groups = [best_of_group(g, experiment, metric) for g in equal_heads(experiment)]
    if groups:
        yield Drawing(
            experiment.name,
            f"{experiment.slug}-equal-heads",
            "Quality against sparsity, at equal heads",
            "Methods that leave equally many heads, on average within half a head, are joined by a "
            "grey line; the number of heads stands beside each point. Further right is sparser. "
            "Shown is what was asked for heads, or for nothing but strengths; of a grid of them "
            "the best at each number counts. After Figure 6 of the paper.",
            "curves",
            partial(plot_equal_heads, experiment, groups, metric),
        )


def _paces(experiment: Experiment) -> Iterator[Drawing]:
    for name, cells in experiment.series.items():
        told = [cell for cell in cells if relative_pace(cell.records)]
        if told:
            yield Drawing(
                experiment.name,
                f"{experiment.slug}-pace-{slug(name)}",
                f"Time of a step in the course of the training: {name}",
                "Median time of an optimizer step in each twentieth of the training (a cut that "
                "falls in fewer than half of the steps does not show), times that of the dense run "
                "on the same batches; mean over the seeds. The two are not timed in turns: other "
                "work on the machine shows as bumps.",
                "curves",
                partial(plot_pace, name, told),
            )


def _heads(experiment: Experiment, shown: dict[str, list[Cell]]) -> Iterator[Drawing]:
    counted = {name: r for name, r in by_method(shown).items() if r.total > 0.0}
    make = partial(Drawing, experiment.name, kind="heads")
    for name, removals in counted.items():
        yield make(
            f"{experiment.slug}-heads-{slug(name)}",
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
            draw=partial(plot_relative, counted, reference, list(experiment.series)),
        )
    told = {
        name: with_one
        for name, cells in shown.items()
        if (with_one := [cell for cell in cells if relative_importance(cell) is not None])
    }
    if told:
        yield make(
            f"{experiment.slug}-heads-importance",
            "How important the removed heads were",
            "Importance of a head: mean absolute change of the loss, to first order, when it goes, "
            "in the dense model of the same seed, over some training examples (Michel et al. "
            "2019). Shown is its mean over the heads that a method removed, in units of the mean "
            "over all heads: heads removed at random are at 1; the dotted line takes the least "
            "important ones. After Figure 7 of the paper.",
            draw=partial(plot_importance, told, list(experiment.series)),
        )


def _degrees(experiment: Experiment, shown: dict[str, list[Cell]]) -> Iterator[Drawing]:
    make = partial(Drawing, experiment.name, kind="degrees")
    yield make(
        f"{experiment.slug}-degree-spread",
        "Spread of the MLPs' degrees against sparsity",
        "Standard deviation of the degrees of all rows of MLP-in and MLP-out, as a share of the "
        "dense row; a gate is part of MLP-in, removed rows have the degree 0; the model that they "
        "are compared with is dashed. A weight that is not exactly zero is a connection. After "
        "Figure 2 of the paper.",
        draw=partial(plot_spread, shown, list(experiment.series)),
    )
    for name, cells in shown.items():
        yield make(
            f"{experiment.slug}-degrees-{slug(name)}",
            f"Degrees in the MLPs: {name}",
            "A line tells which share of the rows keeps at least this share of the dense row's "
            "connections; all layers and seeds together, a gate is part of MLP-in, removed rows "
            "have the degree 0. After Figure 2 of the paper.",
            draw=partial(plot_degrees, name, cells),
        )


def _patterns(experiment: Experiment, cell: Cell) -> Iterator[Drawing]:
    found = ((r.record.seed, r.structure) for r in cell.runs if r.structure is not None)
    seed, structure = next(((n, s) for n, s in found if s.has_patterns), (0, None))
    if structure is None:
        return  # `not_drawn` says so
    yield Drawing(
        experiment.name,
        f"{experiment.slug}-patterns-{slug(cell.label)}",
        f"What is left of every matrix: {cell.label}, seed {seed}",
        "Density of the connections that are left, in the dense model's shape: a row of pictures "
        "per matrix, a column per layer; white is gone. After Figures 1 and 8 to 10 of the paper.",
        "patterns",
        partial(plot_patterns, structure, f"{cell.label}, seed {seed}"),
    )
