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


def poorest_to_budget(
    scores: Float[Tensor, " n"], costs: Float[Tensor, " n"], budget: float, close: bool = True
) -> Bool[Tensor, " n"]:
    """Lowest-scored units whose costs meet a budget as exactly as the units allow.

    Units are taken in ascending order of score while they fit into what is left of the budget; one
    that does not fit is passed over for cheaper ones behind it. What is left then is less than any
    unit that remains costs, and the cheapest of those closes it. If that was more than was needed,
    the richest units that fit into the surplus are given back. So the sum is at least the budget,
    and no single unit can be given back.

    Args:
        scores: one per unit; a unit with score inf is never taken.
        costs: what removing a unit frees, in the budget's unit, > 0.
        budget: what is to be freed; zero or less takes none.
        close: False leaves out the closing unit, so that the sum is at most the budget.

    Returns:
        Mask of the units to remove, shape (n,). Everything that may go, where that is not enough.
    """
    order = scores.argsort(stable=True)
    order = order[scores[order].isfinite()]
    price = costs.double()[order]
    slack = 1e-9 * max(abs(budget), 1.0)
    taken = price.cumsum(0) <= budget + slack
    left = budget - float(price[taken].sum())
    left = _walk_(taken, price, left + slack, take=True) - slack
    rest = (~taken).nonzero().squeeze(1)
    if close and left > slack and len(rest):
        closing = rest[price[rest].argmin()]
        taken[closing] = True
        _walk_(taken, price, float(price[closing]) - left + slack, take=False)
    mask = taken.new_zeros(scores.shape)
    mask[order] = taken
    return mask


def _walk_(taken: Bool[Tensor, " n"], price: Float[Tensor, " n"], room: float, take: bool) -> float:
    """Take units from the poorest on, or give back from the richest on, while they fit."""
    waiting = (taken != take).nonzero().squeeze(1)
    if not take:
        waiting = waiting.flip(0)
    cheapest = float(price[waiting].min()) if len(waiting) else 0.0
    for position, cost in zip(waiting.tolist(), price[waiting].tolist(), strict=True):
        if room < cheapest:
            break
        if cost <= room:
            taken[position] = take
            room -= cost
    return room
