"""Who is better, pair by pair: two methods at equal sparsity, on the same seeds. No plots here.

d_s = quality of ours - quality of theirs, with the same start, data and order (seed s)
at least as good:  mean(d) >= -se(d),  se(d) = sd(d) / sqrt(pairs)

That is a mild rule, so it is told beside it what it is worth (`what_the_rule_is_worth`), and how
many differences a t-test of the pairs finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from neuroprune.report.numbers import (
    IN_PERCENT,
    LESS_IS_BETTER,
    OURS,
    Spread,
    number_of,
    probability_within,
)
from neuroprune.report.runs import Cell, Experiment

ENOUGH = 3  # pairs that a verdict takes
EQUAL = 0.02  # sparsities that differ by no more are equal,
OF_LEFT = 0.1  # if that is no more than this share of what is left
CLEAR = 0.05  # p-value below which a difference is told from chance
_ROUNDING = 1e-9  # 0.52 - 0.50 is more than 0.02 in floating point


class Verdict(StrEnum):
    """How two cells compare."""

    BETTER = "better"
    LEVEL = "level"
    WORSE = "worse"
    OPEN = "open"  # fewer than three pairs: too little to tell a difference from chance


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
        """What the difference says; `Verdict.OPEN` for fewer than three pairs."""
        return verdict(self.difference)

    def told(self) -> dict[str, str]:
        """The cells of a row of a table: ours, rival, sparsity, difference, pairs, verdict."""
        scale = 100.0 if self.metric in IN_PERCENT else 1.0
        found = (cell.sparsity("weight") for cell in (self.ours, self.rival))
        sides = dict.fromkeys("-" if x is None else f"{100 * x.mean:.0f}%" for x in found)
        return {
            "ours": self.ours.label,
            "rival": self.rival.label,
            "sparsity": " / ".join(sides),
            "difference": self.difference.text_of_mean(2, scale, "+"),
            "pairs": str(self.difference.count),
            "verdict": self.verdict.value,
        }


def verdict(difference: Spread) -> Verdict:
    """What a paired difference says, within one standard error of its mean.

    Args:
        difference: above 0 is better.

    Returns:
        `Verdict.OPEN` for fewer than three pairs, whatever the difference.
    """
    error = difference.standard_error
    if error is None or difference.count < ENOUGH:
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
    """Whether two cells are equally sparse, within two points and a tenth of what is left.

    Their weight sparsity is the same, and so is their structural sparsity; where both keep zeros
    in place, as the paper's models do, the first is enough.

    Args:
        one: a cell.
        other: a cell.
    """
    weight, structural = (
        [cell.sparsity(kind) for cell in (one, other)] for kind in ("weight", "structural")
    )
    if not _equal(weight[0], weight[1]):
        return False
    zeros = (not _equal(w, s) for w, s in zip(weight, structural, strict=True))
    return _equal(structural[0], structural[1]) or (None not in structural and all(zeros))


def _equal(first: Spread | None, second: Spread | None) -> bool:
    if first is None or second is None:
        return False
    bound = min(EQUAL, OF_LEFT * (1.0 - min(first.mean, second.mean)))
    return abs(first.mean - second.mean) <= bound + _ROUNDING


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
    """How one of our lines compares with the other methods.

    Args:
        ours: its name, such as "neuroprune".
        counts: other method's line -> comparisons by verdict.
        clear: comparisons that a t-test finds better, and worse.
    """

    ours: str
    counts: Mapping[str, Mapping[Verdict, int]]
    clear: tuple[int, int]

    def of(self, *verdicts: Verdict) -> int:
        """Comparisons with one of these verdicts, over all other methods.

        Args:
            verdicts: which ones.
        """
        return sum(counts[verdict] for counts in self.counts.values() for verdict in verdicts)

    @property
    def decided(self) -> int:
        """Comparisons of at least three pairs."""
        return self.of(Verdict.BETTER, Verdict.LEVEL, Verdict.WORSE)

    def sentence(self) -> str:
        """The same in words."""
        open_ = self.of(Verdict.OPEN)
        left = f" Undecided, with fewer than {ENOUGH} common seeds: {open_}." if open_ else ""
        if not self.decided:
            return f"{self.ours}: no comparison with {ENOUGH} common seeds.{left}"
        rivals = ", ".join(
            f"{rival} {counts[Verdict.BETTER] + counts[Verdict.LEVEL]} of {decided}"
            for rival, counts in self.counts.items()
            if (decided := sum(counts.values()) - counts[Verdict.OPEN])
        )
        return (
            f"{self.ours} is at least as good as the other method in {self.share()}: {rivals}."
            f"{left}"
        )

    def share(self) -> str:
        """In how many comparisons it is at least as good, and what a t-test finds, in words."""
        good, level = self.of(Verdict.BETTER, Verdict.LEVEL), self.of(Verdict.LEVEL)
        better, worse = self.clear
        return (
            f"{good} of {self.decided} comparisons at equal sparsity ({level} of them level, "
            f"{better} better and {worse} worse by a t-test of the pairs with p < {CLEAR})"
        )


def tallies(comparisons: Iterable[Comparison]) -> list[Tally]:
    """Comparisons by our own line, and by the other method's in alphabetical order.

    Args:
        comparisons: of any number of experiments.
    """
    found: dict[str, dict[str, dict[Verdict, int]]] = {}
    clear: Counter[tuple[str, bool]] = Counter()
    for comparison in sorted(comparisons, key=lambda c: c.rival.series):
        counts = found.setdefault(comparison.ours.series, {})
        counts.setdefault(comparison.rival.series, dict.fromkeys(Verdict, 0))
        counts[comparison.rival.series][comparison.verdict] += 1
        p_value = comparison.difference.p_value
        if comparison.verdict is not Verdict.OPEN and p_value is not None and p_value < CLEAR:
            clear[comparison.ours.series, comparison.difference.mean > 0.0] += 1
    return [
        Tally(ours, found[ours], (clear[ours, True], clear[ours, False])) for ours in sorted(found)
    ]


def by_another_metric(comparisons: Sequence[Comparison]) -> str:
    """The tallies by a metric that is not the main one, in one sentence; empty for none.

    Args:
        comparisons: all by that metric.
    """
    told = [f"{t.ours} {t.share()}" for t in tallies(comparisons) if t.decided]
    return f"By {comparisons[0].metric}: {'; '.join(told)}." if told else ""


def what_the_rule_is_worth(comparisons: Iterable[Comparison]) -> str:
    """How often chance alone gives "at least as good", in words; empty where nothing is decided.

    Args:
        comparisons: those of which it is told.
    """
    decided = [c for c in comparisons if c.verdict is not Verdict.OPEN]
    if not decided:
        return ""
    ((pairs, _),) = Counter(c.difference.count for c in decided).most_common(1)
    chance = 0.5 + 0.5 * probability_within(1.0, pairs - 1)
    return (
        f"Of two methods that are equally good, one standard error of {pairs} pairs calls the "
        f"first at least as good in {100 * chance:.0f}% of cases; and comparisons with one setting "
        "share its runs, so that they are not independent."
    )


def alone(cells: Sequence[Cell]) -> str:
    """Why cells stand beside none of the other side, in words; empty for none.

    Args:
        cells: of `uncompared`.
    """
    if not cells:
        return ""
    return (
        "Compared with nothing, since NeuroPrune and the others have no settings of equal sparsity "
        f"there with a result of the same seed: {', '.join(cell.label for cell in cells)}."
    )


def uncompared(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Cell]:
    """Cells that no cell of the other side stands beside at equal sparsity.

    Args:
        experiment: the cells; where all are ours there is nothing to compare, and none is told.
        comparisons: what `compare` found in it.
    """
    seen = {id(cell) for comparison in comparisons for cell in (comparison.ours, comparison.rival)}
    if all(cell.method == OURS for cell in experiment.cells):
        return []
    return [cell for cell in experiment.cells if id(cell) not in seen]
