"""What quality costs: quality against speed and against size, one line per method.

No torch here; matplotlib is imported when a plot is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.record import RunRecord
from neuroprune.report.figure import (
    GREY,
    MARKERS,
    PALETTE,
    Label,
    ReportError,
    figure,
    save,
    write_labels,
)
from neuroprune.report.numbers import (
    IN_PERCENT,
    LESS_IS_BETTER,
    OURS,
    Spread,
    baseline,
    dense_runs,
    over_seeds,
    side_spread,
)
from neuroprune.report.runs import order_of_lines, series_and_setting
from neuroprune.report.snapshots import read_snapshots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Line = list[tuple[float, float]]
Records = Mapping[str, Sequence[RunRecord]]
SPARSITY_AXIS = "structural sparsity (% of the dense model's prunable weights)"


@dataclass(frozen=True)
class _Point:
    """One setting of one method, over its seeds, in the units of the axes."""

    label: str
    series: str
    setting: str
    ours: bool
    x: Spread
    y: Spread


def plot_quality_against_speed(
    records_by_label: Records, metric: str, batch: int, path: Path | str
) -> tuple[Path, Path]:
    """Quality against speed-up over the dense model, mean and deviation over seeds.

    Labels that differ only in a number at their end, such as "neuroprune-50" and "neuroprune-80",
    are settings of one method, and one line.

    Args:
        records_by_label: label -> its records, one per seed.
        metric: name of the quality metric.
        batch: batch size of the speed-up.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: a record lacks a number, or matplotlib is missing.

    Example:
        >>> plot_quality_against_speed(records, "accuracy", 32, "out/speed")  # doctest: +SKIP
    """
    key = str(batch)
    points = _points(
        records_by_label,
        metric,
        lambda records: side_spread(records, "speeds", "speedup", "pruned", key, "value"),
        f"speed-up at batch {batch}: add {batch} to [evaluation] speed_batches and run it again, "
        "or choose another batch",
    )
    first = next(iter(records_by_label.values()))[0]
    timed = first.speeds.get("conditions", {}).get("timed", "forward pass")
    tokens = first.speeds.get("dense", {}).get(key, {}).get("tokens")
    shape = f"batch {batch}" + (f" x {tokens} tokens" if tokens else "")
    axis = f"speed-up (x {baseline(_all(records_by_label))}): {timed}, {shape}"
    return _plot(records_by_label, points, metric, (axis, 1.0), Path(path))


def plot_quality_against_sparsity(
    records_by_label: Records, metric: str, path: Path | str
) -> tuple[Path, Path]:
    """Quality against structural sparsity; otherwise as `plot_quality_against_speed`.

    Args:
        records_by_label: label -> its records, one per seed.
        metric: name of the quality metric.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: a record lacks a number, or matplotlib is missing.
    """
    points = _points(
        records_by_label,
        metric,
        lambda records: side_spread(records, "sizes", "pruned", "structural_sparsity"),
        "structural sparsity: run it again",
        100.0,
    )
    runs = dense_runs(_all(records_by_label))
    first = side_spread(runs, "sizes", "dense", "structural_sparsity")
    x = 0.0 if first is None else 100.0 * first.mean  # above 0 where it was cut before
    return _plot(records_by_label, points, metric, (SPARSITY_AXIS, x), Path(path))


def plot_snapshots(snapshots_json: Path | str, path: Path | str) -> tuple[Path, Path]:
    """Quality of the models that one training saved on its way, against structural sparsity.

    Args:
        snapshots_json: the file; see `read_snapshots`.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: the file is of another form, or matplotlib is missing.
        OSError: it cannot be read.
    """
    found = read_snapshots(Path(snapshots_json))
    scale = _scale(found.metric)
    points = [(100.0 * x, scale * y) for x, y in found.points]
    color = PALETTE[0]
    with figure("One training, models saved on the way", right=0.95) as (made, axes):
        axes.plot(*zip(*points, strict=True), color=color, marker=MARKERS[0])
        labels = [Label(f"{x:.0f}%", x, y, color, 9.0) for x, y in points]
        lines: list[_Line] = [points]
        if found.dense is not None:
            dense = Spread(found.dense, None).times(scale)
            labels.append(_draw_dense(axes, 0.0, dense))
            lines += _covered_by_dense(axes, 0.0, dense)
        _name_axes(axes, SPARSITY_AXIS, found.metric)
        write_labels(axes, labels, lines)
        return save(made, Path(path))


def _points(
    groups: Records,
    metric: str,
    x_of: Callable[[Sequence[RunRecord]], Spread | None],
    needed: str,
    x_scale: float = 1.0,
) -> list[_Point]:
    """One point per label; `needed` says what `x_of` looks for."""
    if not groups or not all(groups.values()):
        raise ReportError("there are no records to plot: run `neuroprune bench run` first.")
    points = []
    for label, records in groups.items():
        x, y = x_of(records), side_spread(records, "metrics", "pruned", metric)
        if y is None:
            have = ", ".join(records[0].metrics.get("names", ())) or "none"
            raise ReportError(
                f"{label}: expected the metric {metric!r} in every record, got {have}. Choose one "
                "that all records have."
            )
        if x is None:
            raise ReportError(f"{label}: a record has no {needed}.")
        series, setting = series_and_setting(label)
        x, y = x.times(x_scale), y.times(_scale(metric))
        ours = records[0].method == OURS
        points.append(_Point(label, series, setting, ours, x, y))
    return points


def _all(groups: Records) -> list[RunRecord]:
    return [record for group in groups.values() for record in group]


def _plot(
    groups: Records, points: Sequence[_Point], metric: str, axis: tuple[str, float], path: Path
) -> tuple[Path, Path]:
    """Draw the lines; `axis` is the title of x, and where the dense model is on it."""
    title, x_dense = axis
    records = _all(groups)
    over = over_seeds([point.y.count for point in points])
    series: dict[str, list[_Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    # Our own method first: the first colour is the one that stands out.
    names = sorted(series, key=lambda name: order_of_lines(name, series[name][0].ours))
    ends: list[Label] = []
    settings: list[Label] = []
    drawn: list[_Line] = []
    with figure(f"{records[0].task}: {metric}, {over}") as (made, axes):
        for number, name in enumerate(names):
            color = PALETTE[number % len(PALETTE)]
            line = sorted(series[name], key=lambda point: point.x.mean)
            drawn += _draw_line(axes, line, color, MARKERS[number % len(MARKERS)])
            text = name if len(line) > 1 else line[0].label
            ends.append(Label(text, line[-1].x.mean, line[-1].y.mean, color))
            if len(line) > 1:
                told = [point for point in line if not _on_axis(point, title)]
                settings += [Label(p.setting, p.x.mean, p.y.mean, color, 8.0) for p in told]
        dense = side_spread(dense_runs(records), "metrics", "dense", metric)
        if dense is not None:
            dense = dense.times(_scale(metric))
            ends.append(_draw_dense(axes, x_dense, dense, baseline(records)))
            drawn += _covered_by_dense(axes, x_dense, dense)
        _name_axes(axes, title, metric)
        write_labels(axes, [*ends, *settings], drawn)
        return save(made, path)


def _on_axis(point: _Point, title: str) -> bool:
    """Whether the axis says what the point's name would: 80, at 80% removed."""
    return title == SPARSITY_AXIS and point.setting == f"{point.x.mean:.0f}"


