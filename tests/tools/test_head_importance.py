"""The script that completes older records: they become what a new run would have written."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
from benchmarks.head_importance import add

from neuroprune.bench import runner
from neuroprune.bench.config import RunConfig
from neuroprune.record import RunRecord
from tests.bench import tiny


def test_an_older_record_becomes_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "evaluate_fresh", tiny.evaluate_here)
    tiny.write_data(tmp_path)
    tiny.write_model(tmp_path / "model")
    config = RunConfig.load(tiny.write_config(tmp_path / "config.toml", tmp_path / "model"))
    training = dataclasses.replace(config.training, max_steps=2)
    config = dataclasses.replace(config, training=training).with_seed(1)
    kept = tmp_path / "work/dense"
    new = runner.run(config, tmp_path / "out", tmp_path, dense=kept / config.dense_digest)
    old = RunRecord.from_dict(copy.deepcopy(new.to_dict()))
    for block in old.structure["dense"]["blocks"]:
        block.pop("importance", None)
    other = dataclasses.replace(old, metrics={**old.metrics, "dense": {"accuracy": 0.123}})
    first, second = tmp_path / "r/a/seed-1.json", tmp_path / "r/b/seed-1.json"
    old.save(first)
    other.save(second)
    said = add(tmp_path / "r", kept, tmp_path)
    assert said == [
        f"{first}: done",
        f"{second}: its dense model is not in {kept}/{config.dense_digest}",
    ]
    assert RunRecord.load(first) == new
    assert RunRecord.load(second) == other
    assert add(tmp_path / "r/a", kept, tmp_path) == []
