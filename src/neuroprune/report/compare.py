"""Who is better, pair by pair: two methods at equal sparsity, on the same seeds. No plots here.

d_s = quality of ours - quality of theirs, with the same start, data and order (seed s)
at least as good:  mean(d) >= -se(d),  se(d) = sd(d) / sqrt(pairs)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from neuroprune.report.numbers import IN_PERCENT, LESS_IS_BETTER, Spread, number_of
from neuroprune.report.runs import Cell, Experiment

OURS = "neuroprune"
EQUAL = 0.02  # sparsities that differ by no more are equal
_ROUNDING = 1e-9  # 0.52 - 0.50 is more than 0.02 in floating point


class Verdict(StrEnum):
    """How two cells compare."""

    BETTER = "better"
    LEVEL = "level"
    WORSE = "worse"
    OPEN = "open"  # one pair: nothing says how much of the difference is chance

    @property
    def at_least_as_good(self) -> bool:
        """Within one standard error, or beyond it on the good side."""
        return self in (Verdict.BETTER, Verdict.LEVEL)


@dataclass(frozen=True)
class Comparison:
    """Two cells of one experiment at equal sparsity.

    Args:
        experiment: its name.
        ours: the cell whose quality counts.
        rival: the cell it is compared with.
        metric: name of the quality metric.
        difference: ours - rival over the seeds that both have, in the metric's unit; above 0 is
            better, whatever the metric.
    """

    experiment: str
    ours: Cell
    rival: Cell
    metric: str
    difference: Spread

    @property
    def verdict(self) -> Verdict:
        """`Verdict.OPEN` for one pair, which has no standard error."""
        return verdict(self.difference)

    def told(self) -> dict[str, str]:
        """The cells of a row of a table: ours, rival, sparsity, difference, pairs, verdict."""
        sparsity = self.rival.sparsity("weight")
        scale = 100.0 if self.metric in IN_PERCENT else 1.0
        return {
            "ours": self.ours.label,
            "rival": self.rival.label,
            "sparsity": "-" if sparsity is None else f"{100 * sparsity.mean:.0f}%",
            "difference": self.difference.text_of_mean(2, scale, "+"),
            "pairs": str(self.difference.count),
            "verdict": "one seed: open" if self.verdict is Verdict.OPEN else self.verdict.value,
        }


def verdict(difference: Spread) -> Verdict:
    """What a paired difference says, within one standard error of its mean.

    Args:
        difference: above 0 is better.
    """
    error = difference.standard_error
    if error is None:
        return Verdict.OPEN
    if difference.mean < -error:
        return Verdict.WORSE
    return Verdict.BETTER if difference.mean > error else Verdict.LEVEL


def paired_difference(ours: Cell, rival: Cell, metric: str) -> Spread | None:
    """Quality of one cell minus that of another, over the seeds that both have.

    Args:
        ours: the first cell.
        rival: the second cell.
        metric: name of the metric; where less is better, the sign is turned.

    Returns:
        Mean and deviation of the differences, or None: no common seed, or a number is missing.
    """
    theirs = {run.record.seed: run.record for run in rival.runs}
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0
    differences = []
    for record in ours.records:
        if record.seed not in theirs:
            continue
        pair = [number_of(r, "metrics", "pruned", metric) for r in (record, theirs[record.seed])]
        if pair[0] is None or pair[1] is None:
            return None
        differences.append(sign * (pair[0] - pair[1]))
    return Spread.of(differences) if differences else None


def equal_sparsity(one: Cell, other: Cell) -> bool:
    """Whether both sparsities of two cells differ by no more than `EQUAL`.

    Args:
        one: a cell.
        other: a cell.
    """
    for kind in ("structural", "weight"):
        first, second = one.sparsity(kind), other.sparsity(kind)
        if first is None or second is None or abs(first.mean - second.mean) > EQUAL + _ROUNDING:
            return False
    return True


def compare(experiment: Experiment, metric: str) -> list[Comparison]:
    """Every cell of ours with every rival's cell of equal sparsity.

    Args:
        experiment: the cells, all with the same dense runs.
        metric: name of the quality metric.
    """
    return list(_compare(experiment, metric))


def _compare(experiment: Experiment, metric: str) -> Iterator[Comparison]:
    for ours in experiment.cells:
        for rival in experiment.cells:
            if ours.method != OURS or rival.method == OURS or not equal_sparsity(ours, rival):
                continue
            difference = paired_difference(ours, rival, metric)
            if difference is not None:
                yield Comparison(experiment.name, ours, rival, metric, difference)


@dataclass(frozen=True)
class Tally:
    """How our cells compare with one rival.

    Args:
        rival: its method's line, such as "l1".
        counts: comparisons by verdict.
    """

    rival: str
    counts: dict[Verdict, int]

    @property
    def decided(self) -> int:
        """Comparisons of at least two pairs."""
        return sum(n for verdict, n in self.counts.items() if verdict is not Verdict.OPEN)

    @property
    def at_least_as_good(self) -> int:
        """Of these, those where ours is at least as good."""
        return sum(n for verdict, n in self.counts.items() if verdict.at_least_as_good)

    def sentence(self) -> str:
        """The same in words."""
        open_ = self.counts[Verdict.OPEN]
        single = "1 more comparison has" if open_ == 1 else f"{open_} more comparisons have"
        left_open = f" {single} one seed only, which decides nothing." if open_ else ""
        if not self.decided:
            return f"Against {self.rival}: no comparison with more than one common seed.{left_open}"
        return (
            f"Against {self.rival}, NeuroPrune is at least as good in {self.at_least_as_good} of "
            f"{self.decided} comparisons at equal sparsity: better in "
            f"{self.counts[Verdict.BETTER]}, level in {self.counts[Verdict.LEVEL]}, worse in "
            f"{self.counts[Verdict.WORSE]}.{left_open}"
        )


def tallies(comparisons: Iterable[Comparison]) -> list[Tally]:
    """Comparisons by rival, in alphabetical order.

    Args:
        comparisons: of any number of experiments.
    """
    found: dict[str, dict[Verdict, int]] = {}
    for comparison in comparisons:
        counts = found.setdefault(comparison.rival.series, dict.fromkeys(Verdict, 0))
        counts[comparison.verdict] += 1
    return [Tally(rival, found[rival]) for rival in sorted(found)]


def uncompared(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Cell]:
    """Cells of rivals that no cell of ours stands beside at equal sparsity.

    Args:
        experiment: the cells.
        comparisons: what `compare` found in it.
    """
    seen = {id(comparison.rival) for comparison in comparisons}
    return [cell for cell in experiment.cells if cell.method != OURS and id(cell) not in seen]
