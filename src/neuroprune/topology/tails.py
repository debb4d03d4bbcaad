"""Whether the degrees of a layer have a heavy tail."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neuroprune.core.graphs import STEEPEST, power_law_log_likelihoods, power_law_tail
from neuroprune.topology.optional import MissingPackageError

MIN_TAIL = 50  # values below which Clauset et al. (2009) find exponents unreliable
MIN_DISTINCT = 10  # different degrees; fewer fit any curve
STEEP = 0.5 * STEEPEST  # an exponent above it is a cliff, not a tail


@dataclass(frozen=True)
class Comparison:
    """The likelihood-ratio test of a power law against another distribution of the same tail.

    Args:
        ratio: log likelihood ratio over its standard deviation; above 0 favours the power law.
        p: probability of a ratio as large in absolute value if both were equally good.
    """

    ratio: float
    p: float


@dataclass(frozen=True)
class TailFit:
    """A power law fitted to the tail of degrees, or the reason why there is none.

    Args:
        alpha: exponent of p(degree) ~ degree^-alpha; None where nothing was fitted.
        xmin: degree at which the tail begins.
        distance: Kolmogorov-Smirnov distance between the tail and the power law.
        tail: units in the tail.
        exponential: test against an exponential; None where it could not be made.
        lognormal: test against a lognormal; likewise.
        reason: why there is no fit; None where there is one.
    """

    alpha: float | None = None
    xmin: int | None = None
    distance: float | None = None
    tail: int | None = None
    exponential: Comparison | None = None
    lognormal: Comparison | None = None
    reason: str | None = None

    @property
    def is_heavy(self) -> bool:
        """Heavier than an exponential (p < 0.1), and no worse than a lognormal (p < 0.1)."""
        against, other = self.exponential, self.lognormal
        if against is None or other is None:
            return False
        heavier = against.ratio > 0 and against.p < 0.1
        return heavier and not (other.ratio < 0 and other.p < 0.1)


def fit_tail(degrees: Tensor) -> TailFit:
    """Fit a power law to degrees, and compare it with an exponential and a lognormal.

    The power law is ours (`core.graphs.power_law_tail`): the exact discrete likelihood. That of the
    package `powerlaw` bounds the exponent by 3, at which thin tails look scale-free, and loses its
    precision where the exponent is large. The fits of the other two distributions and the test are
    the package's. Degrees of zero take no part: a power law has no zero.

    Args:
        degrees: connections of every unit, integers, shape (units,).

    Returns:
        The fit, or why there is none: fewer than 50 units with connections, fewer than 10 different
        degrees, or a tail that falls like a cliff.

    Raises:
        MissingPackageError: powerlaw is not installed.

    Reference: Clauset, Shalizi and Newman (2009), arXiv 0706.1062.
    """
    _powerlaw()  # missing packages are reported whatever the degrees
    living = degrees[degrees > 0].cpu()
    distinct = len(living.unique())
    if len(living) < MIN_TAIL:
        return TailFit(reason=f"{len(living)} units with connections; a fit needs {MIN_TAIL}")
    if distinct < MIN_DISTINCT:
        return TailFit(reason=f"{distinct} different degrees; a fit needs {MIN_DISTINCT}")
    alpha, xmin, distance = power_law_tail(living, MIN_TAIL)
    if alpha > STEEP:
        return TailFit(reason=f"the tail falls faster than degree^-{STEEP:g}: no heavy tail")
    tail = living[living >= xmin].sort().values
    return TailFit(
        alpha,
        xmin,
        distance,
        len(tail),
        _compare(tail, alpha, xmin, "exponential"),
        _compare(tail, alpha, xmin, "lognormal"),
    )


def _compare(tail: Tensor, alpha: float, xmin: int, other: str) -> Comparison | None:
    powerlaw = _powerlaw()
    ours = power_law_log_likelihoods(tail, alpha, xmin).numpy()
    # powerlaw warns, and divides by zero, on its way to the optimum. A result that is no number
    # is caught below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = powerlaw.Fit(tail.numpy(), discrete=True, xmin=xmin, verbose=0)
        theirs = getattr(fit, other).loglikelihoods(fit.data)
        # fit.data is sorted, as the tail must be: the test compares value by value.
        ratio, p = powerlaw.loglikelihood_ratio(ours, theirs, normalized_ratio=True)
    good = math.isfinite(ratio) and math.isfinite(p)
    return Comparison(float(ratio), float(p)) if good else None


def _powerlaw() -> Any:
    try:
        import powerlaw
    except ImportError as error:
        raise MissingPackageError("the fit of heavy tails", "powerlaw") from error
    return powerlaw