def _draw_line(axes: Axes, line: Sequence[_Point], color: str, marker: str) -> list[_Line]:
    """Draw it, and return what it covers: the line, and the bars of every point."""
    axes.errorbar(
        [point.x.mean for point in line],
        [point.y.mean for point in line],
        xerr=[point.x.sd or 0.0 for point in line],
        yerr=[point.y.sd or 0.0 for point in line],
        color=color,
        marker=marker,
        markersize=6,
        linewidth=1.6,
        elinewidth=0.9,
    )
    covered: list[_Line] = [[(point.x.mean, point.y.mean) for point in line]]
    for point in line:
        x, y, dx, dy = point.x.mean, point.y.mean, point.x.sd or 0.0, point.y.sd or 0.0
        covered += [[(x - dx, y), (x + dx, y)], [(x, y - dy), (x, y + dy)]]
    return covered


def _draw_dense(axes: Axes, x: float, y: Spread, name: str = "dense") -> Label:
    """The dense model: a point, and a line to compare the others with."""
    axes.axhline(y.mean, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    error = [y.sd or 0.0]
    axes.errorbar([x], [y.mean], yerr=error, color=GREY, marker="o", markersize=6, elinewidth=0.9)
    return Label(name, x, y.mean, GREY)


def _covered_by_dense(axes: Axes, x: float, y: Spread) -> list[_Line]:
    """What `_draw_dense` covers; known when all is drawn, since the line goes from end to end."""
    low, high = axes.get_xlim()
    bar = y.sd or 0.0
    return [[(low, y.mean), (x, y.mean), (high, y.mean)], [(x, y.mean - bar), (x, y.mean + bar)]]


def _name_axes(axes: Axes, x: str, metric: str) -> None:
    note = " (%)" if metric in IN_PERCENT else ""
    note += ", less is better" if metric in LESS_IS_BETTER else ""
    axes.set_xlabel(x)
    axes.set_ylabel(metric + note)
    axes.margins(x=0.06, y=0.12)  # room for the labels


def _scale(metric: str) -> float:
    return 100.0 if metric in IN_PERCENT else 1.0
