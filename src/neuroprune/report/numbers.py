"""What records say, over seeds: for tables and plots. Standard library only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.record import RunRecord

OURS = "neuroprune"  # the method that the others are compared with
IN_PERCENT = frozenset(
    {"accuracy", "f1", "matthews", "pearson", "spearman", "rouge1", "rouge2", "rougeL", "rougeLsum"}
)
LESS_IS_BETTER = frozenset({"perplexity"})


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one number over seeds.

    Args:
        mean: arithmetic mean.
        sd: sample standard deviation; None for one value.
        count: how many values.
    """

    mean: float
    sd: float | None
    count: int = 1

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and standard deviation of at least one value."""
        sd = statistics.stdev(values) if values[1:] else None
        return cls(statistics.fmean(values), sd, len(values))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, sd / sqrt(count); None for one value."""
        return None if self.sd is None else self.sd / math.sqrt(self.count)

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value of Student's t-test that the mean is 0; None for one value.

        t = mean / standard error,  with count - 1 degrees of freedom
        """
        error = self.standard_error
        if error is None:
            return None
        if error == 0.0:  # all alike
            return 1.0 if self.mean == 0.0 else 0.0
        return 1.0 - probability_within(abs(self.mean) / error, self.count - 1)

    def times(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(self.mean * factor, None if self.sd is None else self.sd * factor, self.count)

    def text(self, digits: int, scale: float = 1.0) -> str:
        """`mean ± sd`, both times `scale`, with `digits` decimals."""
        return _plus_minus(self.mean, self.sd, f".{digits}f", scale)

    def text_of_mean(self, digits: int, scale: float = 1.0, sign: str = "") -> str:
        """`mean ± standard error of the mean`, both times `scale`, with `digits` decimals.

        Args:
            digits: decimals.
            scale: factor of both.
            sign: "+" writes the sign of a positive mean, too.
        """
        return _plus_minus(self.mean, self.standard_error, f".{digits}f", scale, sign)


def probability_within(t: float, freedom: int) -> float:
    """Probability that |T| < t, of Student's T.

    Args:
        t: at least 0.
        freedom: degrees of freedom, at least 1.

    Reference: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):  # cos^power, with its coefficient
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2.0 / math.pi * (angle + total) if odd else total


def _plus_minus(mean: float, width: float | None, form: str, scale: float, sign: str = "") -> str:
    text = f"{mean * scale:{sign}{form}}"
    return text if width is None else f"{text} ± {width * scale:{form}}"


def number_of(record: RunRecord, section: str, side: str, *keys: str) -> float | None:
    """One number of a record; None where the record does not have it, or it is not finite.

    Args:
        record: the record.
        section: "metrics", "sizes", "speeds" or "training".
        side: "dense", "pruned" or "speedup".
        keys: the way from there.
    """
    value: Any = getattr(record, section).get(side, {})
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def metric_names(records: Iterable[RunRecord]) -> list[str]:
    """Quality metrics that any record names, in their order.

    Args:
        records: of one experiment.
    """
    return list(
        dict.fromkeys(str(name) for r in records for name in r.metrics.get("names", None) or ())
    )


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean and deviation, or None where one value is missing.

    Args:
        values: one per record.
    """
    found = [value for value in values if value is not None]
    return Spread.of(found) if found and len(found) == len(values) else None


def side_spread(records: Sequence[RunRecord], section: str, side: str, *keys: str) -> Spread | None:
    """`number_of` over records, or None where one of them lacks it.

    Args:
        records: one per seed.
        section: see `number_of`.
        side: see `number_of`.
        keys: see `number_of`.
    """
    return spread_of([number_of(record, section, side, *keys) for record in records])


def over_seeds(counts: Collection[int]) -> str:
    """What the points of a plot are means of, in words.

    Args:
        counts: seeds of every point.
    """
    low, high = min(counts), max(counts)
    if high == 1:
        return "one seed"
    return f"mean ± sd over {high if low == high else f'{low} to {high}'} seeds"


def dense_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Records whose dense runs differ: methods of one experiment share theirs.

    Args:
        records: of one experiment folder.
    """
    return list({(r.seed, str(r.metrics.get("dense"))): r for r in records}.values())


def baseline(records: Iterable[RunRecord]) -> str:
    """What the pruned models are compared with, in a word.

    "dense", or "start" where training starts from a model that was cut before: trained alike and
    not cut again.

    Args:
        records: of one experiment folder.
    """
    found = [number_of(r, "sizes", "dense", "structural_sparsity") for r in records]
    return "start" if found and all(found) else "dense"


def quality_kept(record: RunRecord, metric: str) -> float | None:
    """Quality of the pruned model as a share of the dense model's of the same seed.

    Args:
        record: the record, which holds both.
        metric: name of the metric. Where less is better, the share is the inverse.

    Returns:
        The share, or None where it means nothing: a number is missing, or not above 0.
    """
    dense, pruned = (number_of(record, "metrics", side, metric) for side in ("dense", "pruned"))
    if dense is None or pruned is None or dense <= 0.0:
        return None
    if metric in LESS_IS_BETTER:
        return dense / pruned if pruned > 0.0 else None
    return pruned / dense


def difference_to_dense(record: RunRecord, metric: str) -> float | None:
    """Quality of the pruned model minus the dense model's of the same seed.

    The mean of these over seeds has a smaller standard error than a difference of means, since
    both models of a seed share their start, their data and its order.

    Args:
        record: the record, which holds both.
        metric: name of the metric.

    Returns:
        The difference in the metric's own unit, or None where one of the two is missing.
    """
    dense, pruned = (number_of(record, "metrics", side, metric) for side in ("dense", "pruned"))
    return None if dense is None or pruned is None else pruned - dense


def time_ratio(record: RunRecord) -> float | None:
    """Time of the whole training over that of the dense run of the same seed.

    Args:
        record: the record, which holds both.

    Returns:
        The ratio, or None where a time is missing.
    """
    dense, pruned = (number_of(record, "training", s, "seconds") for s in ("dense", "pruned"))
    return None if not dense or pruned is None else pruned / dense


def machines(records: Iterable[RunRecord]) -> str:
    """Processor or device, threads and versions of records, each once.

    Args:
        records: any.
    """
    lines: dict[str, None] = {}  # in order, each once
    for record in records:
        env = record.environment
        packages = env.get("packages", {})
        versions = ", ".join(
            f"{name} {packages[name]}"
            for name in ("neuroprune", "torch", "transformers")
            if name in packages
        )
        threads = env.get("threads")
        count = f"{threads} thread{'' if threads == 1 else 's'}" if threads else "threads not set"
        machine = f"{env.get('device') or env.get('processor', 'unknown machine')}, {count}"
        lines[f"{machine}; {versions}" if versions else machine] = None
    return "; and ".join(lines)
