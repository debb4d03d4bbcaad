"""The script that lets trainings take turns: every method reaches its target, and is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.training_time import measure

from neuroprune.bench.config import RunConfig
from neuroprune.bench.training import taught_by_start
from neuroprune.config import ConfigError, method_config


def words(tmp_path: Path, **training: object) -> RunConfig:
    rows = [{"text": f"word{i % 3} word{i % 5}", "label": i % 2} for i in range(32)]
    for name in ("train", "test"):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    scratch = {
        "model_type": "bert",
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    return RunConfig.from_dict(
        {
            "model": {"scratch": scratch},
            "task": {
                "kind": "classification",
                "name": "words",
                "files": {"train": "train.jsonl", "test": "test.jsonl"},
                "eval_split": "test",
            },
            "training": {"batch_size": 4, **training},
        }
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_methods_take_turns_and_reach_their_targets(tmp_path: Path, grouped: bool) -> None:
    methods = {n: method_config(n, {"target": 0.5}) for n in ("neuroprune", "cofi", "movement")}
    distilled = method_config("cofi", {"target": 0.5, "teacher": "finetuned"})
    methods["cofi-distilled"] = taught_by_start(distilled)
    record = measure(words(tmp_path, group_by_length=grouped), tmp_path, methods, steps=12)
    assert list(record.speeds) == ["dense", *methods]
    for name in methods:
        entry = record.speeds[name]
        assert entry["reached"] == pytest.approx(0.5, abs=0.05), name
        assert entry["times_dense"] == pytest.approx(
            entry["seconds"] / record.speeds["dense"]["seconds"]
        )
        assert 0.0 < entry["method_share"] < 1.0
    assert "method" not in record.config
    assert record.config["trainings"]["cofi-distilled"]["teacher"] == "dense"


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take turns in fp32, the matrix has bf16"):
        measure(words(tmp_path, precision="bf16"), tmp_path, {}, steps=1)
