"""The rivals' equations in plain Python loops, float64: the slow twins. Never optimised.

A unit is the list of its weights, each named by (matrix, row, column).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray
Place = tuple[int, int, int]


def places(rows: Sequence[Array], columns: Sequence[Array], units: int) -> list[list[Place]]:
    """Where the weights of every unit stand: matrices of `rows` are numbered before `columns`."""
    out: list[list[Place]] = [[] for _ in range(units)]
    for number, matrix in enumerate((*rows, *columns)):
        by_row = number < len(rows)
        per_unit = matrix.shape[0 if by_row else 1] // units
        for i in range(matrix.shape[0]):
            for j in range(matrix.shape[1]):
                out[(i if by_row else j) // per_unit].append((number, i, j))
    return out


def read(matrices: Sequence[Array], unit: Sequence[Place]) -> list[float]:
    """The weights of one unit."""
    return [float(matrices[number][i, j]) for number, i, j in unit]


def mean_absolute(weights: Sequence[float]) -> float:
    """Mean |w|."""
    return sum(abs(w) for w in weights) / len(weights)


def group_lasso(units: Sequence[Sequence[float]]) -> float:
    """Sum over units of sqrt(size) * euclidean norm."""
    return sum(math.sqrt(len(u)) * math.sqrt(sum(w * w for w in u)) for u in units)


def group_objective(z: Sequence[float], weights: Sequence[float], t: float) -> float:
    """What the proximal map of one unit minimises."""
    near = sum((a - b) ** 2 for a, b in zip(z, weights, strict=True))
    return 0.5 * near + t * group_lasso([z])


def group_prox(weights: Sequence[float], t: float) -> list[float]:
    """The multiple of a unit's weights that minimises `group_objective`, by ternary search."""
    low, high = 0.0, 1.0
    for _ in range(120):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if group_objective([left * w for w in weights], weights, t) <= group_objective(
            [right * w for w in weights], weights, t
        ):
            high = right
        else:
            low = left
    return [low * w for w in weights]


def lowest(scores: Sequence[float], count: int) -> list[bool]:
    """Marks of the lowest, one at a time; of equals, the first."""
    marks = [False] * len(scores)
    for _ in range(min(max(count, 0), len(scores))):
        best = -1
        for i, score in enumerate(scores):
            if not marks[i] and (best < 0 or score < scores[best]):
                best = i
        marks[best] = True
    return marks


def layer_distance(
    transform: Array,
    students: Sequence[Array],
    teachers: Sequence[Array],
    is_open: Sequence[bool],
    ordered: bool,
) -> tuple[float, list[int]]:
    """Sum over teaching layers of the squared distance to their student layer, and who that is.

    Ordered: the highest teacher first, each below the one before, or with it where none is left.
    """

    def error(student: Array, teacher: Array) -> float:
        total, width = 0.0, len(transform)
        for p in range(len(student)):
            for i in range(width):
                mapped = sum(transform[i][j] * student[p][j] for j in range(width))
                total += (mapped - teacher[p][i]) ** 2
        return total / (len(student) * width)

    candidates = [j for j, yes in enumerate(is_open) if yes] or list(range(len(is_open)))
    total, chosen, limit = 0.0, [], len(students)
    for teacher in reversed(teachers):
        allowed = [j for j in candidates if j < limit or not ordered]
        best = limit
        for j in allowed:
            if best not in allowed or error(students[j], teacher) < error(students[best], teacher):
                best = j
        total += error(students[best], teacher)
        chosen.append(best)
        limit = best
    return total, chosen[::-1]
