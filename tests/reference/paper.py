"""The paper in plain NumPy loops, float64, one entry at a time. Never optimised.

Dhurandhar et al. (2024), NeuroPrune, arXiv 2404.01306, written from its equations alone: nothing
here shares a formula, a shortcut or a line with the package it checks. Minimisers are found by
trying every possibility and by bisection, not by closed forms.

A stored matrix W is (out, in), as in `nn.Linear.weight`; a row is a row of the stored matrix,
except in A = [Q, K, V], whose row i is all that reads input dimension i.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


# --- preferential attachment ---------------------------------------------------------------------


def connectivity(w: Array, eps: float) -> Array:
    """c_i = max(1 - n_i / m, 1 / m), n_i = number of entries of row i with |w| < eps."""
    rows, m = w.shape
    c = np.zeros(rows)
    for i in range(rows):
        n_i = 0
        for j in range(m):
            if abs(w[i, j]) < eps:
                n_i += 1
        c[i] = max(1 - n_i / m, 1 / m)
    return c


def mlp_penalty(w: Array, eps: float) -> float:
    """R_mlp(W) = sum_i (1 / c_i) * sum_j |W_ij|."""
    c = connectivity(w, eps)
    total = 0.0
    for i in range(w.shape[0]):
        row = 0.0
        for j in range(w.shape[1]):
            row += abs(w[i, j])
        total += row / c[i]
    return total


def mlp_penalty_gradient(w: Array, eps: float) -> Array:
    """dR_mlp/dW_ij = sign(W_ij) / c_i with c constant; the subgradient 0 at W_ij = 0."""
    c = connectivity(w, eps)
    gradient = np.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            gradient[i, j] = _sign(w[i, j]) / c[i]
    return gradient


def l1_penalty(w: Array) -> float:
    """The baseline: sum of |w|."""
    total = 0.0
    for value in w.flat:
        total += abs(value)
    return total


def l1_penalty_gradient(w: Array) -> Array:
    """sign(w), 0 at 0."""
    gradient = np.zeros_like(w)
    for index in np.ndindex(*w.shape):
        gradient[index] = _sign(w[index])
    return gradient


# --- the rows of [Q, K, V] -----------------------------------------------------------------------


def rows_of(*stored: Array) -> Array:
    """A: row i holds everything that reads input dimension i, over all stored (out, in) weights."""
    d = stored[0].shape[1]
    rows = []
    for i in range(d):
        row = []
        for w in stored:
            for out in range(w.shape[0]):
                row.append(w[out, i])
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(d, -1)


def attention_penalty(a: Array) -> float:
    """R_attn(A) = sum_i ( sum_j |A_ij| )^(1/2)."""
    total = 0.0
    for i in range(a.shape[0]):
        norm = 0.0
        for j in range(a.shape[1]):
            norm += abs(a[i, j])
        total += math.sqrt(norm)
    return total


def attention_penalty_gradient(a: Array) -> Array:
    """sign(A_ij) / (2 sqrt(sum_j |A_ij|)); an all-zero row contributes none."""
    gradient = np.zeros_like(a)
    for i in range(a.shape[0]):
        norm = sum(abs(value) for value in a[i])
        if norm == 0:
            continue
        for j in range(a.shape[1]):
            gradient[i, j] = _sign(a[i, j]) / (2 * math.sqrt(norm))
    return gradient


def finite_differences(f: Callable[[Array], float], x: Array, step: float = 1e-6) -> Array:
    """Central differences of a scalar function, entry by entry. Meaningless at a kink."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (f(up) - f(down)) / (2 * step)
    return gradient


def _sign(value: float) -> float:
    if value > 0:
        return 1.0
    if value < 0:
        return -1.0
    return 0.0


# --- proximal maps by search ---------------------------------------------------------------------


def weighted_l1_prox(w: Array, row_weight: Array, t: float) -> Array:
    """argmin_Z 0.5 ||Z - W||^2 + t sum_i a_i sum_j |Z_ij|, from the subgradient by bisection."""
    z = np.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            z[i, j] = _l1_prox_entry(w[i, j], t * row_weight[i])
    return z


def _l1_prox_entry(w: float, threshold: float) -> float:
    """Zero of the increasing subgradient z - w + threshold * sign(z)."""
    if -w - threshold <= 0 <= -w + threshold:  # 0 lies in the subgradient at z = 0
        return 0.0
    side = 1.0 if -w + threshold < 0 else -1.0
    low, high = 0.0, abs(w)
    for _ in range(200):
        middle = (low + high) / 2
        if side * (side * middle - w + threshold * side) < 0:
            low = middle
        else:
            high = middle
    return side * (low + high) / 2


