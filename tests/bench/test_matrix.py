"""Matrices: cells, labels, errors; and the matrices that are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroprune.bench.matrix import Matrix, is_matrix, plan
from neuroprune.bench.suite import seed_by_seed
from neuroprune.config import ConfigError

MATRICES = sorted((Path(__file__).parents[2] / "benchmarks" / "matrices").rglob("*.toml"))


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
