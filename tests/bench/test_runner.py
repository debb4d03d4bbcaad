"""Training and runner: same data for both sides, failures that keep what there was, all kinds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import neuroprune
from neuroprune import L1, CoFi, Magnitude, NeuroPrune
from neuroprune.anatomy import anatomy_of
from neuroprune.bench import runner
from neuroprune.bench.config import RunConfig, TrainingConfig
from neuroprune.bench.progress import Progress
from neuroprune.bench.runner import RunError, evaluate_fresh, run, same
from neuroprune.bench.training import PARTS, fine_tune, pace, rehearse
from neuroprune.config import ConfigError
from neuroprune.evaluation.quality import EvaluationError
from neuroprune.tasks.data import TaskData
from neuroprune.tasks.models import load_model_and_tokenizer
from neuroprune.tasks.preparation import load_task
from tests.bench import tiny

NOTHING = NeuroPrune(alpha=0.0, beta=0.0, theta=0.0, eps=0.0, apply="prox")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    tiny.write_data(folder)
    tiny.write_model(folder / "model")
    return folder


@pytest.fixture
def config(place: Path, tmp_path: Path) -> RunConfig:
    return RunConfig.load(tiny.write_config(tmp_path / "config.toml", place / "model"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fresh process takes seconds to start; one test elsewhere uses it."""
    monkeypatch.setattr(runner, "evaluate_fresh", tiny.evaluate_here)
    yield


def _start(config: RunConfig, place: Path) -> tuple[Any, TaskData]:
    model, tokenizer = load_model_and_tokenizer(
        config.model.origin(config.training.seed),
        config.task,
        num_labels=2,
        seed=config.training.seed,
    )
    return model, load_task(config.task, tokenizer, place)


def _trained(
    config: RunConfig, place: Path, keep: Path, method: Any = None, **settings: Any
) -> dict[str, torch.Tensor]:
    model, data = _start(config, place)
    training = replace(config.training, **settings)
    fine_tune(model, data.train, data.collator, training, keep, method)
    return model.state_dict()


@pytest.mark.parametrize("grouped", [False, True])
def test_both_sides_see_the_same_weights_batches_and_dropout(
    config: RunConfig, place: Path, tmp_path: Path, grouped: bool
) -> None:
    settings = {"group_by_length": grouped}
    dense = _trained(config, place, tmp_path / "k", None, **settings)
    attached = _trained(config, place, tmp_path / "k", NOTHING, **settings)
    assert dense.keys() == attached.keys()
    for name, weight in dense.items():
        assert torch.equal(weight, attached[name]), name
    other = _trained(config, place, tmp_path / "k", NOTHING, seed=4, **settings)
    assert any(not torch.equal(dense[name], other[name]) for name in dense)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
@pytest.mark.parametrize(
    "method", [NeuroPrune(alpha=20.0, apply="prox"), L1(), Magnitude(structure="units")]
)
def test_every_optimizer_and_method_trains(
    config: RunConfig, place: Path, tmp_path: Path, optimizer: str, method: Any
) -> None:
    model, data = _start(config, place)
    steps: list[tuple[int, int]] = []
    training = replace(config.training, optimizer=optimizer, gradient_accumulation=2)
    result = fine_tune(
        model,
        data.train,
        data.collator,
        training,
        tmp_path / "keep",
        method,
        lambda done, total, loss: steps.append((done, total)),
    )
    assert result.steps == 6  # 48 rows, batches of 8, two a step, two epochs
    assert steps == [(i, 6) for i in range(1, 7)]
    assert result.removed is not None
    assert 0.0 < result.step_seconds < result.seconds
    assert len(result.pace) == min(PARTS, result.steps)
    assert result.to_dict()["pace"] == list(result.pace)
    assert not (tmp_path / "keep").exists()
    if isinstance(method, Magnitude):
        assert result.to_dict()["removed_neurons"] > 0


