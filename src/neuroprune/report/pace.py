"""How the steps of a training become faster as the model shrinks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from neuroprune.record import RunRecord
from neuroprune.report.degrees import named
from neuroprune.report.figure import GREY, canvas, legend, mark, save
from neuroprune.report.numbers import baseline, dense_runs
from neuroprune.report.runs import Cell

_SHADES = "viridis"


def relative_pace(records: Iterable[RunRecord], side: str) -> list[float]:
    """Time of a step in each part of the training, as a share of that in the first part.

    Each run is told in its own first part: what else the machine did meanwhile counts less than in
    a comparison of two runs, and only where it changed in the course of one.

    Args:
        records: one per seed.
        side: "dense" or "pruned".

    Returns:
        Means over the runs of as many parts as the longest has, 1 first; empty where no run tells
        it.
    """
    told = [list(record.training.get(side, {}).get("pace", ())) for record in records]
    parts = max(map(len, told), default=0)
    shares = [[seconds / run[0] for seconds in run] for run in told if run and len(run) == parts]
    return [statistics.fmean(values) for values in zip(*shares, strict=True)]


def plot_pace(series: str, cells: Sequence[Cell], path: Path) -> tuple[Path, Path]:
    """Time of a step in the course of the training, a line per setting of one method.

    Args:
        series: name of the method's line.
        cells: its settings, at least one of which tells its pace.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    with canvas(8.6, 4.0) as made:
        import matplotlib
        from matplotlib.colors import to_hex

        made.set_layout_engine("constrained")
        axes = made.subplots()
        shades = matplotlib.colormaps[_SHADES]
        records = [record for cell in cells for record in cell.records]
        told = dense_runs(r for r in records if relative_pace([r], "dense"))
        lines = [(baseline(records), relative_pace(told, "dense"), GREY)]
        for number, cell in enumerate(cells):
            color = to_hex(shades(0.85 * number / max(len(cells) - 1, 1)))
            lines.append((named(cell), relative_pace(cell.records, "pruned"), color))
        handles = {}
        for name, heights, color in lines:
            if not heights:
                continue
            places = [100.0 * (part + 0.5) / len(heights) for part in range(len(heights))]
            look = "--" if color == GREY else "-"
            (handles[name],) = axes.plot(places, heights, color=color, linestyle=look)
            for place, height in zip(places, heights, strict=True):
                (point,) = axes.plot([place], [height], marker="o", markersize=3, color=color)
                mark(point, f"{name}: {height:.2f} of its first steps' time at {place:.0f}%")
        axes.set(xlabel="share of the training (%)", xlim=(0.0, 100.0), ylim=(0.0, None))
        axes.set_ylabel("time of a step\n(that of the run's first steps: 1)")
        made.suptitle(f"{series}: time of a step", fontsize=11, x=0.02, ha="left")
        legend(made, list(handles.values()), list(handles), columns=4)
        return save(made, path)