def group_objective(z: Sequence[float], a: Sequence[float], t: float) -> float:
    """0.5 ||z - a||^2 + t ||z||_1^(1/2) for one row."""
    distance, norm = 0.0, 0.0
    for z_j, a_j in zip(z, a, strict=True):
        distance += (z_j - a_j) ** 2
        norm += abs(z_j)
    return 0.5 * distance + t * math.sqrt(norm)


def group_candidates_exhaustive(a: Sequence[float], t: float) -> list[tuple[float, list[float]]]:
    """(objective, z) of every stationary point of every sign pattern in {-1, 0, 1}^m, and of 0.

    Where z_j != 0 has sign p_j, stationarity says z_j = a_j - p_j * t / (2 sqrt(s)), s = ||z||_1.
    Summing p_j z_j gives one scalar equation in s. Every candidate is scored by the true
    objective, so one that contradicts its own sign pattern does no harm: it is a feasible point.
    """
    candidates = [(group_objective([0.0] * len(a), a, t), [0.0] * len(a))]
    for pattern in itertools.product((-1, 0, 1), repeat=len(a)):
        size = sum(abs(p) for p in pattern)
        if size == 0:
            continue
        total = sum(p * a_j for p, a_j in zip(pattern, a, strict=True))
        for s in _stationary_norms(total, size, t):
            shift = t / (2 * math.sqrt(s))
            z = [a_j - p * shift if p else 0.0 for p, a_j in zip(pattern, a, strict=True)]
            candidates.append((group_objective(z, a, t), z))
    return sorted(candidates, key=lambda item: item[0])


def group_candidates_by_size(a: Sequence[float], t: float) -> list[tuple[float, list[float]]]:
    """The same for long rows: for each k, only the pattern of the k largest entries of the row.

    Exchanging an active entry for a larger inactive one, or a sign for that of its entry, never
    raises the objective.
    """
    candidates = [(group_objective([0.0] * len(a), a, t), [0.0] * len(a))]
    order = sorted(range(len(a)), key=lambda j: -abs(a[j]))
    for size in range(1, len(a) + 1):
        active = order[:size]
        total = sum(abs(a[j]) for j in active)
        for s in _stationary_norms(total, size, t):
            shift = t / (2 * math.sqrt(s))
            z = [0.0] * len(a)
            for j in active:
                z[j] = a[j] - _sign(a[j]) * shift
            candidates.append((group_objective(z, a, t), z))
    return sorted(candidates, key=lambda item: item[0])


def _stationary_norms(total: float, size: int, t: float) -> list[float]:
    """All s > 0 with s = total - size * t / (2 sqrt(s)), by ternary search and bisection.

    f(s) = s - total + size * t / (2 sqrt(s)) is convex: it has no zero, or one on each side of its
    minimum.
    """
    if total <= 0:
        return []

    def f(s: float) -> float:
        return s - total + size * t / (2 * math.sqrt(s))

    low, high = total * 1e-24, total
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if f(left) < f(right):
            high = right
        else:
            low = left
    bottom = (low + high) / 2
    if f(bottom) > 0:
        return []
    roots = []
    for outer in (total * 1e-24, total):
        inside, outside = bottom, outer
        if f(outside) < 0:
            continue
        for _ in range(200):
            middle = (inside + outside) / 2
            if f(middle) <= 0:
                inside = middle
            else:
                outside = middle
        roots.append((inside + outside) / 2)
    return roots


def group_search_box(a: Sequence[float], t: float, points: int = 41, zooms: int = 6) -> float:
    """Lowest objective on a grid over the box |z_j| <= 1.25 max|a|, zoomed in on the best point.

    Knows nothing about the minimiser's form. The coordinate axes are always on the grid.
    """
    reach = 1.25 * max(abs(value) for value in a)
    centre, best = [0.0] * len(a), group_objective([0.0] * len(a), a, t)
    for _ in range(zooms):
        axes = [[0.0, *np.linspace(c - reach, c + reach, points)] for c in centre]
        for z in itertools.product(*axes):
            value = group_objective(z, a, t)
            if value < best:
                centre, best = list(z), value
        reach *= 4 / points
    return best


def group_search_levels(a: Sequence[float], t: float, points: int = 400, zooms: int = 3) -> float:
    """Lowest objective over z = (|a| - level)_+ sign(a), on a grid of levels zoomed in on.

    For rows too long for a box: every stationary point has this form.
    """
    best = group_objective([0.0] * len(a), a, t)
    low, high = 0.0, max(abs(value) for value in a)
    for _ in range(zooms):
        levels = np.linspace(low, high, points)
        best_level = low
        for level in levels:
            z = [_sign(value) * max(abs(value) - level, 0.0) for value in a]
            value = group_objective(z, a, t)
            if value <= best:
                best, best_level = value, level
        width = 2 * (high - low) / points
        low, high = max(best_level - width, 0.0), best_level + width
    return best


