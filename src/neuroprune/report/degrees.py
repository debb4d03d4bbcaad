"""Figure 2 of the paper: how many connections MLP neurons keep, and how unequal they become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.report.curves import Quantity, draw_line, weight_sparsity
from neuroprune.report.figure import GREY, canvas, legend, mark, save, shade, styles
from neuroprune.report.numbers import Spread, baseline
from neuroprune.report.runs import Cell
from neuroprune.report.structures import Block, Matrix

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SIDES = {"up": "MLP-in: connections of a neuron", "down": "MLP-out: connections of an output"}
_DENSE_LINE: Any = {"color": GREY, "linewidth": 0.9, "linestyle": "--"}


def pooled_sd(matrices: Sequence[Matrix]) -> float | None:
    """Standard deviation of the degrees of all rows of several matrices.

        sd^2 = sum_m n_m (sd_m^2 + mean_m^2) / N - (sum_m n_m mean_m / N)^2,  N = sum_m n_m

    Args:
        matrices: each with its n_m rows, their mean and their deviation.

    Returns:
        The deviation, or None where there are no rows.
    """
    rows = sum(matrix.rows for matrix in matrices)
    if not rows:
        return None
    mean = sum(matrix.rows * matrix.mean for matrix in matrices) / rows
    square = sum(matrix.rows * (matrix.sd**2 + matrix.mean**2) for matrix in matrices) / rows
    return math.sqrt(max(square - mean**2, 0.0))


def histogram(matrices: Iterable[Matrix]) -> list[float]:
    """Share of all rows in every bin of the degree.

    Args:
        matrices: with equal bins.

    Returns:
        Shares that sum to 1; empty where there are no rows.
    """
    columns = zip(*(matrix.histogram for matrix in matrices), strict=True)
    counts = [sum(column) for column in columns]
    rows = sum(counts)
    return [count / rows for count in counts] if rows else []


def degree_sd(cell: Cell, role: str) -> Spread | None:
    """Deviation of the degrees of one side of the MLPs, over the runs with structure.

    Args:
        cell: the runs.
        role: "up" or "down".
    """
    found = [pooled_sd(of_role(s.pruned, role)) for s in cell.structures]
    values = [value for value in found if value is not None]
    return Spread.of(values) if values else None


def of_role(blocks: Iterable[Block], role: str) -> list[Matrix]:
    """That matrix of every block that has it; the gate is a way in, too.

    Args:
        blocks: of one model.
        role: "up" or "down".
    """
    wanted = ("up", "gate") if role == "up" else (role,)
    return [block.matrices[name] for block in blocks for name in wanted if name in block.matrices]


def _dense(cells: Iterable[Cell]) -> list[Block]:
    """Blocks of the models that the pruned ones are compared with."""
    return [block for cell in cells for s in cell.structures for block in s.dense]


def baseline_of(cells: Iterable[Cell]) -> str:
    """What the models of some cells are compared with, in a word; see `baseline`.

    Args:
        cells: of one experiment.
    """
    return baseline(record for cell in cells for record in cell.records)


def at_least(shares: Sequence[float]) -> list[float]:
    """Share of all rows whose degree is in a bin or above it: 1 - cumulative distribution.

    Args:
        shares: of `histogram`.

    Returns:
        As many shares, falling from 1.
    """
    return [math.fsum(shares[i:]) for i in range(len(shares))]


def plot_degrees(series: str, cells: Sequence[Cell], path: Path) -> tuple[Path, Path]:
    """Degree distributions of one method, a line per setting; all layers and seeds together.

    A line tells which share of the rows has at least a degree.

    Args:
        series: name of the method's line.
        cells: its settings, with at least one structure each.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    with canvas(8.6, 4.0) as made:
        made.set_layout_engine("constrained")
        panels = made.subplots(1, 2, sharey=True)
        handles = {}
        for axes, role in zip(panels, SIDES, strict=True):
            for number, cell in enumerate(cells):
                line = _draw_degrees(axes, cell, role, shade(number, len(cells)))
                if line is not None:
                    handles[named(cell)] = line
            shares = histogram(of_role(_dense(cells), role))
            if shares:
                places = [i / len(shares) for i in range(len(shares))]
                (handles[baseline_of(cells)],) = axes.plot(
                    places, at_least(shares), drawstyle="steps-post", **_DENSE_LINE
                )
            axes.set(title=SIDES[role], xlabel="degree (share of the dense row)")
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
            axes.title.set_fontsize(10)
        panels[0].set_ylabel("share of rows with at least this degree")
        made.suptitle(f"{series}: degrees in the MLPs", fontsize=11, x=0.02, ha="left")
        legend(made, list(handles.values()), list(handles), columns=4)
        return save(made, path)


def _draw_degrees(axes: Axes, cell: Cell, role: str, color: Any) -> Artist | None:
    blocks = [block for structure in cell.structures for block in structure.pruned]
    shares = histogram(of_role(blocks, role))
    if not shares:
        return None
    places = [i / len(shares) for i in range(len(shares))]
    heights = at_least(shares)
    (line,) = axes.plot(places, heights, color=color, drawstyle="steps-post", linewidth=1.6)
    for place, height in zip(places, heights, strict=True):
        (point,) = axes.plot([place], [height], marker="o", markersize=3, color=color)
        mark(point, f"{cell.label}: {100 * height:.3g}% of the rows have a degree >= {place:.2f}")
    return line


def named(cell: Cell) -> str:
    """A cell with the sparsity it reached."""
    weight = cell.sparsity("weight")
    return cell.label if weight is None else f"{cell.label} ({100 * weight.mean:.0f}%)"


def plot_spread(
    series: Mapping[str, Sequence[Cell]], among: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """Standard deviation of the degrees against weight sparsity, a line per method.

    Args:
        series: settings by method, with at least one structure each.
        among: all methods of the experiment, which have their colours in this order.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    looks = styles(among)
    x = weight_sparsity()
    with canvas(8.6, 4.0) as made:
        made.set_layout_engine("constrained")
        panels = made.subplots(1, 2, sharey=True)
        handles: dict[str, Artist] = {}
        for axes, role in zip(panels, SIDES, strict=True):
            y = Quantity("sd of the degree", partial(degree_sd, role=role))
            for name, cells in series.items():
                handles |= draw_line(axes, name, cells, (x, y), looks[name])
            every = [cell for cells in series.values() for cell in cells]
            dense = pooled_sd(of_role(_dense(every), role))
            if dense is not None:
                handles[baseline_of(every)] = axes.axhline(dense, **_DENSE_LINE)
            axes.set(title=SIDES[role], xlabel=x.title, xlim=(-2.0, 102.0))
            axes.title.set_fontsize(10)
        panels[0].set_ylabel("sd of the degree")
        made.suptitle("Spread of the degrees", fontsize=11, x=0.02, ha="left")
        legend(made, list(handles.values()), list(handles))
        return save(made, path)
