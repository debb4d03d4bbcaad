"""The script that lets trainings take turns: every method reaches its target, and is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.training_time import measure

from neuroprune.bench.config import RunConfig
from neuroprune.config import method_config


def test_methods_take_turns_and_reach_their_targets(tmp_path: Path) -> None:
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
    config = RunConfig.from_dict(
        {
            "model": {"scratch": scratch},
            "task": {
                "kind": "classification",
                "name": "words",
                "files": {"train": "train.jsonl", "test": "test.jsonl"},
                "eval_split": "test",
            },
            "training": {"batch_size": 4},
        }
    )
    methods = {
        f"{name}, structural 0.5": method_config(name, {"target": 0.5})
        for name in ("neuroprune", "cofi", "movement")
    }
    record = measure(config, tmp_path, methods, steps=12)
    assert list(record.speeds) == ["dense", *methods]
    for name in methods:
        entry = record.speeds[name]
        assert entry["reached"] == pytest.approx(0.5, abs=0.05), name
        assert entry["times_dense"] == pytest.approx(
            entry["seconds"] / record.speeds["dense"]["seconds"]
        )
        assert 0.0 < entry["method_share"] < 1.0
