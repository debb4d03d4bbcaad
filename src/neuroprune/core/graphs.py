"""Numbers that describe the graph of a layer: inequality, tails, small worlds, effective rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STEEPEST = 64.0  # no heavy tail is anywhere near
_FLATTEST = 1.0 + 1e-6
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def gini(values: Float[Tensor, " n"] | Int[Tensor, " n"]) -> float:
    """Inequality of non-negative values: 0 where all are equal, (n-1)/n where one owns all.

        G = sum_i (2 i - n - 1) x_(i) / (n sum_i x_i),   x_(1) <= ... <= x_(n)

    It is half the mean absolute difference of two values, divided by their mean.

    Args:
        values: what is owned, such as degrees, shape (n,).

    Returns:
        G in [0, 1); 0 where nobody owns anything, and for no values.

    Raises:
        ValueError: a value is negative or not finite.

    Reference: Gini (1912), "Variabilità e mutabilità".
    """
    x = values.detach().to(torch.float64).sort().values
    if not bool((torch.isfinite(x) & (x >= 0)).all()):
        raise ValueError("gini needs finite values >= 0.")
    n, total = len(x), float(x.sum())
    if total == 0.0:
        return 0.0
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=x.device)
    return max(0.0, float(((2 * rank - n - 1) * x).sum()) / (n * total))


def effective_rank(matrix: Float[Tensor, "rows columns"]) -> float:
    """How many directions a matrix uses, counted by the share each has.

        erank = exp( - sum_k p_k log p_k ),   p_k = sigma_k / sum_j sigma_j

    Args:
        matrix: any matrix, shape (rows, columns).

    Returns:
        In [1, min(rows, columns)]; 0 for a matrix of zeros, or without entries.

    Raises:
        ValueError: an entry is not finite.

    Reference: Roy and Vetterli (2007), "The effective rank: a measure of effective dimensionality".
    """
    weight = matrix.detach().to(torch.float64)
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("the effective rank needs finite entries.")
    if not bool(weight.any()):
        return 0.0
    sigma = torch.linalg.svdvals(weight)
    share = sigma / sigma.sum()
    return float(torch.special.entr(share).sum().exp())


def unit_degrees(
    fan_in: Sequence[Bool[Tensor, "units _"]], fan_out: Bool[Tensor, "d units"]
) -> Int[Tensor, " units"]:
    """Connections of every unit: what it reads, and what reads it.

        degree_u = sum over fan_in  #{ j : M_uj }  +  #{ i : fan_out_iu }

    Args:
        fan_in: masks whose row u belongs to unit u (up and gate), each (units, inputs).
        fan_out: mask whose column u belongs to unit u (down), shape (d, units).

    Returns:
        Degrees, int64, shape (units,).
    """
    degree = fan_out.sum(dim=0)
    for mask in fan_in:
        degree = degree + mask.sum(dim=1)
    return degree


def power_law_exponent(values: Int[Tensor, " n"], xmin: int) -> float:
    """Exponent of a discrete power law fitted to the values from xmin on, by maximum likelihood.

        p(x) = x^-a / zeta(a, xmin),   zeta(a, q) = sum_{k >= 0} (q + k)^-a
        a = argmax  - log zeta(a, xmin) - a mean(log x)

    The likelihood is concave in a; its maximum is found by golden-section search.

    Args:
        values: positive integers, shape (n,); those below xmin are ignored.
        xmin: where the tail begins, >= 1.

    Returns:
        a in (1, 64), and below 690 / log(xmin + 1); near the bound, the tail is steeper than any
        heavy tail.

    Raises:
        ValueError: xmin is below 1, or no value is at least xmin.

    Reference: Clauset, Shalizi and Newman (2009), arXiv 0706.1062, equation 3.5.
    """
    tail = _tail(values, xmin)
    mean_log = float(tail.log().mean())
    q = torch.tensor(float(xmin), dtype=torch.float64)

    def likelihood(a: float) -> float:
        zeta = torch.special.zeta(torch.tensor(a, dtype=torch.float64), q)
        return -math.log(float(zeta)) - a * mean_log

    # xmin^-a is at least about 1e-300 below the bound: zeta does not underflow.
    low, high = _FLATTEST, min(STEEPEST, 690.0 / math.log(xmin + 1))
    while high - low > 1e-7:
        width = _GOLDEN * (high - low)
        if likelihood(high - width) < likelihood(low + width):
            low = high - width
        else:
            high = low + width
    return (low + high) / 2


def power_law_log_likelihoods(
    values: Int[Tensor, " n"], exponent: float, xmin: int
) -> Float[Tensor, " n"]:
    """Log probability of every value under a discrete power law.

        log p(x) = - a log x - log zeta(a, xmin)

    Args:
        values: integers >= xmin, shape (n,).
        exponent: a > 1.
        xmin: where the tail begins, >= 1.

    Returns:
        float64, shape (n,).

    Raises:
        ValueError: xmin is below 1, a value is below xmin, or the exponent is not above 1.

    Reference: Clauset, Shalizi and Newman (2009), arXiv 0706.1062, equation 2.4.
    """
    x = _tail(values, xmin)
    if len(x) != len(values):
        raise ValueError(f"{len(values) - len(x)} values are below xmin = {xmin}.")
    a = _exponent(exponent)
    normalisation: Tensor = torch.special.zeta(a, torch.full_like(a, xmin))
    return -a * x.log() - normalisation.log()


def power_law_distance(values: Int[Tensor, " n"], exponent: float, xmin: int) -> float:
    """Largest gap between the distribution of the values from xmin on and a power law.

        D = max_{x >= xmin} | S(x) - P(x) |,   P(x) = 1 - zeta(a, x + 1) / zeta(a, xmin)

    Args:
        values: positive integers, shape (n,); those below xmin are ignored.
        exponent: a > 1.
        xmin: where the tail begins, >= 1.

    Returns:
        The Kolmogorov-Smirnov distance D in [0, 1].

    Raises:
        ValueError: xmin is below 1, no value is at least xmin, or the exponent is not above 1.

    Reference: Clauset, Shalizi and Newman (2009), arXiv 0706.1062, equation 3.9.
    """
    a = _exponent(exponent)
    x, count = _tail(values, xmin).unique(return_counts=True)
    share = count.double() / count.sum()
    observed = share.cumsum(0)
    whole = torch.special.zeta(a, torch.full_like(a, xmin))
    gap = (observed - (1 - torch.special.zeta(a, x + 1) / whole)).abs()
    # P grows between two values that occur while S does not: the gap just before each counts, too.
    before = torch.cat([torch.zeros_like(observed[:1]), observed[:-1]])
    early = (before - (1 - torch.special.zeta(a, x) / whole)).abs()
    return float(torch.maximum(gap, early).max())


def power_law_tail(values: Int[Tensor, " n"], least: int) -> tuple[float, int, float]:
    """The tail that looks most like a power law: its exponent, where it begins, how far off it is.

        xmin = argmin_x D(x, a(x))   over the x that occur with at least `least` values from x on

    Args:
        values: positive integers, shape (n,).
        least: values the tail must have, >= 1.

    Returns:
        (exponent, xmin, distance); of equal distances, the longest tail.

    Raises:
        ValueError: a value is below 1, or fewer than `least` values are given.

    Reference: Clauset, Shalizi and Newman (2009), arXiv 0706.1062, section 3.3.
    """
    if least < 1 or len(values) < least:
        raise ValueError(f"a tail of at least {least} values, got {len(values)} values.")
    latest = int(values.sort(descending=True).values[least - 1])
    best = (math.inf, 0, 0.0)
    for start in values.unique().tolist():
        if start > latest:
            break
        a = power_law_exponent(values, start)
        best = min(best, (power_law_distance(values, a, start), start, a))
    distance, xmin, exponent = best
    return exponent, xmin, distance


def strongest(weight: Float[Tensor, "rows columns"], count: int) -> Bool[Tensor, "rows columns"]:
    """The largest entries of a matrix; zeros are never among them.

        keep = { (i, j) : |w_ij| > 0 and |w_ij| is one of the `count` largest }

    Of equal entries the first ones, row by row, are kept.

    Args:
        weight: any matrix, shape (rows, columns).
        count: entries to keep, >= 0.

    Returns:
        Mask with min(count, nonzero entries) ones.
    """
    size = weight.detach().abs().flatten()
    keep = torch.zeros_like(size, dtype=torch.bool)
    keep[size.sort(descending=True, stable=True).indices[:count]] = True
    return (keep & (size > 0)).reshape(weight.shape)


def bipartite_clustering(edges: Bool[Tensor, "units others"]) -> float:
    """How often two units that share one neighbour share another: clustering without triangles.

        C = 4 #squares / #paths of three edges
        #squares = sum_{u < v} binom( (B B^T)_uv, 2 ),   #paths = sum_{(u,o)} (k_u - 1)(k_o - 1)

    Args:
        edges: B, edges between the two sides of a bipartite graph, shape (units, others).

    Returns:
        C in [0, 1], 1 for a complete graph; 0 where there is no path of three edges.

    Reference: Robins and Alexander (2004), "Small worlds among interlocking directors".
    """
    b = edges.to(torch.float32)  # common neighbours are integers below 2^24: exact
    shared = (b @ b.T).double()
    shared.fill_diagonal_(0.0)
    squares = float((shared * (shared - 1)).sum()) / 4
    b = b.double()
    paths = float((b.sum(dim=1) - 1) @ b @ (b.sum(dim=0) - 1))
    return 4 * squares / paths if paths > 0 else 0.0


def mean_path_length(
    edges: Bool[Tensor, "units others"], sources: Int[Tensor, " s"]
) -> tuple[float, float]:
    """Mean number of edges on a shortest path between nodes of a bipartite graph.

        L = mean of dist(s, n) over the sources s and the nodes n != s that s reaches

    Nodes without edges take no part. The search is breadth first, from all sources at once.

    Args:
        edges: edges between the two sides, shape (units, others).
        sources: indices of nodes, units first and then others, each once; shape (s,).

    Returns:
        L, and the share of the pairs (s, n) that a path joins; (0, 0) where there are no pairs.
    """
    units = edges.shape[0]
    b = edges.to(torch.float32)
    linked = torch.cat([edges.any(dim=1), edges.any(dim=0)])
    sources = sources[linked[sources]]
    front = torch.zeros(len(sources), len(linked), dtype=torch.bool, device=edges.device)
    front[torch.arange(len(sources), device=edges.device), sources] = True
    seen = front.clone()
    pairs = len(sources) * (int(linked.sum()) - 1)
    total = reached = length = 0
    while bool(front.any()):
        length += 1
        left, right = front[:, :units].float(), front[:, units:].float()
        front = torch.cat([right @ b.T, left @ b], dim=1).gt(0) & ~seen
        seen |= front
        new = int(front.sum())
        total, reached = total + length * new, reached + new
    return (total / reached, reached / pairs) if reached else (0.0, 0.0)


def _exponent(exponent: float) -> Tensor:
    if not exponent > 1.0:
        raise ValueError(f"the exponent of a power law must be above 1, got {exponent!r}.")
    return torch.tensor(exponent, dtype=torch.float64)


def _tail(values: Tensor, xmin: int) -> Tensor:
    """The values from xmin on, as float64."""
    if xmin < 1:
        raise ValueError(f"a power law begins at xmin >= 1, got {xmin!r}.")
    tail = values[values >= xmin].double().cpu()
    if not len(tail):
        raise ValueError(f"no value is at least xmin = {xmin}.")
    return tail
