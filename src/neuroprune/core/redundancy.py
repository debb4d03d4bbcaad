"""Which heads are redundant: the dominating-set rule of the paper."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from neuroprune.core.connectivity import check_non_negative


def similarity_matrix(heads: Float[Tensor, "k f"], theta: float) -> Bool[Tensor, "k k"]:
    """Which heads are within theta of each other in every weight.

        S[i, j] = 1  where  max_f |A_Hi,f - A_Hj,f| <= theta

    Args:
        heads: weight blocks [Q_H, K_H, V_H], one flattened row per head, shape (k, f).
        theta: distance in the l_inf norm; 0 finds exact copies.

    Returns:
        Boolean, symmetric and reflexive, shape (k, k).

    Raises:
        ValueError: theta is negative or not finite.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 2.
    """
    check_non_negative("theta", theta)
    k = heads.shape[0]
    if heads.shape[1] == 0:  # heads that read no input: nothing to differ in
        return torch.ones(k, k, dtype=torch.bool, device=heads.device)
    similar = torch.eye(k, dtype=torch.bool, device=heads.device)
    for i in range(k - 1):  # row by row: one scratch matrix instead of k of them
        distance = (heads[i + 1 :] - heads[i]).abs().amax(dim=1)
        similar[i, i + 1 :] = similar[i + 1 :, i] = distance <= theta
    return similar


def find_dominating(similarity: Shaped[Tensor, "k k2"]) -> Int64[Tensor, " k"]:
    """FIND_DOMINATING: the head that every head gives way to, possibly itself.

    For each i, start with j* = i and scan j = 1..k: with s = S[j*, :] - S[j, :], take j* = j if
    (s has no 1 and has a -1) or (s is all zero and j* < j). A head gives way to one that is similar
    to a strict superset of what it is similar to; ties go to the later head.

    Args:
        similarity: bool or 0/1 matrix S, shape (k, k).

    Returns:
        j*, int64, shape (k,).

    Raises:
        ValueError: S is not square, or has entries other than 0 and 1.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 3.
    """
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"expected a square similarity matrix (heads x heads), got {tuple(similarity.shape)}."
        )
    if not bool(((similarity == 0) | (similarity == 1)).all()):
        raise ValueError("expected a similarity matrix of 0 and 1; threshold it first.")
    rows = [frozenset(j for j, similar in enumerate(row) if similar) for row in similarity.tolist()]
    dominating = []
    for i in range(len(rows)):
        best = i
        for j, row in enumerate(rows):
            if rows[best] < row or (rows[best] == row and best < j):
                best = j
        dominating.append(best)
    return torch.tensor(dominating, dtype=torch.int64, device=similarity.device)


def merge_map(dominating: Int64[Tensor, " k"]) -> dict[int, int]:
    """{i: j*_i} for every head i that gives way to another: what to merge into what.

    Args:
        dominating: j* per head, as `find_dominating` returns it.

    Returns:
        Removed head -> head it is merged into. Targets are never removed.

    Raises:
        ValueError: a target gives way itself (the map is not idempotent).
    """
    target = dominating.tolist()
    for i, j in enumerate(target):
        if not 0 <= j < len(target) or target[j] != j:
            raise ValueError(
                f"head {i} gives way to head {j}, which does not stay. Expected the result of "
                "find_dominating on a symmetric, reflexive similarity matrix."
            )
    return {i: j for i, j in enumerate(target) if i != j}
