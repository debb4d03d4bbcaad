"""How the steps of a training become faster as the model shrinks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from neuroprune.record import RunRecord
from neuroprune.report.degrees import baseline_of, named
from neuroprune.report.figure import GREY, canvas, legend, mark, save, shade
from neuroprune.report.runs import Cell


def relative_pace(records: Iterable[RunRecord]) -> list[float]:
    """Time of a step in each part of the training, times that of the dense run in the same part.

    Both runs of a seed see the same batches in the same order, so that long and short batches
    fall out; what else the machine did meanwhile does not.

    Args:
        records: one per seed.

    Returns:
        Means over the runs of as many parts as the longest has; empty where no run tells both.
    """
    sides = [
        [record.training.get(side, {}).get("pace", ()) for side in ("pruned", "dense")]
        for record in records
    ]
    told = [(pruned, dense) for pruned, dense in sides if pruned and len(pruned) == len(dense)]
    parts = max((len(pruned) for pruned, _ in told), default=0)
    shares = [
        [a / b for a, b in zip(pruned, dense, strict=True)]
        for pruned, dense in told
        if len(pruned) == parts
    ]
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
        made.set_layout_engine("constrained")
        axes = made.subplots()
        handles = {}
        for number, cell in enumerate(cells):
            heights = relative_pace(cell.records)
            if not heights:
                continue
            color = shade(number, len(cells))
            places = [100.0 * (part + 0.5) / len(heights) for part in range(len(heights))]
            (handles[named(cell)],) = axes.plot(places, heights, color=color)
            for place, height in zip(places, heights, strict=True):
                (point,) = axes.plot([place], [height], marker="o", markersize=3, color=color)
                mark(point, f"{cell.label}: {height:.2f} times the dense step at {place:.0f}%")
        name = baseline_of(cells)
        handles[name] = axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle="--")
        axes.set(xlabel="share of the training (%)", xlim=(0.0, 100.0), ylim=(0.0, None))
        axes.set_ylabel(f"time of a step\n(x {name}, the same batches)")
        made.suptitle(f"{series}: time of a step", fontsize=11, x=0.02, ha="left")
        legend(made, list(handles.values()), list(handles), columns=4)
        return save(made, path)
