"""Numbers in sentences: from records, and stale or impossible ones are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroprune.bench.tables import TableError, render, render_file, stale_tables
from neuroprune.record import RunRecord
from tests.report.records import experiment, whole


def _marked(asked: str, body: str = "") -> str:
    return f"so <!-- number: {asked} -->{body}<!-- /number -->% is left"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One experiment, one metric in a unit of its own, and a measurement without training."""
    root = tmp_path / "results"
    for cell, records in experiment().items():
        for record in records:
            record.save(root / "sst2" / cell / f"seed-{record.seed}.json")
    for seed, (ours, rival) in enumerate([(25.0, 24.0), (26.0, 26.0)], 1):
        for cell, bleu in (("neuroprune-50", ours), ("dsp-50", rival)):
            metrics = {"names": ["bleu"], "dense": {"bleu": 30.0}, "pruned": {"bleu": bleu}}
            record = RunRecord(
                config={}, method=cell.split("-")[0], task="de", seed=seed, metrics=metrics
            )
            record.save(root / "de" / cell / f"seed-{seed}.json")
        cut = whole(seed, 0.9, [[0, 1], [0, 1, 2, 3]], [8, 8])  # the importances 3 and 4 are gone
        cut.save(root / "heads" / "dsp-heads6" / f"seed-{seed}.json")
    speeds = {
        "neuroprune, structural 0.5": {"times_dense": 0.637},
        "dense": {"seconds": 100.0},
        "cofi-80": {"seconds": 60.0, "zero": 0.0},
        "np-80": {"seconds": 40.0},
    }
    RunRecord(config={}, method="time", task="time", seed=0, metrics={}, speeds=speeds).save(
        root / "time" / "seed-0.json"
    )
    return root


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("accuracy sst2/neuroprune-50", "89.0"),  # 0.885, 0.89, 0.895
        ("accuracy~2 sst2/neuroprune-50", "89.00"),
        ("accuracy sst2/dense", "90.0"),  # 0.89, 0.90, 0.91
        # 0.885 / 0.89, 0.89 / 0.90, 0.895 / 0.91: mean 0.98890, sd 0.00547 over three
        ("kept sst2/neuroprune-50", "98.9 ± 0.3"),
        ("kept~0 sst2/neuroprune-50", "99"),
        # ours minus theirs: 0.035, 0.03, 0.025
        ("difference sst2/neuroprune-50 sst2/magnitude-units50", "3.0 ± 0.3"),
        ("difference sst2/dense sst2/neuroprune-50", "1.0 ± 0.3"),
        ("difference sst2/neuroprune-50 sst2/l1", "10.5 (1 pair)"),  # one seed in common
        ("speed-32 sst2/neuroprune-50", "1.90 ± 0.06"),  # 1.8, 1.9, 2.0
        ("time sst2/neuroprune-50", "0.80 ± 0.06"),  # 70, 80 and 90 s, dense 100
        ("importance heads/dsp-heads6", "0.93 ± 0.00"),  # 3.5, of a mean of 3.75
        ("least heads/dsp-heads6", "0.40 ± 0.00"),  # the importances 1 and 2
        ("bleu de/neuroprune-50", "25.5"),  # no percentage
        ("difference de/neuroprune-50 de/dsp-50", "0.5 ± 0.5 (2 pairs)"),
        ("measured time/neuroprune, structural 0.5/times_dense", "0.64"),
        ("measured~1 time/neuroprune, structural 0.5/times_dense", "0.6"),
        ("ratio 4*time/cofi-80/seconds time/np-80/seconds", "6.00"),
        ("ratio~1 4*time/cofi-80/seconds+time/dense/seconds time/np-80/seconds", "8.5"),
    ],
)
def test_a_number_is_that_of_the_records(results: Path, asked: str, text: str) -> None:
    assert render(_marked(asked, "0.0"), results) == _marked(asked, text)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("kept", "expected WHAT EXPERIMENT/SETTING, got 'kept'"),
        ("kept sst2/neuroprune-60", "no records of 'neuroprune-60' in 'sst2'"),
        ("kept mrpc/neuroprune-50", "no records under"),
        ("rouge1 sst2/neuroprune-50", "not every record has it"),
        ("importance sst2/neuroprune-50", "not every record has it"),
        ("least sst2/neuroprune-50", "not every record has it"),
        ("importance heads/dense", "not every record has it"),
        ("speed-64 sst2/neuroprune-50", "not every record has it"),
        ("speed-32 sst2/dense", "not every record has it"),
        ("difference sst2/neuroprune-50", "expected two cells of which one is subtracted"),
        ("difference sst2/neuroprune-50 de/dsp-50", "not every record has it"),
        ("measured time/dense/times_dense", "not every record has it"),
        ("measured time/dense, too/times_dense", "not every record has it"),
        ("kept time/.", "not every record has it"),
        ("ratio 4*time/cofi-80/seconds", "expected a sum such as"),
        ("ratio 4*time/cofi-80/seconds time/none/seconds", "not every record has it"),
        ("ratio 4*time/none/seconds time/np-80/seconds", "not every record has it"),
        ("ratio time/cofi-80/seconds+ time/np-80/seconds", "not every record has it"),
        ("ratio 4*time/cofi-80/seconds time/cofi-80/zero", "not every record has it"),
        ("accuracy time/seed-0", "no records of 'seed-0' in 'time'"),
    ],
)
def test_what_the_records_do_not_have_is_refused(results: Path, asked: str, said: str) -> None:
    with pytest.raises(TableError) as caught:
        render(_marked(asked), results)
    assert said in str(caught.value)


def test_a_marker_without_its_end_is_refused(results: Path) -> None:
    with pytest.raises(TableError, match="no <!-- /number --> right after it"):
        render("so <!-- number: kept sst2/neuroprune-50 -->98.9% is left", results)


def test_a_new_record_makes_the_number_stale(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    asked = "accuracy~2 sst2/neuroprune-50"
    document.write_text(_marked(asked))
    assert stale_tables(document, results) == [f"number: {asked}"]
    assert render_file(document, results) is True
    assert stale_tables(document, results) == []
    path = results / "sst2/neuroprune-50/seed-3.json"
    record = RunRecord.load(path)
    record.metrics["pruned"]["accuracy"] = 0.5
    record.save(path)
    assert stale_tables(document, results) == [f"number: {asked}"]