def test_accumulated_batches_are_one_large_batch(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    weights, losses = [], []
    for batch, accumulation in ((16, 1), (8, 2)):
        model, data = _start(config, place)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        training = replace(
            config.training,
            batch_size=batch,
            gradient_accumulation=accumulation,
            optimizer="sgd",
            learning_rate=1.0,
            warmup_ratio=0.0,
            max_grad_norm=0.0,
            max_steps=1,
        )
        result = fine_tune(model, data.train, data.collator, training, tmp_path / "keep")
        weights.append(model.state_dict())
        losses.append(result.first_loss)
    assert losses[0] == pytest.approx(0.69, abs=0.1)
    for name, weight in weights[0].items():
        torch.testing.assert_close(
            weight, weights[1][name], msg=lambda text, n=name: f"{n}: {text}"
        )


def test_bf16_and_clipping_off(config: RunConfig, place: Path, tmp_path: Path) -> None:
    weights = _trained(
        config, place, tmp_path / "k", NOTHING, precision="bf16", max_grad_norm=0.0, max_steps=2
    )
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {
        torch.float32
    }


def test_fp16_without_a_device(config: RunConfig, place: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match='use "bf16" or "fp32"'):
        _trained(config, place, tmp_path / "k", precision="fp16")


def _spoil(model: Any, at_call: int, spoil_weights: bool) -> None:
    """Make the loss NaN at a forward pass, on request by way of the weights."""
    calls = 0

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            output.loss = output.loss * float("nan")
            if spoil_weights:
                with torch.no_grad():
                    model.classifier.bias.fill_(float("nan"))
        return output

    model.register_forward_hook(hook)


def test_nan_keeps_the_weights_of_the_step_before(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    model, data = _start(config, place)
    _spoil(model, 5, spoil_weights=False)
    with pytest.raises(RunError, match=r"nan at step 5; .* Lower the learning rate .*keep\."):
        fine_tune(
            model, data.train, data.collator, config.training, tmp_path / "keep", config.method
        )
    kept = neuroprune.from_pretrained(tmp_path / "keep")
    other, data = _start(config, place)
    training = replace(config.training, max_steps=12)
    _spoil(other, 5, spoil_weights=False)
    with pytest.raises(RunError):
        fine_tune(other, data.train, data.collator, training, tmp_path / "k2", config.method)
    for name, weight in kept.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    assert all(bool(torch.isfinite(weight).all()) for weight in kept.state_dict().values())


def test_nan_weights_leave_the_last_epoch(config: RunConfig, place: Path, tmp_path: Path) -> None:
    model, data = _start(config, place)
    _spoil(model, 9, spoil_weights=True)  # epochs have six steps
    with pytest.raises(RunError, match=r"model of the last completed epoch is saved in .*keep"):
        fine_tune(
            model, data.train, data.collator, config.training, tmp_path / "keep", config.method
        )
    kept = neuroprune.from_pretrained(tmp_path / "keep")
    assert all(bool(torch.isfinite(weight).all()) for weight in kept.state_dict().values())


def test_nan_weights_in_the_first_epoch(config: RunConfig, place: Path, tmp_path: Path) -> None:
    model, data = _start(config, place)
    _spoil(model, 2, spoil_weights=True)
    with pytest.raises(RunError, match="No epoch was completed"):
        fine_tune(model, data.train, data.collator, config.training, tmp_path / "keep")
    assert not (tmp_path / "keep").exists()


def test_a_model_that_cannot_be_measured_is_a_failed_run(
    config: RunConfig, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(*args: Any, **kwargs: Any) -> None:
        raise EvaluationError("the model's outputs are not finite")

    monkeypatch.setattr(runner, "evaluate", diverged)
    with pytest.raises(RunError, match="not finite"):
        run(config.with_seed(0), tmp_path / "out", place)


def test_a_fresh_process_that_fails_says_why(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"fresh process: .*there is no directory"):
        evaluate_fresh(config, {"pruned": tmp_path / "no" / "such" / "model"}, place)


def test_a_task_without_training_data(config: RunConfig, place: Path, tmp_path: Path) -> None:
    task = replace(config.task, files={"validation": "validation.jsonl"}, labels=("0", "1"))
    with pytest.raises(ConfigError, match="has no training split"):
        run(replace(config, task=task), tmp_path / "out", place)


def test_measurements_of_quality_agree_or_not() -> None:
    assert same({"accuracy": 0.5}, {"accuracy": 0.5})
    assert same({"perplexity": 100.0}, {"perplexity": 100.00001})
    assert not same({"accuracy": 0.5}, {"accuracy": 0.51})
    assert not same({"accuracy": 0.5}, {"f1": 0.5})


class _Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.usefixtures("in_this_process")
def test_a_dense_run_is_shared_by_methods_and_not_by_seeds(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    config = replace(config, training=replace(config.training, max_steps=2)).with_seed(1)
    told = _Told()
    shared = tmp_path / "dense"
    first = run(config, tmp_path / "a", place, told, dense=shared)
    assert told.notes == []
    second = run(replace(config, method=L1()), tmp_path / "b", place, told, dense=shared)
    assert len(told.notes) == 1
    assert second.training["dense"] == first.training["dense"]
    assert second.metrics["dense"] == first.metrics["dense"]
    told_of = [b.get("importance") for b in first.structure["dense"]["blocks"]]
    assert all(
        (found is not None) == (b["kind"] == "attention")
        for found, b in zip(told_of, first.structure["dense"]["blocks"], strict=True)
    )
    assert told_of == [b.get("importance") for b in second.structure["dense"]["blocks"]]
    assert not any("importance" in block for block in first.structure["pruned"]["blocks"])
    run(config.with_seed(2), tmp_path / "c", place, told, dense=shared)
    assert len(told.notes) == 1


@pytest.mark.usefixtures("in_this_process")
def test_a_kept_dense_run_is_asked_once_how_important_its_heads_are(
    config: RunConfig, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, training=replace(config.training, max_steps=2)).with_seed(1)
    shared, asked = tmp_path / "dense", []
    ask = runner.head_importance
    monkeypatch.setattr(runner, "head_importance", lambda *args: asked.append(1) or ask(*args))
    first = run(config, tmp_path / "a", place, dense=shared)
    run(replace(config, method=L1()), tmp_path / "b", place, dense=shared)
    assert asked == [1]
    kept = json.loads((shared / "dense.json").read_text())
    del kept["head_importance"]  # as an older version left it
    (shared / "dense.json").write_text(json.dumps(kept))
    assert run(config, tmp_path / "c", place, dense=shared).structure == first.structure
    assert asked == [1, 1]


@pytest.mark.usefixtures("in_this_process")
def test_heads_whose_importance_cannot_be_measured_are_a_failed_run(
    config: RunConfig, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise EvaluationError("not finite")

    monkeypatch.setattr(runner, "head_importance", refuse)
    config = replace(config, training=replace(config.training, max_steps=2))
    with pytest.raises(RunError, match=r"the dense model in .*dense: not finite"):
        run(config, tmp_path / "a", place, dense=tmp_path / "dense")
    kept = json.loads((tmp_path / "dense" / "dense.json").read_text())
    assert "accuracy" in kept["metrics"]  # what was measured before is not lost


def test_the_dense_run_teaches_where_the_method_asks_for_it(
    config: RunConfig, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def watched(*args: Any) -> Any:
        given.append(args[-1])
        return fine_tune(*args)

    monkeypatch.setattr(runner, "fine_tune", watched)
    asked = CoFi(target=0.5, teacher="finetuned")
    config = replace(config, training=replace(config.training, max_steps=4), method=asked)
    record = run(config.with_seed(1), tmp_path / "a", place)
    assert given == [None, tmp_path / "a" / "dense"]
    assert record.config["method"]["teacher"] == "finetuned"
    assert record.training["pruned"]["reached"]["structural:0.5"] >= 0.5
    assert RunConfig.from_dict(record.config).method == asked


def test_models_saved_on_the_way_are_in_the_record(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    asked = NeuroPrune(target=0.6, begin=0.0, end=0.9, snapshots=(0.3,))
    config = replace(config, training=replace(config.training, max_steps=10), method=asked)
    record = run(config.with_seed(1), tmp_path / "a", place)
    taken = record.training["pruned"]["snapshots"]
    assert [entry["asked"] for entry in taken] == [0.3, 0.6]
    for entry in taken:
        assert entry["structural_sparsity"] == pytest.approx(entry["asked"], abs=0.02)
        assert entry["metrics"].keys() == record.metrics["dense"].keys()
        assert entry["step"] <= 10 and "path" not in entry


SCRATCH = """
[model.scratch]
{model}

[task]
{task}

[method]
name = "neuroprune"
alpha = 5.0
beta = 0.5
theta = 0.0
apply = "prox"

[training]
epochs = 1
max_steps = 4
batch_size = 4
eval_batch_size = 4
learning_rate = 3e-3
threads = 1

[evaluation]
speed_batches = [1]
speed_tokens = 8
speed_new_tokens = 2
speed_repeats = 2
speed_warmup = 0
"""
T5 = """
model_type = "t5"
vocab_size = 300
d_model = 16
d_kv = 4
d_ff = 24
num_layers = 1
num_decoder_layers = 1
num_heads = 4
"""
OPT = """
model_type = "opt"
vocab_size = 300
hidden_size = 16
word_embed_proj_dim = 16
ffn_dim = 24
num_hidden_layers = 1
num_attention_heads = 4
max_position_embeddings = 32
"""
TRANSLATION = """
kind = "translation"
name = "multi30k_en_de"
files = { train = "pairs.jsonl", test = "pairs.jsonl" }
eval_split = "test"
max_length = 16
max_target_length = 4
"""
MODELLING = """
kind = "language-modelling"
name = "wikitext2"
files = { train = "text.txt", test = "text.txt" }
eval_split = "test"
max_length = 16
"""


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("model", "task", "metrics", "timed"),
    [
        (T5, TRANSLATION, {"bleu", "chrf"}, "generation of 2 tokens"),
        (OPT, MODELLING, {"perplexity"}, "forward pass"),
    ],
)
def test_models_from_scratch(
    tmp_path: Path, model: str, task: str, metrics: set[str], timed: str
) -> None:
    generator = random.Random(0)
    lines = [" ".join(generator.choices(tiny.WORDS, k=6)) for _ in range(24)]
    (tmp_path / "text.txt").write_text("\n".join(lines * 4) + "\n")
    pairs = [json.dumps({"en": line, "de": line[::-1]}) for line in lines]
    (tmp_path / "pairs.jsonl").write_text("\n".join(pairs) + "\n")
    path = tmp_path / "config.toml"
    path.write_text(SCRATCH.format(model=model, task=task))
    record = run(RunConfig.load(path), tmp_path / "out", tmp_path)
    assert set(record.metrics["pruned"]) == metrics
    assert record.metrics["reload_matches"] is True
    assert record.speeds["conditions"]["timed"] == timed
    assert record.sizes["pruned"]["weight_sparsity"] > 0.0
    saved = neuroprune.from_pretrained(tmp_path / "out" / "pruned")
    assert anatomy_of(saved).model_type == record.config["model"]["scratch"]["model_type"]


def test_warm_up_and_schedule_reach_the_optimizer(
    config: RunConfig, place: Path, tmp_path: Path
) -> None:
    from neuroprune.bench.training import _arguments

    settings = TrainingConfig(
        warmup_ratio=0.25, lr_schedule="cosine", weight_decay=0.1, max_steps=8
    )
    arguments = _arguments(settings, tmp_path)
    assert arguments.get_warmup_steps(8) == 2
    assert str(arguments.lr_scheduler_type.value) == "cosine"
    assert arguments.weight_decay == 0.1
    assert arguments.max_steps == 8


@pytest.mark.parametrize(
    "changes", [{"epochs": 1.5}, {"gradient_accumulation": 4, "batch_size": 5}, {"max_steps": 3}]
)
def test_a_rehearsal_knows_the_number_of_steps(
    changes: dict[str, Any],
    config: RunConfig,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: list[int] = []
    monkeypatch.setattr(
        "neuroprune.bench.training.attach",
        lambda *a, **k: known.append(a[3]) or SimpleNamespace(detach=int),
    )
    settings = replace(config.training, **changes)
    model, data = _start(config, place)
    rehearse(model, settings, config.method, len(data.train))
    result = fine_tune(model, data.train, data.collator, settings, tmp_path / "keep")
    assert known == [result.steps]


def test_the_pace_is_the_median_of_each_twentieth() -> None:
    assert pace([]) == []
    assert pace([3.0, 1.0]) == [3.0, 1.0]
    steps = [float(step) for step in range(60)]
    assert pace(steps) == [1.0 + 3.0 * part for part in range(20)]
    assert pace([1.0, 1.0, 9.0] * 20) == [1.0] * 20
    assert len(pace([1.0] * 45)) == 20  # parts of two or three
