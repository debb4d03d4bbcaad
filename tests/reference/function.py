"""Redundancy by function in plain NumPy loops, float64: the slow twins. Never optimised.

Circuits are formed as d x d matrices, dominating sets by trying every subset, least squares on the
samples themselves: nothing here shares a formula with the package it checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


# --- similarity ----------------------------------------------------------------------------------


def cosine(x: Array, y: Array) -> float:
    """<x, y> / (|x| |y|), entry by entry; 0 beside a zero."""
    inner = norm_x = norm_y = 0.0
    for a, b in zip(x.flat, y.flat, strict=True):
        inner += a * b
        norm_x += a * a
        norm_y += b * b
    if norm_x == 0 or norm_y == 0:
        return 0.0
    return inner / math.sqrt(norm_x) / math.sqrt(norm_y)


def circuit_similarity(q: Array, k: Array, v: Array, o: Array) -> Array:
    """Mean cosine of Q_h^T K_h and of O_h^T V_h."""
    heads = len(q)
    out = np.eye(heads)
    for i in range(heads):
        for j in range(heads):
            if i != j:
                attend = cosine(q[i].T @ k[i], q[j].T @ k[j])
                move = cosine(o[i].T @ v[i], o[j].T @ v[j])
                out[i, j] = (attend + move) / 2
    return out


def output_similarity(x: Array, weight: Array, heads: int) -> Array:
    """Cosine of the stacked outputs W_h x_h of the samples x, shape (samples, features)."""
    width = x.shape[1] // heads
    outputs = []
    for h in range(heads):
        columns = range(h * width, (h + 1) * width)
        outputs.append(np.array([weight[:, columns] @ sample[columns] for sample in x]))
    out = np.eye(heads)
    for i in range(heads):
        for j in range(heads):
            if i != j:
                out[i, j] = cosine(outputs[i], outputs[j])
    return out


def parallel_neurons(
    rows: Array, threshold: float, degree: int | None, tolerance: float
) -> dict[int, tuple[int, float]]:
    """One neuron after the other: into the nearest earlier one that stays, or it stays."""
    stay: list[int] = []
    folds: dict[int, tuple[int, float]] = {}
    for n, row in enumerate(rows):
        if not row.any():
            continue
        best, best_cosine = -1, 0.0
        for r in stay:
            rho = math.sqrt(sum(row**2) / sum(rows[r] ** 2))
            close = degree is not None or abs(rho - 1) <= tolerance + 1e-6
            c = cosine(row, rows[r])
            if close and c >= threshold - 1e-6 and c > best_cosine:
                best, best_cosine = r, c
        if best < 0:
            stay.append(n)
        else:
            rho = math.sqrt(sum(row**2) / sum(rows[best] ** 2))
            folds[n] = (best, 1.0 if degree is None else rho**degree)
    return folds


# --- dominating sets -----------------------------------------------------------------------------


def dominates(members: Sequence[int], similarity: Array) -> bool:
    """Every head is similar to a member."""
    for i in range(len(similarity)):
        if not any(similarity[i, j] == 1 for j in members):
            return False
    return True


def minimum_dominating_sets(similarity: Array) -> list[tuple[int, ...]]:
    """All dominating sets of the smallest size, by trying every subset."""
    k = len(similarity)
    for size in range(k + 1):
        found = [s for s in itertools.combinations(range(k), size) if dominates(s, similarity)]
        if found:
            return found
    raise AssertionError("the set of all heads dominates")


def greedy_size(similarity: Array) -> int:
    """Size of the greedy set, ties to the later head."""
    uncovered = set(range(len(similarity)))
    size = 0
    while uncovered:
        best, covered = -1, -1
        for j in range(len(similarity)):
            count = sum(1 for i in uncovered if similarity[i, j] == 1)
            if count >= covered:
                best, covered = j, count
        uncovered = {i for i in uncovered if similarity[i, best] == 0}
        size += 1
    return size


# --- absorption ----------------------------------------------------------------------------------


def absorb(x: Array, weight: Array, kept: Sequence[int], removed: Sequence[int]) -> Array:
    """argmin_W' sum over samples |W_k x_k + W_r x_r - W' x_k|^2, by lstsq on the samples."""
    target = x[:, kept] @ weight[:, kept].T + x[:, removed] @ weight[:, removed].T
    return np.linalg.lstsq(x[:, kept], target, rcond=None)[0].T


def residual(
    x: Array, weight: Array, absorbed: Array, kept: list[int], removed: list[int]
) -> float:
    """Mean over samples of |W_k x_k + W_r x_r - W' x_k|^2."""
    total = 0.0
    for sample in x:
        wanted = weight[:, kept] @ sample[kept] + weight[:, removed] @ sample[removed]
        total += float(((wanted - absorbed @ sample[kept]) ** 2).sum())
    return total / len(x)
