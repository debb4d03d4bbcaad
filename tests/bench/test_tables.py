"""README tables: from records, between markers, and stale ones are noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroprune.bench.config import RunConfig
from neuroprune.bench.tables import TableError, render, render_file, stale_tables
from neuroprune.record import RecordError, RunRecord
from tests.report.records import experiment, made_up, save_experiment

MARKED = "before\n<!-- table:sst2 -->\n<!-- /table -->\nafter\n"


def _record(seed: int, accuracy: float, **changes: Any) -> RunRecord:
    sides = {
        "metrics": {"accuracy": 0.9},
        "sizes": {
            "weight_sparsity": 0.0,
            "structural_sparsity": 0.0,
            "parameters": 22_000_000,
            "bytes_on_disk": 90_000_000,
            "dense_weights": 10_616_832,
        },
        "speeds": {"1": {"median": 0.010}, "32": {"median": 0.2}},
        "training": {"seconds": 100.0},
    }
    small = {
        "metrics": {"accuracy": accuracy},
        "sizes": {
            "weight_sparsity": 0.5 + 0.1 * seed,
            "structural_sparsity": 0.25,
            "parameters": 15_000_000,
            "bytes_on_disk": 60_000_000,
            "dense_weights": 10_616_832,
        },
        "speeds": {"1": {"median": 0.005}, "32": {"median": 0.1}},
        "training": {"seconds": 110.0},
    }
    values: dict[str, Any] = {name: {"dense": sides[name], "pruned": small[name]} for name in sides}
    values["metrics"]["names"] = ["accuracy"]
    values["speeds"]["speedup"] = {"pruned": {"1": {"value": 2.0}, "32": {"value": 3.0}}}
    values |= {
        "config": {},
        "method": "neuroprune",
        "task": "sst2",
        "seed": seed,
        "environment": {
            "processor": "a processor",
            "threads": 2,
            "packages": {"torch": "2.13.0", "neuroprune": "0.1.0", "numpy": "2.4"},
        },
    }
    return RunRecord(**(values | changes))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    _record(1, 0.80).save(folder / "sst2/neuroprune-paper/seed-1.json")
    _record(2, 0.90).save(folder / "sst2/neuroprune-paper/seed-2.json")
    return folder


def test_mean_and_sample_deviation_over_seeds(results: Path) -> None:
    text = render(MARKED, results, "benchmarks/results")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][:3] == ["| run", "accuracy (%)", "weight sparsity (%)"]
    assert rows[2][:2] == ["| dense", "90.0 ± 0.0"]
    assert rows[3][:3] == ["| neuroprune-paper", "85.0 ± 7.1", "65.0 ± 7.1"]
    assert rows[3][3:] == [
        "25.0 ± 0.0",
        "15.00 ± 0.00",
        "60.0 ± 0.0",
        "2.00 ± 0.00",
        "3.00 ± 0.00",
        "-5.0 ± 5.0",
        "94.4 ± 5.6 |",
    ]


def test_caption_names_machine_threads_versions_denominator_and_source(results: Path) -> None:
    text = render(MARKED, results, "benchmarks/results")
    assert "Mean ± sd over seeds 1, 2. a processor, 2 threads; neuroprune 0.1.0, torch" in text
    assert "dense model's 10.62M weights of q, k, v, o, up, gate and down" in text
    assert "Records: `benchmarks/results/sst2/`." in text


def test_one_seed_has_no_deviation(results: Path) -> None:
    (results / "sst2/neuroprune-paper/seed-2.json").unlink()
    text = render(MARKED, results)
    assert "| neuroprune-paper | 80.0 | 60.0 |" in text
    assert "One run, seed 1." in text


def test_what_is_outside_the_markers_stays(results: Path) -> None:
    text = render(MARKED, results)
    assert text.startswith("before\n<!-- table:sst2 -->\n| run |")
    assert text.endswith("`.\n<!-- /table -->\nafter\n".replace("`.", "/`."))


def test_rendering_twice_changes_nothing(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(MARKED)
    assert stale_tables(document, results) == ["table:sst2"]
    assert render_file(document, results) is True
    assert stale_tables(document, results) == []
    assert render_file(document, results) is False


def test_a_new_record_makes_the_table_stale(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text(MARKED)
    render_file(document, results)
    _record(3, 0.5).save(results / "sst2/neuroprune-paper/seed-3.json")
    assert stale_tables(document, results) == ["table:sst2"]


def test_a_model_that_was_cut_before_is_not_called_dense(results: Path) -> None:
    for seed in (1, 2):
        path = results / f"sst2/neuroprune-paper/seed-{seed}.json"
        record = RunRecord.load(path)
        record.sizes["dense"]["structural_sparsity"] = 0.8
        record.save(path)
    text = render(MARKED, results)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][-2:] == ["difference to start (points)", "quality kept (% of start)"]
    assert rows[2][0] == "start"
    assert "accuracy against the start run (start: a model that was cut before" in text
    assert "dense run" not in text


def test_where_a_target_was_asked_for_the_columns_are_against_the_dense_run(
    results: Path,
) -> None:
    asked = {"method": {"name": "neuroprune", "target": ["structural:0.8"]}}
    for seed, accuracy, seconds in ((1, 0.81, 60.0), (2, 0.90, 80.0)):
        training = {"dense": {"seconds": 100.0}, "pruned": {"seconds": seconds}}
        record = _record(seed, accuracy, config=asked, training=training)
        record.save(results / f"sst2/target-80/seed-{seed}.json")
    text = render(MARKED, results)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][-1] == "quality kept (% of dense)"
    assert rows[2][-1] == "100"
    assert rows[3][0] == "neuroprune-paper"
    assert rows[3][-1] == "94.4 ± 5.6"
    assert rows[4][0] == "target-80"
    assert rows[4][-1] == "95.0 ± 5.0"
    assert len({len(row) for row in rows}) == 1
    assert "quality kept: accuracy against the dense run of the same seed" in text


def test_a_share_that_means_nothing_is_a_dash(results: Path) -> None:
    asked = {"method": {"name": "neuroprune", "target": ["structural:0.8"]}}
    metrics = {"names": ["matthews"], "dense": {"matthews": 0.0}, "pruned": {"matthews": 0.1}}
    record = _record(1, 0.0, config=asked, metrics=metrics, training={})
    record.save(results / "cola/target-80/seed-1.json")
    text = render("<!-- table:cola -->\n<!-- /table -->\n", results)
    assert text.count("| - |") >= 1


def test_a_measurement_has_one_row_per_entry(results: Path) -> None:
    record = RunRecord(
        config={},
        method="neuroprune",
        task="step_overhead",
        seed=0,
        speeds={"plain_step": {"median_ms": 10.0}, "import": {"loaded": "none"}},
        environment={"device": "a device", "threads": 1},
    )
    record.save(results / "step_overhead/minilm/seed-0.json")
    text = render("<!-- table:step_overhead -->\n<!-- /table -->\n", results)
    assert "| measured | median ms | loaded |" in text
    assert "| plain step | 10 | - |" in text
    assert "| import | - | none |" in text
    assert "a device, 1 thread. Records" in text


def test_a_marker_without_records_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no records under .*run `neuroprune bench run`"):
        render(MARKED, tmp_path)


def test_a_marker_without_an_end_is_named(results: Path) -> None:
    with pytest.raises(TableError, match="table:mrpc"):
        render(MARKED + "<!-- table:mrpc -->\n", results)


def test_a_damaged_record_is_named(results: Path) -> None:
    path = results / "sst2/neuroprune-paper/seed-1.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(RecordError, match=r"seed-1\.json"):
        render(MARKED, results)


def test_rows_that_lack_seeds_are_named(tmp_path: Path) -> None:
    """In the layout of a project: experiments beside results."""
    config = """
