"""Figure 7 of the paper: how important the heads were that a method removed, beside DSP's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.report.curves import Quantity, draw_line
from neuroprune.report.figure import GREY, canvas, legend, save, styles, whole_ticks
from neuroprune.report.numbers import Spread, spread_of
from neuroprune.report.runs import Cell
from neuroprune.report.structures import Structure

if TYPE_CHECKING:
    from matplotlib.artist import Artist


def removed_and_all(structure: Structure) -> tuple[list[float], list[float]]:
    """Importance of the heads that were removed, and of all heads of the dense model.

    Args:
        structure: of one run.

    Returns:
        Both empty where the record does not say how important a head is.
    """
    gone: list[float] = []
    every: list[float] = []
    left = {block.name: block.heads for block in structure.attentions}
    for block in structure.dense:
        every += block.importance
        kept = left.get(block.name, ())
        pairs = zip(block.heads, block.importance, strict=False)  # importance may be empty
        gone += [value for head, value in pairs if head not in kept]
    return gone, every


def relative(structure: Structure) -> float | None:
    """Mean importance of the removed heads over that of all heads.

        r = mean over removed heads of I_h / mean over all heads of I_h

    1 for heads chosen without regard to I, 0 for heads that do not matter.

    Args:
        structure: of one run.

    Returns:
        None where no head was removed of which the record says the importance.
    """
    gone, every = removed_and_all(structure)
    return statistics.fmean(gone) / statistics.fmean(every) if gone and sum(every) else None


def relative_importance(cell: Cell) -> Spread | None:
    """`relative` over the runs of a cell; None where one of them lacks it.

    Args:
        cell: the runs.
    """
    return spread_of([None if r.structure is None else relative(r.structure) for r in cell.runs])


def heads_removed(cell: Cell) -> Spread | None:
    """Heads that went and have an importance, over the runs of a cell.

    Args:
        cell: the runs.
    """
    counts = [len(removed_and_all(structure)[0]) for structure in cell.structures]
    return Spread.of(list(map(float, counts))) if any(counts) else None


def least_important(structure: Structure) -> list[float]:
    """What `relative` is for the n least important heads, n = 1, 2, ... all.

    Args:
        structure: of one run.
    """
    every = sorted(removed_and_all(structure)[1])
    mean = statistics.fmean(every) if every else 0.0
    return [sums / n / mean for n, sums in enumerate(accumulate(every), 1)] if mean else []


def plot_importance(
    series: Mapping[str, Sequence[Cell]], among: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """Relative importance of the removed heads against their number, a line per method.

    Args:
        series: settings by method, each with a `relative_importance`.
        among: all methods of the experiment, which have their colours in this order.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    looks = styles(among)
    x = Quantity("heads removed", heads_removed)
    y = Quantity("importance of the removed heads\n(mean of all heads: 1)", relative_importance)
    with canvas(8.6, 4.6) as made:
        made.set_layout_engine("constrained")
        axes = made.subplots()
        handles: dict[str, Artist] = {}
        for name, cells in series.items():
            handles |= draw_line(axes, name, cells, (x, y), looks[name])
        every = [s for cells in series.values() for cell in cells for s in cell.structures]
        floors = [floor for s in every if (floor := least_important(s))]
        floor = [statistics.fmean(values) for values in zip(*floors, strict=False)]
        (handles["least important"],) = axes.plot(
            range(1, len(floor) + 1), floor, color=GREY, linewidth=1.0, linestyle=":"
        )
        axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle="--")
        axes.set(xlabel=x.title, ylabel=y.title, ylim=(0, None))
        whole_ticks(axes)
        made.suptitle("Importance of the removed heads", x=0.02, ha="left", fontsize=11)
        legend(made, list(handles.values()), list(handles))
        return save(made, path)
