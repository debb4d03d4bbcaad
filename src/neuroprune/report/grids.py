"""Of a grid of strengths, the cells that count: the best at each of the paper's sparsities.

A method without a target is run over a grid, and what it reaches is read off afterwards. The paper
(arXiv 2404.01306, section 4) reports it at 25, 50, 70, 80, 90 and 95% of the weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from neuroprune.report.names import number
from neuroprune.report.numbers import LESS_IS_BETTER, side_spread
from neuroprune.report.runs import Cell, Experiment

LEVELS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
NEAR = 0.05  # weight sparsities that count as a level's
_ASKED = ("target", "heads")  # who is told what to reach is no grid


def best_of_grids(experiment: Experiment, metric: str) -> Experiment:
    """The experiment with the grids' best cells alone.

    A grid is a line of more cells than there are levels, none of which was asked for a size. At
    each level the cell of the best mean quality stays, of those whose weight sparsity is within
    `NEAR` of it and nearer to no other level. That is a choice by the split that is reported, as
    any search over strengths is; captions say so.

    Args:
        experiment: the cells.
        metric: name of the quality metric.
    """
    dropped: set[str] = set()
    for cells in filter(_is_grid, experiment.series.values()):
        dropped |= {cell.label for cell in cells} - _best(cells, metric)
    kept = tuple(cell for cell in experiment.cells if cell.label not in dropped)
    return dataclasses.replace(experiment, cells=kept) if dropped else experiment


def level_of(cell: Cell) -> float | None:
    """Which of the paper's sparsities a cell has, in zeros, within `NEAR`; None for none.

    Args:
        cell: a setting of a method.
    """
    reached = cell.sparsity("weight")
    if reached is None:
        return None
    level = min(LEVELS, key=lambda at: abs(at - reached.mean))
    return level if abs(level - reached.mean) <= NEAR else None


def best_of_group(cells: Sequence[Cell], experiment: Experiment, metric: str) -> list[Cell]:
    """Of some cells, those of no grid, and the best of each grid.

    Args:
        cells: such as those that leave equally many heads.
        experiment: where they are from.
        metric: name of the quality metric.
    """
    dropped: set[str] = set()
    for line in filter(_is_grid, experiment.series.values()):
        names = {cell.label for cell in line}
        ranked = sorted((cell for cell in cells if cell.label in names), key=_quality(metric))
        dropped |= {cell.label for cell in ranked[:-1]}
    return [cell for cell in cells if cell.label not in dropped]


def dropped_from(experiment: Experiment, shown: Experiment, metric: str) -> str:
    """What `best_of_grids` left out, in words; empty for nothing.

    Args:
        experiment: the cells.
        shown: those that were left.
        metric: name of the quality metric.
    """
    lines = [
        f"{len(left)} of the {number(len(cells), 'setting')} of {name}"
        for name, cells in experiment.series.items()
        if (left := [cell for cell in cells if cell not in shown.cells])
    ]
    if not lines:
        return ""
    return (
        f"in no curve against sparsity and no comparison: {', '.join(lines)}, a grid of which the "
        f"best {metric} within {100 * NEAR:g} points of each of the paper's sparsities counts, "
        "chosen by the results that are shown."
    )


def _quality(metric: str) -> Callable[[Cell], float]:
    """How good a cell is, whichever way the metric goes; one without it is worst."""
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0

    def of(cell: Cell) -> float:
        found = side_spread(cell.records, "metrics", "pruned", metric)
        return -math.inf if found is None else sign * found.mean

    return of


def _is_grid(cells: list[Cell]) -> bool:
    return len(cells) > len(LEVELS) and not any(_is_asked(cell) for cell in cells)


def _is_asked(cell: Cell) -> bool:
    method = cell.records[0].config.get("method")
    return isinstance(method, Mapping) and any(method.get(name) for name in _ASKED)


def _best(cells: list[Cell], metric: str) -> set[str]:
    """Labels of the best cell at each level."""
    best: dict[float, tuple[float, str]] = {}
    quality = _quality(metric)
    for cell in cells:
        level, found = level_of(cell), (quality(cell), cell.label)
        if level is not None and found[0] > -math.inf:
            best[level] = max(best.get(level, found), found)
    return {label for _, label in best.values()}
