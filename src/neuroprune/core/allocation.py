"""Which units go, given scores, costs and a budget."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int64
from torch import Tensor


def lowest_scores(
    scores: Float[Tensor, " n"], costs: Int64[Tensor, " n"], budget: int
) -> Bool[Tensor, " n"]:
    """The fewest lowest-scored units whose costs together reach a budget.

    Units are taken in ascending order of score (ties: the earlier first) until the sum of their
    costs is at least the budget; a budget of zero or less takes none.

    Args:
        scores: one per unit; a unit with score inf is never taken.
        costs: what removing a unit frees, in the budget's unit, >= 0.
        budget: what is to be freed.

    Returns:
        Mask of the units to remove, shape (n,).
    """
    order = scores.argsort(stable=True)
    before = costs[order].cumsum(0) - costs[order]
    taken = (before < budget) & scores[order].isfinite()
    mask = taken.new_zeros(scores.shape)
    mask[order] = taken
    return mask


def smallest_magnitudes_threshold(magnitudes: Float[Tensor, " n"], count: int) -> float:
    """The `count`-th smallest magnitude: entries up to it are the `count` smallest.

    Args:
        magnitudes: absolute values, one per weight, n >= 1.
        count: how many, clipped to [0, n].

    Returns:
        The threshold; -1 for a count of zero (nothing is below it).
    """
    if count <= 0:
        return -1.0
    return float(magnitudes.kthvalue(min(count, magnitudes.numel())).values)
