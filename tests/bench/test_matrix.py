"""Matrices: cells, labels, errors; and the matrices that are committed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from neuroprune.bench.config import RunConfig
from neuroprune.bench.matrix import Matrix, is_matrix, plan
from neuroprune.bench.suite import seed_by_seed
from neuroprune.config import ConfigError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "matrices"
MATRICES = sorted(FOLDER.rglob("*.toml"))
PAPER = sorted((FOLDER / "paper").glob("*.toml"))
GLUE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
DECADES = {10.0**-power for power in range(1, 8)}


def _matrix(**methods: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "tiny",
        "seeds": [1, 2],
        "model": {"source": "some/model"},
        "task": {
            "kind": "classification",
            "name": "sst2",
            "files": {"train": "train.jsonl", "validation": "dev.jsonl"},
        },
        "methods": methods,
    }


def test_targets_and_grids_become_cells() -> None:
    matrix = Matrix.from_dict(
        _matrix(
            neuroprune={"name": "neuroprune", "targets": [0.5, "heads:4", "weights:0.8"]},
            paper={"name": "neuroprune", "grid": {"alpha": [0.1, 0.01], "beta": [1.0]}},
        )
    )
    assert set(matrix.cells) == {
        "neuroprune-50",
        "neuroprune-heads-4",
        "neuroprune-weights-80",
        "paper-alpha0.1",
        "paper-alpha0.01",
    }
    assert matrix.cells["paper-alpha0.01"].method.to_dict()["beta"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {}}, "did you mean 'methods'"),
        ({"methods": {"x": {"name": "nope"}}}, "nope"),
        ({"methods": {"x": {"name": "neuroprune", "targets": [1.5]}}}, "1.5"),
        ({"name": "a/b"}, "letters, digits"),
    ],
)
def test_wrong_matrices_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Matrix.from_dict(_matrix(neuroprune={"name": "neuroprune"}) | change)


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.stem)
def test_a_committed_matrix_expands(path: Path, tmp_path: Path) -> None:
    assert is_matrix(path)
    jobs = plan([path], tmp_path).jobs
    assert len({job.record for job in jobs}) == len(jobs) > 0
    order = [job.seed for job in seed_by_seed(jobs)]
    assert order == sorted(order)


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.stem)
def test_every_cell_of_a_committed_matrix_is_a_whole_experiment(path: Path) -> None:
    matrix = Matrix.load(path)
    for config in matrix.cells.values():
        assert RunConfig.from_dict(config.to_dict()) == config
        for files in (config.task.files or {}).values():
            for file in [files] if isinstance(files, str) else files:
                assert not Path(file).is_absolute()
                assert ".." not in Path(file).parts
    seeds = {seed for config in matrix.cells.values() for seed in config.seeds}
    for seed in seeds:  # the dense run is shared
        assert len({c.with_seed(seed).dense_digest for c in matrix.cells.values()}) == 1


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.stem)
def test_a_committed_matrix_states_its_number_of_cells(path: Path) -> None:
    comment = " ".join(re.findall(r"^# ?(.*)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert f" {len(Matrix.load(path).cells)} cell" in comment
    assert "--data-dir or $NEUROPRUNE_DATA" in comment


def test_no_two_matrices_write_the_same_records(tmp_path: Path) -> None:
    names = [Matrix.load(path).name for path in MATRICES]
    assert len(set(names)) == len(names)
    records = [job.record for job in plan([FOLDER], tmp_path).jobs]
    assert len(set(records)) == len(records)


def test_the_tasks_of_the_paper_have_their_matrices() -> None:
    by_name = {path.stem: Matrix.load(path) for path in PAPER}
    cells = {name: next(iter(matrix.cells.values())) for name, matrix in by_name.items()}
    for name in GLUE:
        assert cells[name].task.dataset == f"glue/{name}"
        assert cells[name].model.source == "google-bert/bert-base-uncased"
    assert {config.model.source for config in cells.values()} == {
        "google-bert/bert-base-uncased",
        "google-t5/t5-base",
        "google-t5/t5-large",
        "facebook/opt-125m",
        "facebook/opt-1.3b",
        "$NEUROPRUNE_MODELS/iwslt14-first",
    }
    assert {config.task.name for config in cells.values()} == GLUE | {
        "cnn_dailymail",
        "xsum",
        "scitldr",
        "iwslt14",
        "wikitext2",
    }


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_matrix_of_the_paper_has_its_grid_in_its_mode(path: Path) -> None:
    methods = [config.method.to_dict() for config in Matrix.load(path).cells.values()]
    found = [method for method in methods if "alpha" in method]
    values = {name: {method[name] for method in found} for name in ("alpha", "beta", "theta")}
    if path.stem == "iwslt14":
        assert values["alpha"] == {0.005, 0.05, 0.5}
        assert values["beta"] == {0.05, 0.1}
        assert (min(values["theta"]), max(values["theta"])) == (0.1, 0.4)
    else:
        assert sorted(values["alpha"]) == sorted(values["beta"]) == pytest.approx(sorted(DECADES))
        assert values["theta"] == {0.15, 0.25}
    assert len(found) == len(values["alpha"]) * len(values["beta"]) * len(values["theta"])
    assert {method["apply"] for method in found} == {"penalty"}
