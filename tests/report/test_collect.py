"""What is below a results folder: nothing twice, nothing mixed up, nothing lost in silence."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from neuroprune.record import RunRecord
from neuroprune.report.collect import collect
from neuroprune.report.figure import ReportError
from neuroprune.report.numbers import number_of
from neuroprune.report.runs import lacking, series_and_setting
from tests.report.records import made_up, whole

REPOSITORY = Path(__file__).parents[2]


def with_config(record: RunRecord, **tables: Any) -> RunRecord:
    return dataclasses.replace(record, config={**record.config, **tables})


def save(root: Path, cells: dict[str, RunRecord]) -> None:
    for place, record in cells.items():
        record.save(root / f"{place}/seed-{record.seed}.json")


def labels(root: Path) -> dict[str, list[str]]:
    return {e.name: [c.label for c in e.cells] for e in collect(root).experiments}


@pytest.mark.parametrize(
    ("below", "cells"),
    [
        ("results", ["neuroprune-50", "l1"]),
        ("results/sst2", ["neuroprune-50", "l1"]),
        ("results/sst2/l1", ["l1"]),
    ],
)
def test_a_folder_of_experiments_an_experiment_or_a_cell(
    tmp_path: Path, below: str, cells: list[str]
) -> None:
    save(
        tmp_path / "results",
        {
            "sst2/neuroprune-50": made_up(1, 0.8, 0.5, 2.0),
            "sst2/l1": made_up(1, 0.7, 0.5, 1.0, "l1"),
        },
    )
    assert labels(tmp_path / below) == {"sst2": cells}
    names = [run.name for run in collect(tmp_path / below).runs]
    assert names == [f"sst2/{cell}/seed-1.json" for cell in cells]


def test_a_cell_may_lie_deeper(tmp_path: Path) -> None:
    save(tmp_path, {"sst2/l1/strong": made_up(1, 0.7, 0.5, 1.0, "l1")})
    assert labels(tmp_path) == {"sst2": ["l1/strong"]}


def test_the_folder_of_a_training_is_one_cell(tmp_path: Path) -> None:
    made_up(3, 0.8, 0.5, 2.0).save(tmp_path / "runs/demo/record.json")
    (tmp_path / "runs/demo/pruned").mkdir()
    (tmp_path / "runs/demo/pruned/config.json").write_text("{}")  # of the model
    assert labels(tmp_path / "runs/demo") == {"runs": ["demo"]}


def test_our_method_comes_first_then_others_by_what_they_reached(tmp_path: Path) -> None:
    save(
        tmp_path,
        {
            "t/cofi-9": made_up(1, 0.8, 0.5, 2.0, "cofi"),
            "t/cofi-10": made_up(1, 0.8, 0.2, 2.0, "cofi"),
            "t/neuroprune": made_up(1, 0.8, 0.5, 2.0),
        },
    )
    (found,) = collect(tmp_path).experiments
    assert [cell.label for cell in found.cells] == ["neuroprune", "cofi-10", "cofi-9"]
    assert list(found.series) == ["neuroprune", "cofi"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("neuroprune-80", ("neuroprune", "80")),
        ("dsp-heads4", ("dsp-heads", "4")),
        ("prox@0.5", ("prox", "0.5")),
        ("l1", ("l1", "")),
        ("l1-95", ("l1", "95")),
        ("80", ("80", "")),
        ("l1/strong", ("l1/strong", "")),
        ("l1/80", ("l1", "80")),
        ("l1-strength1e-07", ("l1-strength", "1e-07")),
        ("neuroprune-50-heads-36", ("neuroprune-50-heads", "36")),
        (
            "neuroprune-alpha1e-05-beta0.01-theta0.15",
            ("neuroprune", "alpha1e-05-beta0.01-theta0.15"),
        ),
    ],
)
def test_a_number_at_the_end_is_a_setting(label: str, expected: tuple[str, str]) -> None:
    assert series_and_setting(label) == expected


def test_a_line_of_a_plot_shows_one_method_only(tmp_path: Path) -> None:
    save(
        tmp_path,
        {
            "t/run1": made_up(1, 0.8, 0.5, 2.0),
            "t/run2": made_up(1, 0.8, 0.5, 2.0, "l1"),
            "t/run3": made_up(1, 0.8, 0.5, 2.0, "l1"),
        },
    )
    (found,) = collect(tmp_path).experiments
    assert {name: [c.label for c in cells] for name, cells in found.series.items()} == {
        "run (neuroprune)": ["run1"],
        "run (l1)": ["run2", "run3"],
    }


def test_dense_runs_of_another_configuration_are_an_experiment_of_their_own(
    tmp_path: Path,
) -> None:
    first = with_config(made_up(1, 0.8, 0.5, 2.0), training={"epochs": 1, "seed": 1})
    again = with_config(made_up(2, 0.8, 0.5, 2.0), training={"epochs": 1, "seed": 2})
    longer = with_config(made_up(3, 0.8, 0.5, 2.0), training={"epochs": 5, "seed": 3})
    other = dataclasses.replace(longer, task="rte", seed=4)
    for record in (first, again, longer, other):
        save(tmp_path, {"t/ours": record})
    found = collect(tmp_path)
    names = {e.name: [run.record.seed for run in e.runs] for e in found.experiments}
    assert names == {"t, sst2": [1, 2], "t, sst2 (2)": [3], "t, rte": [4]}
    (note,) = found.notes
    assert note.startswith(
        "t: its dense runs have 3 configurations, which differ in task, training"
    )
    assert "training.epochs" in note
    assert "training.seed" not in note
    assert len({e.slug for e in found.experiments}) == 3


def test_a_seed_counts_once(tmp_path: Path) -> None:
    made_up(1, 0.8, 0.5, 2.0).save(tmp_path / "t/ours/seed-1.json")
    made_up(1, 0.7, 0.5, 2.0).save(tmp_path / "t/ours/copy.json")
    with pytest.raises(ReportError, match=r"copy\.json and .*seed-1\.json are both of seed 1"):
        collect(tmp_path)


def test_one_dense_run_has_one_result(tmp_path: Path) -> None:
    record = made_up(1, 0.7, 0.5, 1.0, "l1")
    metrics = {**record.metrics, "dense": {"accuracy": 0.5}}
    save(
        tmp_path,
        {"t/a": made_up(1, 0.8, 0.5, 2.0), "t/b": dataclasses.replace(record, metrics=metrics)},
    )
    with pytest.raises(ReportError, match=r"different dense runs of seed 1 with one configuration"):
        collect(tmp_path)


def test_models_of_another_shape_are_refused(tmp_path: Path) -> None:
    save(
        tmp_path,
        {"t/a": whole(1, 0.8, [[0], [1]], [4, 4]), "t/b": whole(1, 0.7, [[0]], [4], "l1")},
    )
    with pytest.raises(ReportError, match=r"dense models of different shape: one of them"):
        collect(tmp_path)


def test_a_cell_is_of_one_method(tmp_path: Path) -> None:
    save(tmp_path, {"t/a": made_up(1, 0.8, 0.5, 2.0)})
    save(tmp_path, {"t/a": made_up(2, 0.8, 0.5, 2.0, "l1")})
    with pytest.raises(ReportError, match=r"seed-1\.json is of the method neuroprune and .* of l1"):
        collect(tmp_path)


def test_a_cell_of_two_settings_is_named(tmp_path: Path) -> None:
    for seed in (1, 2):
        method = {"name": "neuroprune", "alpha": 1.0 * seed}
        save(tmp_path, {"t/ours": with_config(made_up(seed, 0.8, 0.5, 2.0), method=method)})
    (note,) = collect(tmp_path).notes
    assert note.startswith("t: the runs of ours differ in method.alpha, not in their seed only")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"config": {"evaluation": {"speed_tokens": 64}}}, "evaluation"),
        ({"environment": {"processor": "another"}}, "environment.processor"),
        ({"environment": {"packages": {"torch": "2.9"}}}, "environment.packages.torch"),
    ],
)
def test_runs_that_were_measured_otherwise_are_named(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    first, second = (made_up(seed, 0.8, 0.5, 2.0) for seed in (1, 2))
    if "config" in changes:
        changes = {"config": {**second.config, **changes["config"]}}
    save(tmp_path, {"t/ours": first})
    save(tmp_path, {"t/ours": dataclasses.replace(second, **changes)})
    (note,) = collect(tmp_path).notes
    assert note.startswith(f"t: the runs of ours differ in {name}, not in their seed only")


def test_a_setting_younger_than_a_record_counts_as_what_it_was_then(tmp_path: Path) -> None:
    for seed, given in ((1, {}), (2, {"lr_growth": 0.0})):
        method = {"name": "neuroprune", **given}
        save(tmp_path, {"t/ours": with_config(made_up(seed, 0.8, 0.5, 2.0), method=method)})
    assert collect(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record_version": 99}, "expected a RunRecord of version 1, got 99"),
        ({"surprise": 1}, "a RunRecord has the keys"),
        ({"seed": "one"}, "expected an integer as seed, got 'one'"),
        ({"method": None}, "expected a name as method, got None"),
        ({"metrics": [0.8]}, r"expected an object as metrics, got \[0.8\]"),
        ({"metrics": {"dense": 0.9, "pruned": {}}}, "expected an object as metrics.dense, got 0.9"),
        ({"training": {"pruned": 3}}, "expected an object as training.pruned, got 3"),
        ({"training": {"dense": {"pace": None}}}, "times above 0 as training.dense.pace, got None"),
        ({"training": {"pruned": {"pace": [1.0, 0.0]}}}, r"training.pruned.pace, got \[1.0, 0.0\]"),
        ({"speeds": {"dense": None}}, "expected an object as speeds.dense, got None"),
        ({"sizes": {"dense": None}}, "expected an object as sizes.dense, got None"),
        ({"environment": {"packages": []}}, r"an object as environment.packages, got \[\]"),
        ({"metrics": {"names": 5}}, "expected names as metrics.names, got 5"),
        ({"speeds": {"dense": {"big": {}}}}, "expected batch sizes in speeds.dense, got 'big'"),
    ],
)
def test_a_file_that_is_no_record_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    data = made_up(1, 0.8, 0.5, 2.0).to_dict() | change
    (tmp_path / "t/ours").mkdir(parents=True)
    (tmp_path / "t/ours/seed-1.json").write_text(json.dumps(data))
    with pytest.raises(ReportError, match=message) as caught:
        collect(tmp_path)
    assert str(tmp_path / "t/ours/seed-1.json") in str(caught.value)
    assert "A results folder holds records and nothing else" in str(caught.value)


def _measurement() -> RunRecord:
    return RunRecord(config={}, method="neuroprune", task="speed", seed=0)


def test_measurements_failures_and_halves_are_kept_apart(tmp_path: Path) -> None:
    half = made_up(2, 0.8, 0.5, 2.0)
    half = dataclasses.replace(half, metrics={"names": ["accuracy"], "dense": {"accuracy": 0.9}})
    save(
        tmp_path,
        {"t/ours": made_up(1, 0.8, 0.5, 2.0), "t/half": half, "speed/cpu": _measurement()},
    )
    (tmp_path / "t/ours/seed-2.failed.txt").write_text("\nthe loss became nan\nat step 3\n")
    (tmp_path / "t/ours/seed-3.failed.txt").write_bytes(b"\xff\n")
    (tmp_path / "t/ours/seed-4.failed.txt").touch()
    found = collect(tmp_path)
    assert [run.record.seed for run in found.runs] == [1]
    assert found.measurements == ("speed/cpu/seed-0.json",)
    assert found.failures == (
        ("t/ours/seed-2.failed.txt", "the loss became nan"),
        ("t/ours/seed-3.failed.txt", "\N{REPLACEMENT CHARACTER}"),
        ("t/ours/seed-4.failed.txt", "no reason given"),
    )
    assert found.notes == (
        "t/half/seed-2.json has the quality of the dense model alone: not shown.",
    )


def test_a_folder_without_a_training_says_what_it_has(tmp_path: Path) -> None:
    save(tmp_path, {"speed/cpu": _measurement()})
    (tmp_path / "t/ours").mkdir(parents=True)
    (tmp_path / "t/ours/seed-1.failed.txt").write_text("the disk is full")
    with pytest.raises(ReportError) as caught:
        collect(tmp_path)
    said = str(caught.value)
    assert "records of speed or size alone: 1" in said
    assert "1 run failed, t/ours/seed-1.failed.txt: the disk is full" in said


def test_experiments_have_names_of_their_own_in_files_and_links(tmp_path: Path) -> None:
    names = ["a b", "a-b", "A?b", "summary", "***", "größe"]
    for name in names:
        save(tmp_path, {f"{name}/ours": made_up(1, 0.8, 0.5, 2.0)})
    found = {e.name: e.slug for e in collect(tmp_path).experiments}
    assert set(found) == set(names)
    assert len({slug.casefold() for slug in found.values()}) == len(names)
    assert found["summary"] == "summary-2"  # the page has a part of that name
    assert found["***"] == "x"
    assert found["größe"] == "größe"
    assert not any(set(slug) & set(" ?*#%/") for slug in found.values())


def test_cells_with_fewer_seeds_than_others_are_named(tmp_path: Path) -> None:
    for seed in (1, 2, 5):
        save(tmp_path, {"t/ours": made_up(seed, 0.8, 0.5, 2.0)})
    save(tmp_path, {"t/l1": made_up(2, 0.8, 0.5, 2.0, "l1")})
    (found,) = collect(tmp_path).experiments
    assert lacking(found) == ["l1 has 1 of 3 seeds, not 1, 5."]


def test_a_number_that_is_none_counts_as_missing() -> None:
    record = made_up(1, math.nan, 0.5, math.inf)
    assert number_of(record, "metrics", "pruned", "accuracy") is None
    assert number_of(record, "speeds", "speedup", "pruned", "32", "value") is None
    assert number_of(record, "metrics", "dense", "accuracy") == 0.89


def test_every_record_of_this_repository_is_shown_or_named() -> None:
    results = REPOSITORY / "benchmarks/results"
    found = collect(results)
    assert len(found.runs) + len(found.measurements) == len(list(results.rglob("*.json")))
    rest = [note for note in found.notes if "loaded again" not in note]
    assert rest == []
    told = {note.partition(":")[0] for note in found.notes}
    assert told == {"mrpc-target", "sst2-target"}  # trained in bfloat16
    assert all("in bf16" in note for note in found.notes)
    assert len({run.path for run in found.runs}) == len(found.runs)


@pytest.mark.parametrize(
    ("precision", "why"), [("bf16", "trained and measured there in bf16"), (None, "a defect")]
)
def test_models_that_change_when_saved_are_named(
    tmp_path: Path, precision: str | None, why: str
) -> None:
    training = {"precision": precision} if precision else {}
    for seed, matches in ((1, True), (2, False)):
        record = made_up(seed, 0.8, 0.5, 2.0)
        record.metrics["reload_matches"] = matches
        record.config["training"] = training
        record.save(tmp_path / "sst2/neuroprune-50" / f"seed-{seed}.json")
    (note,) = collect(tmp_path).notes
    assert note.startswith("sst2: loaded again, 1 of 2 models of neuroprune-50 measured otherwise")
    assert why in note


def test_records_of_bench_beside_one_of_train_are_read_too(tmp_path: Path) -> None:
    made_up(1, 0.8, 0.5, 2.0).save(tmp_path / "record.json")
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned/config.json").write_text("{}")  # of the model that `train` left
    made_up(2, 0.8, 0.5, 2.0).save(tmp_path / "sst2/neuroprune-80/seed-2.json")
    assert len(collect(tmp_path).runs) == 2
