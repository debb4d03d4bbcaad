"""Comparisons: pairs of common seeds, at equal sparsity, with a verdict that says no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neuroprune.record import RunRecord
from neuroprune.report.compare import (
    Comparison,
    Verdict,
    by_another_metric,
    compare,
    equal_sparsity,
    paired_difference,
    tallies,
    uncompared,
    verdict,
    what_the_rule_is_worth,
)
from neuroprune.report.numbers import Spread
from neuroprune.report.runs import Cell, Experiment, Run
from tests.report.records import made_up


def cell(
    label: str,
    qualities: dict[int, float],
    method: str = "neuroprune",
    sparsities: tuple[float, float] = (0.5, 0.5),
    metric: str = "accuracy",
) -> Cell:
    """A cell with a quality per seed, and a structural and a weight sparsity."""
    structural, weight = sparsities
    pruned = {"structural_sparsity": structural, "weight_sparsity": weight}
    runs = []
    for seed, value in qualities.items():
        record = made_up(seed, value, structural, 1.0, method)
        metrics: dict[str, Any] = {"names": [metric], "dense": {}, "pruned": {metric: value}}
        record = dataclasses.replace(record, metrics=metrics, sizes={"pruned": pruned})
        runs.append(Run(Path(f"{label}/{seed}"), label, record, None))
    return Cell(label, tuple(runs), label)


def of(*cells: Cell) -> Experiment:
    return Experiment("t", cells, "t", "t")


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.02, 0.01, 0.03], Verdict.BETTER),
        ([-0.02, -0.01, -0.03], Verdict.WORSE),
        ([0.02, -0.02, 0.001], Verdict.LEVEL),
        ([0.0, 0.0, 0.0], Verdict.LEVEL),
        ([0.01, 0.01, 0.01], Verdict.BETTER),  # no deviation at all
        ([0.0, 0.0, 3.0], Verdict.LEVEL),  # mean 1, standard error 1: within one
        ([0.01, 0.01], Verdict.OPEN),
        ([0.5], Verdict.OPEN),
        ([-0.5], Verdict.OPEN),
    ],
)
def test_a_verdict_is_within_one_standard_error(
    differences: Sequence[float], expected: Verdict
) -> None:
    found = verdict(Spread.of(differences))
    assert found is expected


def test_only_seeds_that_both_have_are_compared() -> None:
    ours, rival = cell("a", {1: 0.9, 2: 0.8, 3: 0.1}), cell("b", {2: 0.7, 1: 0.7, 4: 1.0}, "l1")
    difference = paired_difference(ours, rival, "accuracy")
    assert difference is not None
    assert difference.count == 2
    assert difference.mean == pytest.approx(0.15)
    assert difference.sd == pytest.approx(0.5**0.5 * 0.1)
    assert paired_difference(cell("a", {1: 0.9}), cell("b", {2: 0.9}, "l1"), "accuracy") is None
    assert paired_difference(ours, rival, "f1") is None


def test_less_perplexity_is_better() -> None:
    ours = cell("a", {1: 20.0, 2: 21.0, 3: 20.5}, metric="perplexity")
    rival = cell("b", {1: 25.0, 2: 27.0, 3: 26.0}, "l1", metric="perplexity")
    (found,) = compare(of(ours, rival), "perplexity")
    assert found.difference.mean == pytest.approx(5.5)
    assert found.verdict is Verdict.BETTER
    (turned,) = compare(
        of(
            cell("a", {1: 25.0, 2: 27.0, 3: 26.0}, metric="perplexity"),
            cell("b", {1: 20.0, 2: 21.0, 3: 20.5}, "l1", metric="perplexity"),
        ),
        "perplexity",
    )
    assert turned.verdict is Verdict.WORSE


@pytest.mark.parametrize(
    ("sparsities", "expected"),
    [
        ((0.5, 0.5), True),
        ((0.52, 0.5), True),  # just two points, whatever floating point makes of it
        ((0.5, 0.48), True),
        ((0.521, 0.5), False),
        ((0.5, 0.53), False),  # equal units, but more single zeros
        ((0.0, 0.5), False),
    ],
)
def test_both_sparsities_must_be_equal(sparsities: tuple[float, float], expected: bool) -> None:
    ours, rival = cell("a", {1: 0.9}), cell("b", {1: 0.9}, "l1", sparsities)
    assert equal_sparsity(ours, rival) is expected
    assert equal_sparsity(rival, ours) is expected
    assert bool(compare(of(ours, rival), "accuracy")) is expected


def test_sparsities_are_equal_by_what_is_left() -> None:
    found = []
    for other in (0.952, 0.96):
        cells = (
            cell("a", {1: 0.9}, sparsities=(0.95, 0.95)),
            cell("b", {1: 0.9}, "l1", (other,) * 2),
        )
        found.append(equal_sparsity(*cells))
    assert found == [True, False]  # 4% is left, not 5%


def test_where_both_keep_zeros_their_number_is_what_counts() -> None:
    """The paper's measure: ours has removed some of them, the rival none."""
    ours, rival = cell("a", {1: 0.9}, sparsities=(0.3, 0.8)), cell("b", {1: 0.9}, "l1", (0.0, 0.79))
    whole = cell("c", {1: 0.9}, "cofi", (0.8, 0.8))
    assert equal_sparsity(ours, rival) and equal_sparsity(rival, ours)
    assert not equal_sparsity(ours, whole) and not equal_sparsity(whole, rival)