[model]
source = "some/model"
[task]
kind = "classification"
name = "sst2"
files = { train = "train.jsonl", validation = "dev.jsonl" }
"""
    for name in ("done", "begun", "waiting"):
        path = tmp_path / "experiments" / "sst2" / name / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text(f"seeds = [1, 2]\n{config}")
        for seed in {"done": (1, 2), "begun": (1,), "waiting": ()}[name]:
            made = RunConfig.load(path).with_seed(seed).to_dict()
            _record(seed, 0.8, config=made).save(
                tmp_path / "results" / "sst2" / name / f"seed-{seed}.json"
            )
    text = render(MARKED, tmp_path / "results")
    assert "begun has 1 of 2 seeds" in text
    assert "Not run yet: waiting." in text
    assert "done has" not in text


def test_a_seed_that_failed_in_every_row_is_named_without_a_matrix(results: Path) -> None:
    _record(1, 0.7).save(results / "sst2/l1-paper/seed-1.json")
    for row, seed in (("neuroprune-paper", 3), ("l1-paper", 3), ("late", 2)):
        failure = results / "sst2" / row / f"seed-{seed}.failed.txt"
        failure.parent.mkdir(exist_ok=True)
        failure.write_text("the loss became nan\nat step 7\n")
    text = render(MARKED, results)
    assert "neuroprune-paper has 2 of 3 seeds (3 failed: the loss became nan)" in text
    assert "l1-paper has 1 of 3 seeds (3 failed: the loss became nan)" in text
    assert "late has none of 3 seeds (2 failed: the loss became nan)" in text


def test_pairs_compare_with_every_method_at_equal_sparsity(tmp_path: Path) -> None:
    save_experiment(tmp_path)
    text = "<!-- pairs:sst2 -->\n<!-- /table -->\n"
    made = render(text, tmp_path)
    assert "| neuroprune-50 | l1-50 | 50% | +1.00 ± 0.00 | 3 | better |" in made
    assert "neuroprune is at least as good as the other method in 1 of 1 " in made
    assert "Compared with nothing, since NeuroPrune and the others have no settings of" in made
    assert "same seed: neuroprune-75, dsp-heads4." in made  # and in no row
    assert made.count("dsp") == made.count("neuroprune-75") == 1
    assert render(made, tmp_path) == made
    path = tmp_path / "README.md"
    path.write_text(made.replace("+1.00", "+9.00"))
    assert stale_tables(path, tmp_path) == ["pairs:sst2"]


def test_pairs_of_one_method_are_refused(tmp_path: Path) -> None:
    made_up(1, 0.8, 0.5, 2.0).save(tmp_path / "sst2/neuroprune-50/seed-1.json")
    with pytest.raises(TableError, match="no two methods at equal sparsity"):
        render("<!-- pairs:sst2 -->\n<!-- /table -->\n", tmp_path)


def save_groups(root: Path, groups: dict[str, list[RunRecord]]) -> None:
    for label, records in groups.items():
        for record in records:
            record.save(root / label / f"seed-{record.seed}.json")


OVERVIEW = "<!-- overview:tiny -->\n<!-- /table -->\n"


def test_an_overview_has_a_row_per_method_and_a_column_per_structural_sparsity(
    tmp_path: Path,
) -> None:
    groups = experiment()
    groups["magnitude-units80"] = groups["magnitude-units80"][:1]
    zeros = [made_up(seed, 0.8, 0.1, 1.0) for seed in (1, 2, 3)]  # a tenth is gone, not a half
    save_groups(tmp_path / "results/tiny", {**groups, "neuroprune-weights-50": zeros})
    text = render(OVERVIEW, tmp_path / "results")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == [
        "quality kept (% of dense)",
        "50% removed",
        "80% removed",
        "95% removed",
    ]
    kept = [100 * r.metrics["pruned"]["accuracy"] for r in groups["neuroprune-50"]]
    dense = [89.0, 90.0, 91.0]
    mean = sum(100 * k / d for k, d in zip(kept, dense, strict=True)) / 3
    assert [row[0] for row in rows[2:]] == ["neuroprune", "magnitude-units"]
    assert rows[2][1].startswith(f"{mean:.1f} ± ")
    assert rows[3][2] == f"{100 * 0.80 / 0.89:.1f} (1 run)"
    assert rows[3][3] == "-"
    assert "seeds 1, 2, 3. Dense: 90.0 ± 1.0% (sd)." in text
    assert "Not asked for such a size, and not here: neuroprune-weights-50; l1. " in text
    assert text.rstrip().endswith("/tiny/`.\n<!-- /table -->")


def test_an_overview_without_structural_sparsities_is_refused(tmp_path: Path) -> None:
    save_groups(tmp_path / "results/tiny", {"l1": experiment()["l1"]})
    with pytest.raises(TableError, match="such as neuroprune-80"):
        render(OVERVIEW, tmp_path / "results")
