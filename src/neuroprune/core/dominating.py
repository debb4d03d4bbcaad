"""Dominating sets: few heads that stand for all. One by integer programming, one greedily."""

from __future__ import annotations

from importlib import import_module

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor


def check_solver() -> None:
    """See that `minimum_dominating_set` has its solver, before it is needed.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        import_module("scipy.optimize")
    except ImportError as error:
        raise ImportError(
            'dominating="exact" needs scipy: pip install "neuroprune[bench]" (or scipy), or choose '
            'dominating="greedy".'
        ) from error


def minimum_dominating_set(
    similarity: Shaped[Tensor, "k k2"],
    strength: Float[Tensor, "k k"] | None = None,
    importance: Float[Tensor, " k"] | None = None,
) -> Int64[Tensor, " k"]:
    """The fewest heads such that every head is similar to one of them.

        min sum_j (1 - p_j / (k + 1)) x_j,   x in {0, 1}^k,   sum_j S[i, j] x_j >= 1 for every i

    p is the importance scaled to [0, 1]. All k of its terms together weigh less than one head, so
    the set is of minimum size, and among those of the largest total importance.

    Args:
        similarity: bool or 0/1 matrix S, symmetric and reflexive, shape (k, k).
        strength: how similar two heads are, shape (k, k). A head that goes gives way to the
            strongest of its similar heads that stay; ties go to the later head.
        importance: what each head is worth, shape (k,).

    Returns:
        The head that every head gives way to, int64, shape (k,); heads of the set, themselves.

    Raises:
        ValueError: S is not square, symmetric and reflexive, or has entries other than 0 and 1.
        ImportError: scipy is not installed.
        RuntimeError: the solver gave up.

    Reference: HiGHS, Huangfu and Hall (2018), doi 10.1007/s12532-017-0130-5.
    """
    _check_similarity(similarity)
    worth = _scaled(importance, similarity)
    k = len(worth)
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=similarity.device)
    check_solver()
    from scipy.optimize import Bounds, LinearConstraint, milp

    solution = milp(
        [1 - p / (k + 1) for p in worth],
        integrality=[1] * k,
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(similarity.double().cpu().numpy(), lb=1),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        raise RuntimeError(f"the integer program found no dominating set: {solution.message}")
    return _give_way([j for j in range(k) if solution.x[j] > 0.5], similarity, strength)


def greedy_dominating_set(
    similarity: Shaped[Tensor, "k k2"],
    strength: Float[Tensor, "k k"] | None = None,
    importance: Float[Tensor, " k"] | None = None,
) -> Int64[Tensor, " k"]:
    """Take the head that stands for most heads not yet stood for, again and again.

        j* = argmax_j ( sum over i not yet covered of S[i, j],  importance_j,  j )   lexicographic

    At most ln(k) + 1 times as many heads as the minimum.

    Args:
        similarity: bool or 0/1 matrix S, symmetric and reflexive, shape (k, k).
        strength: how similar two heads are, shape (k, k). A head that goes gives way to the
            strongest of its similar heads that stay; ties go to the later head.
        importance: what each head is worth, shape (k,); it breaks ties of coverage.

    Returns:
        The head that every head gives way to, int64, shape (k,); heads of the set, themselves.

    Raises:
        ValueError: S is not square, symmetric and reflexive, or has entries other than 0 and 1.

    Reference: Chvatal (1979), "A Greedy Heuristic for the Set-Covering Problem".
    """
    _check_similarity(similarity)
    worth = _scaled(importance, similarity)
    rows = [{j for j, similar in enumerate(row) if similar} for row in similarity.tolist()]
    uncovered = set(range(len(rows)))
    members: list[int] = []
    while uncovered:
        best = max(range(len(rows)), key=lambda j: (len(rows[j] & uncovered), worth[j], j))
        members.append(best)
        uncovered -= rows[best]
    return _give_way(members, similarity, strength)


def _give_way(members: list[int], similarity: Tensor, strength: Tensor | None) -> Tensor:
    """Members stay; every other head goes to the strongest member that it is similar to."""
    similar = similarity.tolist()
    real = similar if strength is None else strength.tolist()
    target = [
        i
        if i in members
        else max((j for j in members if similar[i][j]), key=lambda j: (real[i][j], j))
        for i in range(len(similar))
    ]
    return torch.tensor(target, dtype=torch.int64, device=similarity.device)


def _scaled(importance: Tensor | None, similarity: Tensor) -> list[float]:
    """Importance moved and scaled to [0, 1]; all 0 where there is none or all are equal.

    Sets of one size are compared, so that moving it changes nothing.
    """
    k = similarity.shape[0]
    if importance is None or k == 0:
        return [0.0] * k
    if importance.shape[0] != k or not bool(importance.isfinite().all()):
        raise ValueError(
            f"expected a finite importance for each of {k} heads, got {importance.tolist()}."
        )
    values = [float(x) for x in importance.tolist()]
    low, high = min(values), max(values)
    return [(x - low) / (high - low) if high > low else 0.0 for x in values]


def _check_similarity(similarity: Tensor) -> None:
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"expected a square similarity matrix (heads x heads), got {tuple(similarity.shape)}."
        )
    if not bool(((similarity == 0) | (similarity == 1)).all()):
        raise ValueError("expected a similarity matrix of 0 and 1; threshold it first.")
    if not bool((similarity == similarity.T).all() & (similarity.diagonal() == 1).all()):
        raise ValueError(
            "expected a symmetric similarity matrix with ones on the diagonal: a head is similar "
            "to itself, and two heads to each other."
        )
