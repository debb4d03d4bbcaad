"""Asking for a size on the command line: what the options mean, and one run from end to end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from neuroprune.cli.answers import answers
from neuroprune.cli.app import app
from neuroprune.cli.settings import Asked, load_config
from neuroprune.record import RunRecord
from tests.bench import tiny
from tests.cli.helpers import RUNNER

PAPER = {"name": "neuroprune", "alpha": 4.0, "beta": 4.0, "theta": 0.0, "apply": "prox"}
AIMED = {"name": "neuroprune", "target": ["structural:0.5"], "begin": 0.1, "snapshots": [0.3]}


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Path, str]:
    """The folder of a run that asked for 40%, and what it printed."""
    out = place / "run"
    arguments = ["train", "-c", place / "config.toml", "--out", out, "--data-dir", place]
    result = RUNNER.invoke(app, [*map(str, arguments), "--target", "0.4"])
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result.stdout


def test_a_target_is_reached_and_said(trained: tuple[Path, str]) -> None:
    out, text = trained
    record = RunRecord.load(out / "record.json")
    assert record.config["method"]["target"] == ["structural:0.4"]
    assert "alpha" not in record.config["method"]
    reached = record.sizes["pruned"]["structural_sparsity"]
    assert reached == pytest.approx(0.4, abs=0.05)
    assert f"asked: structural:0.4; reached {reached:.1%}" in text


def test_plot_of_a_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = RUNNER.invoke(app, ["plot", str(trained[0]), "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    files = [Path(file) for file in json.loads(result.stdout)["plots"]]
    assert [file.name for file in files if file.suffix == ".svg"] == [
        "run-sparsity.svg",
        "run-speed-batch-1.svg",
        "run-speed-batch-4.svg",
    ]
    assert all(file.stat().st_size > 1000 for file in files)


def test_plot_of_an_experiment(trained: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = RunRecord.load(trained[0] / "record.json")
    record.save(tmp_path / "results/tiny/target-40/seed-3.json")
    source = str(tmp_path / "results/tiny")
    arguments = ["plot", source, "--out", str(tmp_path / "plots"), "--batch", "4"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "tiny-speed-batch-4.svg" in result.stdout
    assert "target-40" in (tmp_path / "plots/tiny-speed-batch-4.svg").read_text()
    result = RUNNER.invoke(app, [*arguments, "--metric", "f1"])
    assert result.exit_code == 2
    assert "expected the metric 'f1'" in result.stderr


def test_plot_of_some_settings(trained: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = RunRecord.load(trained[0] / "record.json")
    for name in ("ours-40", "theirs-40"):
        record.save(tmp_path / f"results/tiny/{name}/seed-3.json")
    arguments = ["plot", str(tmp_path / "results/tiny"), "--out", str(tmp_path), "--batch", "4"]
    result = RUNNER.invoke(app, [*arguments, "--only", "our*"])
    assert result.exit_code == 0, result.output
    drawn = (tmp_path / "tiny-speed-batch-4.svg").read_text()
    assert "ours-40" in drawn and "theirs" not in drawn
    result = RUNNER.invoke(app, [*arguments, "--only", "mine"])
    assert result.exit_code == 2
    assert "--only mine: nothing is called so. There are: ours-40, theirs-40." in result.stderr
    snapshots = tmp_path / "snapshots.json"
    snapshots.write_text("{}")
    result = RUNNER.invoke(app, ["plot", str(snapshots), "--only", "a"])
    assert result.exit_code == 2
    assert "--only chooses among a folder's settings" in result.stderr


@pytest.mark.parametrize(
    ("asked", "old", "new"),
    [
        (Asked(), PAPER, PAPER),
        (Asked(), AIMED, AIMED),
        (Asked(target="0.8"), PAPER, {"name": "neuroprune", "target": ["0.8"]}),
        (
            Asked(target="flops:0.5", heads=3),
            {"name": "l1", "strength": 1.0},
            {"name": "neuroprune", "target": ["flops:0.5", "heads:3"]},
        ),
        (Asked(heads=0), PAPER, {"name": "neuroprune", "target": ["heads:0"]}),
        (Asked(target="0.8"), AIMED, AIMED | {"target": ["0.8"]}),
        (Asked(snapshots=""), AIMED, AIMED | {"snapshots": []}),
        (Asked(snapshots="0.2, 0.4,"), AIMED, AIMED | {"snapshots": [0.2, 0.4]}),
        (Asked(teacher="dense"), AIMED, AIMED | {"teacher": "dense"}),
        (Asked(uniform=False), AIMED, AIMED | {"uniform": False}),
        (
            Asked(target="0.8"),
            {"name": "magnitude", "target": 0.5},
            {"name": "neuroprune", "target": ["0.8"]},
        ),
    ],
)
def test_what_is_asked_for_replaces_the_method(
    asked: Asked, old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert asked.method(old) == new


def test_single_settings_come_last(place: Path) -> None:
    asked = Asked(target="0.8", snapshots="0.7,0.5", uniform=True)
    config = load_config(place / "config.toml", settings=["method.end=0.7"], asked=asked)
    method = config.to_dict()["method"]
    assert (method["end"], method["snapshots"], method["uniform"]) == (0.7, [0.5, 0.7], True)
    assert method["target"] == ["structural:0.8"]


@pytest.mark.parametrize(
    ("settings", "span"),
    [
        ([], (0.3, 0.85)),
        (["method.end=0.6"], (0.3, 0.6)),
        (["method.begin=0.05"], (0.05, 0.85)),
        (["method.snapshots=[]"], (0.05, 0.4)),
    ],
)
def test_snapshots_bring_their_span(
    place: Path, settings: list[str], span: tuple[float, float]
) -> None:
    asked = Asked(target="0.8", snapshots="0.5")
    assert load_config(place / "config.toml", settings=settings, asked=asked).method.span == span
    config = load_config(place / "config.toml", asked=Asked(target="0.8"))
    assert config.method.span == (0.05, 0.4)


def test_bench_names_the_records_by_what_was_asked_for(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "experiments/tiny"
    for name in ("neuroprune-prox", "other"):
        tiny.write_config(folder / name / "config.toml", place / "model")
    options = ["bench", "run", str(folder), "--target", "latency:0.5@8x16", "--dry-run", "--json"]
    result = RUNNER.invoke(app, options)
    assert json.loads(result.stdout)["would_run"] == ["tiny/neuroprune-latency-0.5-8x16, seed 3"]
    tiny.write_config(
        folder / "other/config.toml", place / "model", epochs=("epochs = 2", "epochs = 5")
    )
    result = RUNNER.invoke(app, options)
    assert result.exit_code == 2
    assert "another one of the same task differs" in result.stderr


def _record(target: list[str], **training: Any) -> RunRecord:
    return RunRecord(
        config={"method": {"name": "neuroprune", "target": target}, "evaluation": {}},
        method="neuroprune",
        task="t",
        seed=0,
        sizes={
            "dense": {"flops": 200},
            "pruned": {
                "flops": 50,
                "parameters": 5_000_123,
                "structural_sparsity": 0.8,
                "weight_sparsity": 0.9,
            },
        },
        speeds={
            "dense": {"1": {"tokens": 64}, "32": {"tokens": 64}},
            "speedup": {"pruned": {"1": {"value": 2.0}, "32": {"value": 4.0}}},
        },
        training={"pruned": {"removed_heads": 40, **training}},
    )


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("structural:0.8", "reached 80.0%"),
        ("weights:0.9", "reached 90.0%"),
        ("parameters:5000000", "reached 5,000,123"),
        ("flops:0.25@1x128", "reached 25.0% at batch 1"),
        ("latency:0.3@30x128", "reached 25.0% at 32x64"),
        ("heads:24", "removed 40"),
    ],
)
def test_every_target_has_an_answer(target: str, answer: str) -> None:
    assert answers(_record([target])) == [(target, answer)]


def test_the_trainings_own_figure_is_preferred() -> None:
    record = _record(
        ["structural:0.8", "heads:24"], reached={"structural:0.8": 0.81, "heads:24": 24}
    )
    assert [answer for _, answer in answers(record)] == ["reached 81.0%", "reached 24"]


def test_a_time_is_what_was_planned_and_what_the_clock_says() -> None:
    record = _record(["latency:0.3@1x64"], reached={"latency:0.3@1x64": 0.3})
    assert [answer for _, answer in answers(record)] == ["planned 30.0%, measured 50.0% at 1x64"]
    bare = dataclasses.replace(record, speeds={})
    assert [answer for _, answer in answers(bare)] == ["planned 30.0%, not measured"]


def test_what_was_not_measured_is_said() -> None:
    record = _record(["latency:0.3@1x128"])
    bare = RunRecord(config=record.config, method="neuroprune", task="t", seed=0)
    assert answers(bare) == [("latency:0.3@1x128", "not measured")]
    dense = RunRecord(config={"method": {"name": "l1"}}, method="l1", task="t", seed=0)
    assert answers(dense) == []


def test_a_rivals_target_has_an_answer_too() -> None:
    for target, found in (["structural:0.8"], [("structural:0.8", "reached 80.0%")]), (0.8, []):
        config = {"method": {"name": "movement", "target": target}}
        record = dataclasses.replace(_record([]), config=config, method="movement")
        assert answers(record) == found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--target", "parameters:5"), "cannot be reached"),
        (("--heads", "999"), "cannot be reached"),
        (("--target", "0.5", "--snapshots", "0.1,0.2,0.3,0.4"), "snapshots need"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_anything_is_trained(
    asked: tuple[str, ...], message: str, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["train", "-c", place / "config.toml", "--out", out, "--data-dir", place]
    result = RUNNER.invoke(app, [*map(str, arguments), *asked])
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in result.stderr
    assert "training:" not in result.output
    assert not (out / "dense").exists() and not (out / "pruned").exists()