def test_an_unknown_sparsity_equals_nothing() -> None:
    ours = cell("a", {1: 0.9})
    record: RunRecord = dataclasses.replace(ours.records[0], sizes={}, method="l1")
    rival = Cell("b", (Run(Path("b"), "b", record, None),), "b")
    assert not equal_sparsity(ours, rival)
    assert uncompared(of(ours, rival), compare(of(ours, rival), "accuracy")) == [ours, rival]


def test_rivals_are_not_compared_with_each_other_nor_ours_with_ours() -> None:
    cells = [
        cell("ours-1", {1: 0.9}),
        cell("ours-2", {1: 0.8}),
        cell("l1", {1: 0.7}, "l1"),
        cell("dsp", {1: 0.7}, "dsp"),
    ]
    pairs = {(c.ours.label, c.rival.label) for c in compare(of(*cells), "accuracy")}
    assert pairs == {(o, r) for o in ("ours-1", "ours-2") for r in ("l1", "dsp")}


def test_cells_without_a_partner_are_named() -> None:
    cells = [
        cell("ours", {1: 0.9, 2: 0.9}),
        cell("ours-paper", {1: 0.9, 2: 0.9}, sparsities=(0.0, 0.2)),
        cell("near", {1: 0.9, 2: 0.8}, "l1"),
        cell("sparser", {1: 0.9, 2: 0.8}, "l1", (0.9, 0.9)),
        cell("otherseed", {7: 0.9}, "l1"),
    ]
    experiment = of(*cells)
    left = uncompared(experiment, compare(experiment, "accuracy"))
    assert [c.label for c in left] == ["ours-paper", "sparser", "otherseed"]
    assert uncompared(of(cells[0]), []) == []  # there is nobody to be compared with
    alone = of(cells[2])
    assert uncompared(alone, compare(alone, "accuracy")) == [cells[2]]


def _comparison(rival: str, *differences: float, ours: str = "ours") -> Comparison:
    return Comparison(
        "t",
        cell(ours, {1: 0.9}),
        cell(rival, {1: 0.9}, "l1"),
        "accuracy",
        Spread.of(differences),
    )


def test_tallies_in_words() -> None:
    found = tallies(
        [
            _comparison("l1", 0.1, 0.1, 0.1),
            _comparison("l1", 0.1, -0.1, 0.0),
            _comparison("l1", -0.1, -0.1, -0.1),
            _comparison("l1", 0.4),
            _comparison("dsp", 0.4),
            _comparison("dsp", -0.4, 0.1),
            _comparison("cofi", 0.1, 0.2, 0.3),
            _comparison("dsp", 0.4, ours="activity"),
        ]
    )
    assert [tally.sentence() for tally in found] == [
        "activity: no comparison with 3 common seeds. Undecided, with fewer than 3 common seeds: "
        "1.",
        "ours is at least as good as the other method in 3 of 4 comparisons at equal sparsity (1 "
        "of them level, 1 better and 1 worse by a t-test of the pairs with p < 0.05): cofi 1 of 1, "
        "l1 2 of 3. Undecided, with fewer than 3 common seeds: 3.",
    ]
    assert tallies([]) == []


def test_what_the_rule_is_worth_is_told_of_most_comparisons() -> None:
    three, four = (0.1, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4)
    found = [_comparison("l1", *three), _comparison("dsp", *three), _comparison("x", *four)]
    assert "one standard error of 3 pairs calls the first at least as good in 79% of cases" in (
        what_the_rule_is_worth(found)
    )
    assert "of 4 pairs calls the first at least as good in 80% of" in what_the_rule_is_worth(
        [_comparison("x", *four)]
    )
    assert what_the_rule_is_worth([_comparison("l1", 0.4)]) == ""


def test_another_metric_is_told_in_one_sentence() -> None:
    found = [_comparison("l1", 0.1, 0.2, 0.3), _comparison("l1", -0.1, 0.1, 0.0, ours="activity")]
    assert by_another_metric(found) == (
        "By accuracy: activity 1 of 1 comparisons at equal sparsity (1 of them level, 0 better and "
        "0 worse by a t-test of the pairs with p < 0.05); ours 1 of 1 comparisons at equal "
        "sparsity (0 of them level, 0 better and 0 worse by a t-test of the pairs with p < 0.05)."
    )
    assert by_another_metric([_comparison("l1", 0.4)]) == ""
