"""Numbers of graphs in plain loops, float64: the slow twins. Never optimised.

Everything is counted from its definition: pairs for inequality, quadruples for clustering, one
search per source for paths, sums term by term for the zeta function, every integer for a distance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import combinations

import numpy as np

Array = np.ndarray


def gini(values: Sequence[float]) -> float:
    """Half the mean absolute difference of two values, divided by their mean."""
    n, total = len(values), sum(values)
    if not total:
        return 0.0
    differences = sum(abs(a - b) for a in values for b in values)
    return differences / n**2 / 2 / (total / n)


def effective_rank(matrix: Array) -> float:
    """Perplexity of the shares of the singular values: roots of the eigenvalues of W W^T."""
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)
    sigma = [math.sqrt(max(0.0, value)) for value in eigenvalues]
    if not sum(sigma):
        return 0.0
    perplexity = 1.0
    for value in sigma:
        share = value / sum(sigma)
        perplexity *= share**-share if share else 1.0
    return perplexity


def unit_degrees(fan_in: Sequence[Array], fan_out: Array) -> list[int]:
    """For each unit: ones in its rows and in its column."""
    degrees = []
    for unit in range(fan_out.shape[1]):
        degree = 0
        for mask in fan_in:
            for value in mask[unit]:
                degree += bool(value)
        for row in fan_out:
            degree += bool(row[unit])
        degrees.append(degree)
    return degrees


def zeta(exponent: float, start: float, terms: int = 200) -> float:
    """sum_{k >= 0} (start + k)^-exponent: many terms, and the integral of those that are left."""
    total = 0.0
    for k in range(terms):
        total += (start + k) ** -exponent
    end = start + terms
    rest = end ** (1 - exponent) / (exponent - 1) + end**-exponent / 2
    return total + rest + exponent * end ** (-exponent - 1) / 12


def power_law_log_likelihood(value: int, exponent: float, xmin: int) -> float:
    """Log of the share that a value has of all values from xmin on."""
    return math.log(value**-exponent / zeta(exponent, xmin))


def power_law_distance(values: Sequence[int], exponent: float, xmin: int) -> float:
    """The largest gap between observed and expected share of values up to x, over every x."""
    tail = [value for value in values if value >= xmin]
    largest = expected = 0.0
    whole = zeta(exponent, xmin)
    for x in range(xmin, max(tail) + 1):
        expected += x**-exponent / whole
        observed = sum(value <= x for value in tail) / len(tail)
        largest = max(largest, abs(observed - expected))
    return largest


def strongest(weight: Array, count: int) -> Array:
    """Take the largest entry that is left, the first of equal ones, as often as asked for."""
    keep = np.zeros(weight.shape, dtype=bool)
    for _ in range(count):
        best, where = 0.0, None
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                if not keep[i, j] and abs(weight[i, j]) > best:
                    best, where = abs(weight[i, j]), (i, j)
        if where is not None:
            keep[where] = True
    return keep


def clustering(edges: Array) -> float:
    """Four times the squares over the paths of three edges, both listed one by one."""
    units, others = edges.shape
    squares = paths = 0
    for u, v in combinations(range(units), 2):
        for o, p in combinations(range(others), 2):
            squares += bool(edges[u, o] and edges[v, o] and edges[u, p] and edges[v, p])
    for u in range(units):
        for o in range(others):
            for v in range(units):
                for p in range(others):
                    if v != u and p != o:
                        paths += bool(edges[u, o] and edges[v, o] and edges[u, p])
    return 4 * squares / paths if paths else 0.0


def path_length(edges: Array, sources: Sequence[int]) -> tuple[float, float]:
    """Mean distance of the pairs that a path joins, and their share of the pairs."""
    units, others = edges.shape
    neighbours: list[list[int]] = [[] for _ in range(units + others)]
    for u in range(units):
        for o in range(others):
            if edges[u, o]:
                neighbours[u].append(units + o)
                neighbours[units + o].append(u)
    linked = [node for node in range(units + others) if neighbours[node]]
    distances, pairs = [], 0
    for source in sources:
        if source not in linked:
            continue
        pairs += len(linked) - 1
        distance = {source: 0}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for other in neighbours[node]:
                if other not in distance:
                    distance[other] = distance[node] + 1
                    queue.append(other)
        distances += [steps for node, steps in distance.items() if node != source]
    if not distances:
        return 0.0, 0.0
    return sum(distances) / len(distances), len(distances) / pairs
