"""Of a grid of strengths, the cells that count: the best at each of the paper's sparsities.

A method without a target is run over a grid, and what it reaches is read off afterwards. The paper
(arXiv 2404.01306, section 4) reports it at 25, 50, 70, 80, 90 and 95% of the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from neuroprune.report.numbers import LESS_IS_BETTER, number_of
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


def _is_grid(cells: list[Cell]) -> bool:
    return len(cells) > len(LEVELS) and not any(_is_asked(cell) for cell in cells)


def _is_asked(cell: Cell) -> bool:
    method = cell.records[0].config.get("method")
    return isinstance(method, Mapping) and any(method.get(name) for name in _ASKED)


def _best(cells: list[Cell], metric: str) -> set[str]:
    """Labels of the best cell at each level."""
    best: dict[float, tuple[float, str]] = {}
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0
    for cell in cells:
        reached = cell.sparsity("weight")
        quality = cell.spread(lambda r: number_of(r, "metrics", "pruned", metric))
        if reached is None or quality is None:
            continue
        level = min(LEVELS, key=lambda at: abs(at - reached.mean))
        if abs(level - reached.mean) <= NEAR:
            found = (sign * quality.mean, cell.label)
            best[level] = max(best.get(level, found), found)
    return {label for _, label in best.values()}
