"""What tables and plots compute from records."""

from __future__ import annotations

import pytest

from neuroprune.record import RunRecord
from neuroprune.report.numbers import (
    IN_PERCENT,
    LESS_IS_BETTER,
    Spread,
    dense_runs,
    difference_to_dense,
    number_of,
    quality_kept,
    side_spread,
    spread_of,
)
from neuroprune.tasks.metrics import METRICS
from tests.report.records import experiment


def _record(dense: float, pruned: float, metric: str = "accuracy") -> RunRecord:
    sides = {"dense": {metric: dense}, "pruned": {metric: pruned}}
    return RunRecord(config={}, method="m", task="t", seed=0, metrics=sides)


def test_a_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread.of([1.0, 3.0])
    assert (spread.mean, spread.sd) == (2.0, pytest.approx(2**0.5))
    assert spread.text(1, 10.0) == "20.0 ± 14.1"
    assert Spread.of([1.0]).times(2.0) == Spread(2.0, None)


def test_one_missing_number_leaves_no_spread() -> None:
    assert spread_of([1.0, None]) is None
    assert spread_of([]) is None
    records = experiment()["neuroprune-80"]
    assert side_spread(records, "speeds", "speedup", "pruned", "7", "value") is None


def test_true_is_no_number() -> None:
    record = RunRecord(config={}, method="m", task="t", seed=0, metrics={"pruned": {"a": True}})
    assert number_of(record, "metrics", "pruned", "a") is None


def test_quality_kept_is_a_share_of_the_same_seed() -> None:
    assert quality_kept(_record(0.8, 0.6), "accuracy") == pytest.approx(0.75)
    assert quality_kept(_record(20.0, 25.0, "perplexity"), "perplexity") == pytest.approx(0.8)


@pytest.mark.parametrize("dense", [0.0, -0.1])
def test_a_share_of_nothing_means_nothing(dense: float) -> None:
    assert quality_kept(_record(dense, 0.5, "matthews"), "matthews") is None
    assert quality_kept(_record(0.5, 0.5), "f1") is None


def test_methods_of_one_experiment_share_their_dense_runs() -> None:
    records = [record for group in experiment().values() for record in group]
    assert sorted(record.seed for record in dense_runs(records)) == [1, 2, 3]


def test_differences_are_paired_and_a_missing_side_has_none() -> None:
    assert difference_to_dense(_record(0.75, 0.5), "accuracy") == pytest.approx(-0.25)
    assert difference_to_dense(_record(0.75, 0.5), "f1") is None


def test_the_standard_error_is_the_deviation_over_the_root_of_the_count() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.standard_error == pytest.approx(1.0 / 3**0.5)
    assert Spread.of([1.0]).standard_error is None
    assert spread.text_of_mean(2, sign="+") == "+2.00 ± 0.58"


def test_the_metrics_named_here_are_those_of_the_tasks() -> None:
    less = {name for name, metric in METRICS.items() if not metric.greater_is_better}
    assert less == LESS_IS_BETTER
    assert set(METRICS) >= IN_PERCENT - {"rougeLsum"}


def test_the_p_value_is_that_of_a_t_test_of_the_pairs() -> None:
    from scipy.stats import ttest_1samp

    for values in ((0.1, 0.2), (0.1, -0.2, 0.3), (1.0, 1.1, 0.9, 1.2), (0.3, -0.2, 0.1, 0.0, 0.4)):
        found = Spread.of(values).p_value
        assert found == pytest.approx(float(ttest_1samp(values, 0.0).pvalue), abs=1e-12)
    assert Spread.of([0.3]).p_value is None
    assert Spread.of([0.5, 0.5, 0.5]).p_value == 0.0
    assert Spread.of([0.0, 0.0]).p_value == 1.0
