"""Figures 4, 5, 6 and 11 of the paper: quality, speed and training time of every method.

Against weight sparsity, in which a removed unit and a single zero count alike, and against the
number of heads that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.report.figure import (
    GREY,
    LEGEND_COLUMNS,
    Label,
    canvas,
    figure,
    legend,
    mark,
    save,
    styles,
    whole_ticks,
)
from neuroprune.report.figure import write_labels as write
from neuroprune.report.numbers import (
    IN_PERCENT,
    LESS_IS_BETTER,
    Spread,
    baseline,
    dense_runs,
    number_of,
    over_seeds,
    side_spread,
    time_ratio,
)
from neuroprune.report.runs import Cell, Experiment

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_Value = Callable[[Cell], Spread | None]
_SAME_TIME = 1.1  # dense runs whose times differ by no larger factor are alike
_SAME_HEADS = 0.5  # cells whose mean numbers of heads differ by no more are at equal heads


@dataclass(frozen=True)
class Quantity:
    """What an axis shows.

    Args:
        title: of the axis, with its unit.
        of: its value for a cell, over the seeds; None where a record lacks it.
        dense: its value for the dense model; None where there is none.
    """

    title: str
    of: _Value
    dense: Spread | None = None


def quality(experiment: Experiment, metric: str) -> Quantity:
    """A quality metric, in per cent where it is a share.

    Args:
        experiment: gives the dense runs.
        metric: its name.
    """
    scale = 100.0 if metric in IN_PERCENT else 1.0
    title = metric + (" (%)" if metric in IN_PERCENT else "")
    title += ", less is better" if metric in LESS_IS_BETTER else ""
    dense = side_spread(dense_runs(experiment.records), "metrics", "dense", metric)
    return Quantity(
        title,
        lambda cell: _times(side_spread(cell.records, "metrics", "pruned", metric), scale),
        _times(dense, scale),
    )


def speed(experiment: Experiment, batch: int) -> Quantity:
    """Speed-up of inference over the dense model, timed in turns.

    Args:
        experiment: says what it is compared with.
        batch: batch size.
    """
    return Quantity(
        f"speed, batch {batch}\n(x {baseline(experiment.records)})",
        lambda cell: side_spread(cell.records, "speeds", "speedup", "pruned", str(batch), "value"),
        Spread(1.0, None),
    )


def training_time(experiment: Experiment) -> Quantity | None:
    """Time of the whole training over that of a dense one.

    It is the time of each run over that of the dense run of its seed; the two come one after the
    other, and the machine may have had other work beside one of them. Where that cannot be
    compared (see `apart`), it is what a measurement found that took turns.

    Args:
        experiment: says what it is compared with.

    Returns:
        None where there is neither.
    """
    first, told = baseline(experiment.records), experiment.in_turns
    if not apart(experiment):
        title = f"training time\n(x {first})"
        return Quantity(title, lambda cell: cell.spread(time_ratio), Spread(1.0, None))
    if not told:
        return None
    return Quantity(
        f"training time,\nin turns (x {first})",
        lambda cell: Spread(told[cell.label], None) if cell.label in told else None,
        Spread(1.0, None),
    )


def apart(experiment: Experiment) -> tuple[int, float, float] | None:
    """The seed whose dense runs took the most different times, where that is more than a tenth.

    Cells of a seed share a dense run, or have made it again at another time or on another machine;
    what then divides their times is not the same.

    Args:
        experiment: the cells.

    Returns:
        The seed, its shortest and its longest dense run in seconds; None where all agree.
    """
    times: dict[int, list[float]] = {}
    for record in experiment.records:
        seconds = number_of(record, "training", "dense", "seconds")
        if seconds:
            times.setdefault(record.seed, []).append(seconds)
    found = [(max(t) / min(t), seed) for seed, t in times.items()]
    ratio, seed = max(found, default=(1.0, 0))
    return (seed, min(times[seed]), max(times[seed])) if ratio > _SAME_TIME else None


def weight_sparsity(experiment: Experiment | None = None) -> Quantity:
    """Share of the dense model's prunable weights that is gone, in per cent.

    Args:
        experiment: gives that of the model that it started from; without one, that is dense.
    """
    runs = dense_runs(experiment.records) if experiment is not None else []
    first = side_spread(runs, "sizes", "dense", "weight_sparsity")
    return Quantity(
        "weight sparsity (%)",
        lambda cell: _times(cell.sparsity("weight"), 100.0),
        _times(first or Spread(0.0, None), 100.0),
    )


def heads_left(experiment: Experiment) -> Quantity:
    """Heads of the pruned model.

    Args:
        experiment: gives the dense model's number.
    """
    found = next((s.heads_dense for cell in experiment.cells for s in cell.structures), None)
    if found is None or baseline(experiment.records) != "dense":
        return Quantity("heads left", heads_of)
    return Quantity("heads left", heads_of, Spread(float(found), None))


def heads_of(cell: Cell) -> Spread | None:
    """Heads left, over the runs that say what is left; None where none does.

    Args:
        cell: the runs.
    """
    counts = [float(structure.heads_kept) for structure in cell.structures]
    return Spread.of(counts) if counts else None


def _times(spread: Spread | None, factor: float) -> Spread | None:
    return None if spread is None else spread.times(factor)


def rows_of(experiment: Experiment, *metrics: str) -> list[Quantity]:
    """What can be shown of an experiment: quality, speeds, and the time of the training.

    Args:
        experiment: the cells.
        metrics: names of quality metrics.
    """
    batches = sorted({int(b) for r in experiment.records for b in r.speeds.get("dense", {})})
    wanted = [quality(experiment, metric) for metric in metrics]
    wanted += [speed(experiment, batch) for batch in batches]
    time = training_time(experiment)
    wanted += [] if time is None else [time]
    return [q for q in wanted if any(q.of(cell) is not None for cell in experiment.cells)]


def plot_curves(
    experiment: Experiment, metric: str, names: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """A row per quantity; on the left against weight sparsity, on the right against heads.

    The right side is left out where no record says which heads are left.

    Args:
        experiment: the cells.
        metric: name of the quality metric.
        names: of the lines that are drawn, in order.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    rows, columns = rows_of(experiment, metric), [weight_sparsity(experiment)]
    if any(cell.structures for cell in experiment.cells):
        columns.append(heads_left(experiment))
    series = {name: experiment.series[name] for name in names}
    looks = styles(names)
    handles: dict[str, Artist] = {}
    with canvas(8.6, 0.9 + 2.1 * len(rows) + 0.25 * (len(series) // LEGEND_COLUMNS)) as made:
        made.set_layout_engine("constrained")
        panels = made.subplots(len(rows), len(columns), sharey="row", squeeze=False)
        for line, y in zip(panels, rows, strict=True):
            for axes, x in zip(line, columns, strict=True):
                _draw_dense(axes, x, y, baseline(experiment.records))
                for name, cells in series.items():
                    handles |= draw_line(axes, name, cells, (x, y), looks[name])
            line[0].set_ylabel(y.title)
        for axes, x in zip(panels[-1], columns, strict=True):
            axes.set_xlabel(x.title)
        for line in panels:
            for axes in line[1:]:
                axes.invert_xaxis()  # smaller to the right, as on the left
                whole_ticks(axes)
        made.suptitle(f"{experiment.name}: {_over(experiment)}", x=0.02, ha="left", fontsize=11)
        legend(made, list(handles.values()), list(handles))
        return save(made, path)


def _over(experiment: Experiment) -> str:
    return over_seeds([len(cell.seeds) for cell in experiment.cells])


def _draw_dense(axes: Axes, x: Quantity, y: Quantity, name: str) -> None:
    if y.dense is None:
        return
    axes.axhline(y.dense.mean, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    if x.dense is not None:
        (point,) = axes.plot([x.dense.mean], [y.dense.mean], marker="o", color=GREY, markersize=6)
        mark(point, f"{name}: {y.dense.text(2)}")


def draw_line(
    axes: Axes,
    name: str,
    cells: Sequence[Cell],
    quantities: tuple[Quantity, Quantity],
    look: tuple[str, str],
) -> Mapping[str, Artist]:
    """Draw one method's line, with bars of the deviation over the seeds.

    Args:
        axes: the plot.
        name: of the line.
        cells: the method's settings.
        quantities: what the two axes show.
        look: colour and marker.

    Returns:
        A handle for the legend, by the line's name; empty where there is nothing to draw.
    """
    points = list(_points(cells, *quantities))
    if not points:
        return {}
    color, marker = look
    drawn = axes.errorbar(
        [x.mean for _, x, _ in points],
        [y.mean for _, _, y in points],
        xerr=[x.sd or 0.0 for _, x, _ in points],
        yerr=[y.sd or 0.0 for _, _, y in points],
        color=color,
        marker=marker,
        markersize=4.5,
        linewidth=1.4,
        elinewidth=0.8,
        markeredgewidth=0.0,
    )
    what = (quantity.title.replace("\n", " ") for quantity in quantities)
    title_x, title_y = what
    for cell, x, y in points:
        (tip,) = axes.plot([x.mean], [y.mean], marker=marker, markersize=6, color=color)
        seeds = f"{len(cell.seeds)} seed{'s'[: len(cell.seeds) > 1]}"
        mark(tip, f"{cell.label}, {seeds}: {title_y} {y.text(3)}; {title_x} {x.text(1)}")
    return {name: drawn}  # type: ignore[dict-item]  # a container serves a legend as an artist does


def _points(
    cells: Sequence[Cell], x: Quantity, y: Quantity
) -> Iterator[tuple[Cell, Spread, Spread]]:
    found = [(cell, x.of(cell), y.of(cell)) for cell in cells]
    known = [(cell, a, b) for cell, a, b in found if a is not None and b is not None]
    yield from sorted(known, key=lambda point: point[1].mean)


def equal_heads(experiment: Experiment) -> list[list[Cell]]:
    """Cells of different methods with equally many heads left, by that number, most first.

    Cells that lost no head are left out, and those that were asked for something else, such as a
    size: that their heads are as many as another's is chance.

    Args:
        experiment: the cells.

    Returns:
        Groups of at least two methods; empty where no two methods leave equally many.
    """
    dense = heads_left(experiment).dense
    counted = [(heads_of(cell), cell) for cell in experiment.cells]
    known = sorted(
        (
            (heads.mean, cell)
            for heads, cell in counted
            if heads is not None
            and (dense is None or heads.mean != dense.mean)
            and all(not record.target or "heads:" in record.target for record in cell.records)
        ),
        key=lambda pair: -pair[0],
    )
    groups: list[list[tuple[float, Cell]]] = []
    for heads, cell in known:
        if groups and groups[-1][0][0] - heads <= _SAME_HEADS:
            groups[-1].append((heads, cell))
        else:
            groups.append([(heads, cell)])
    cells = [[cell for _, cell in group] for group in groups]
    return [group for group in cells if len({cell.method for cell in group}) > 1]


def plot_equal_heads(
    experiment: Experiment, groups: Sequence[Sequence[Cell]], metric: str, path: Path
) -> tuple[Path, Path]:
    """Figure 6: quality against weight sparsity, where methods leave equally many heads.

    Grey lines join cells of equal heads; their number stands beside each point.

    Args:
        experiment: gives the dense runs.
        groups: of `equal_heads`, at least one.
        metric: name of the quality metric.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    y, x = quality(experiment, metric), weight_sparsity(experiment)
    there = {cell.series for group in groups for cell in group}
    looks = styles([name for name in experiment.series if name in there])
    handles: dict[str, Artist] = {}
    labels, lines = [], []
    with figure(f"{experiment.name}: equal heads, {_over(experiment)}", 0.95) as (made, axes):
        for group in groups:
            points = list(_points(group, x, y))
            line = [(a.mean, b.mean) for _, a, b in points]
            axes.plot(*zip(*line, strict=True), color=GREY, linewidth=0.8, zorder=1)
            lines.append(line)
            for cell, a, b in points:
                handles |= draw_line(axes, cell.series, [cell], (x, y), looks[cell.series])
                heads = heads_of(cell)
                assert heads is not None  # a cell of a group has a number of heads
                labels.append(Label(f"{heads.mean:.0f}", a.mean, b.mean, looks[cell.series][0], 8))
        _draw_dense(axes, x, y, baseline(experiment.records))
        axes.set(xlabel=x.title, ylabel=y.title)
        axes.margins(x=0.08, y=0.15)
        rows = legend(made, list(handles.values()), list(handles))
        made.subplots_adjust(bottom=0.15 + 0.05 * rows)
        write(axes, labels, lines)
        return save(made, path)
