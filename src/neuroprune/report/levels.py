"""Every method at the paper's sparsities, side by side: the layout of its Table 1."""

from __future__ import annotations

from collections.abc import Iterable

from neuroprune.report.curves import rows_of
from neuroprune.report.grids import LEVELS, level_of
from neuroprune.report.numbers import Spread, baseline
from neuroprune.report.runs import Cell, Experiment


def level_rows(experiment: Experiment) -> tuple[list[str], list[list[str]]]:
    """A row per method and quantity, a column per weight sparsity: after Table 1 of the paper.

    Quantities are all metrics, the speed of inference at every batch size and the training time,
    mean and deviation over the seeds.

    Args:
        experiment: the cells; of a grid of strengths, the best ones. Of several cells near one
            sparsity, a method shows the nearest.

    Returns:
        The titles of the columns, and the rows; no rows where no cell is near such a sparsity.
    """
    quantities = rows_of(experiment, *experiment.metrics)
    found = {name: nearest(cells) for name, cells in experiment.series.items()}
    levels = [level for level in LEVELS if any(level in at for at in found.values())]
    rows = []
    for name, at in found.items():
        cells = [at.get(level) for level in levels]
        for quantity in quantities if at else ():
            values = [None if cell is None else quantity.of(cell) for cell in cells]
            if any(value is not None for value in values):
                title = quantity.title.replace("\n", " ")
                rows.append([name, title, _text(quantity.dense), *map(_text, values)])
    header = ["method", "measure", baseline(experiment.records)]
    return [*header, *(f"{100 * level:.0f}% zero" for level in levels)], rows


def nearest(cells: Iterable[Cell]) -> dict[float, Cell]:
    """The cell that is nearest to each of the paper's sparsities, where there is one.

    Args:
        cells: of one method.
    """
    found: dict[float, tuple[float, Cell]] = {}
    for cell in cells:
        level, reached = level_of(cell), cell.sparsity("weight")
        if level is not None and reached is not None:
            distance = abs(reached.mean - level)
            if level not in found or distance < found[level][0]:
                found[level] = (distance, cell)
    return {level: cell for level, (_, cell) in found.items()}


def _text(value: Spread | None) -> str:
    return "-" if value is None else value.text(2)