def group_prox(a: Array, t: float) -> Array:
    """argmin_Z 0.5 ||Z - A||^2 + t sum_i ||Z_i||_1^(1/2), the best candidate of each row."""
    z = np.zeros_like(a)
    for i in range(a.shape[0]):
        search = group_candidates_exhaustive if a.shape[1] <= 4 else group_candidates_by_size
        z[i] = search(list(a[i]), t)[0][1]
    return z


# --- head elimination (Algorithms 2 and 3) -------------------------------------------------------


def similarity_matrix(blocks: Sequence[Array], theta: float) -> Array:
    """S[i, j] = 1 where max |A_Hi - A_Hj| <= theta, A_H the weight block of head H."""
    k = len(blocks)
    s = np.zeros((k, k), dtype=np.int64)
    for i in range(k):
        for j in range(k):
            distance = 0.0
            for x, y in zip(blocks[i].flat, blocks[j].flat, strict=True):
                distance = max(distance, abs(x - y))
            if distance <= theta:
                s[i, j] = 1
    return s


def find_dominating(similarity: Array) -> Array:
    """FIND_DOMINATING: D, shape (k, k), with D[i, j*] = 1 for the j* that head i ends at."""
    k = similarity.shape[0]
    d = np.zeros((k, k), dtype=np.int64)
    for i in range(k):
        j_star = i
        for j in range(k):
            s = [int(similarity[j_star, c]) - int(similarity[j, c]) for c in range(k)]
            has_one = any(value == 1 for value in s)
            has_minus_one = any(value == -1 for value in s)
            all_zero = all(value == 0 for value in s)
            if (not has_one and has_minus_one) or (all_zero and j_star < j):
                j_star = j
        d[i, j_star] = 1
    return d


def dominating_head(d: Array, i: int) -> int:
    """The j with D[i, j] = 1."""
    for j in range(d.shape[1]):
        if d[i, j] == 1:
            return j
    raise AssertionError(f"row {i} of D is empty")


def merge_map(d: Array) -> dict[int, int]:
    """Every i with j* != i, and the j* it is merged into."""
    merges = {}
    for i in range(d.shape[0]):
        j_star = dominating_head(d, i)
        if j_star != i:
            merges[i] = j_star
    return merges


def eliminate_heads(
    blocks: Sequence[Array], w_o: Array, theta: float
) -> tuple[list[Array], Array, dict[int, int]]:
    """One epoch's head elimination of one attention layer.

    Args:
        blocks: [Q_H, K_H, V_H] of each head, shape (3, head_dim, d).
        w_o: the matrix that reads the heads' outputs, shape (d, heads * head_dim).
        theta: head distance.

    Returns:
        The blocks that stay, W_O with the columns of every merged head added to those of the head
        it is merged into and then deleted, and the merges.
    """
    head_dim = blocks[0].shape[1]
    merges = merge_map(find_dominating(similarity_matrix(blocks, theta)))
    w_o = w_o.copy()
    for i, j in merges.items():
        for row in range(w_o.shape[0]):
            for column in range(head_dim):
                w_o[row, j * head_dim + column] += w_o[row, i * head_dim + column]
    kept_blocks, kept_columns = [], []
    for head in range(len(blocks)):
        if head in merges:
            continue
        kept_blocks.append(blocks[head].copy())
        for column in range(head_dim):
            kept_columns.append(w_o[:, head * head_dim + column])
    return kept_blocks, np.stack(kept_columns, axis=1), merges


def attend(blocks: Sequence[Array], w_o: Array, x: Array) -> Array:
    """Output of the toy layer on the sequence x, shape (length, d): softmax attention, no bias."""
    length, head_dim = x.shape[0], blocks[0].shape[1]
    outputs = np.zeros((length, len(blocks) * head_dim))
    for head, (q, k, v) in enumerate(blocks):
        for position in range(length):
            query = q @ x[position]
            scores = [
                float(query @ (k @ x[other])) / math.sqrt(head_dim) for other in range(length)
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            mixed = np.zeros(head_dim)
            for other in range(length):
                mixed += weights[other] / sum(weights) * (v @ x[other])
            outputs[position, head * head_dim : (head + 1) * head_dim] = mixed
    return outputs @ w_o.T
