"""The rivals' equations in plain Python loops, float64: the slow twins. Never optimised.

A unit is the list of its weights, each named by (matrix, row, column).
"""

from __future__ import annotations

import itertools
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


def least_loss(
    scores: Sequence[float], costs: Sequence[float], needed: float
) -> tuple[float, set[tuple[int, ...]]]:
    """Least sum of scores of units that free a budget, and every set that reaches it: all tried."""
    best, found = math.inf, set()
    for choice in itertools.product([False, True], repeat=len(scores)):
        freed = sum(c for c, gone in zip(costs, choice, strict=True) if gone)
        loss = sum(s for s, gone in zip(scores, choice, strict=True) if gone)
        units = tuple(i for i, gone in enumerate(choice) if gone)
        if freed < needed - 1e-9 or loss > best + 1e-12:
            continue
        if loss < best - 1e-12:
            best, found = loss, set()
        found.add(units)
    return best, found


def masked_change(gradients: Array, units: Sequence[int]) -> float:
    """Sum over batches of the squared sum of the gradients of the masks that become zero."""
    return sum(sum(float(g[u]) for u in units) ** 2 for g in gradients)


def exchange(gradients: Array, gone: Sequence[int]) -> list[int]:
    """Greedy rearrangement, every exchange measured from the start."""
    members = list(gone)
    staying = [u for u in range(gradients.shape[1]) if u not in members]
    for j in sorted(staying, key=lambda u: masked_change(gradients, [u])) if members else []:
        members.append(j)
        without = [masked_change(gradients, [u for u in members if u != i]) for i in members]
        del members[without.index(min(without))]
    return sorted(members)


def reconstruction(x: Array, weight: Array, width: int, masks: Sequence[float]) -> float:
    """Mean over samples of the squared distance of the masked layer's output to the whole one's."""
    total = 0.0
    for sample in x:
        for row in weight:
            whole = sum(float(w) * float(v) for w, v in zip(row, sample, strict=True))
            masked = sum(
                masks[f // width] * float(row[f]) * float(sample[f]) for f in range(len(sample))
            )
            total += (whole - masked) ** 2
    return total / len(x)
