"""The command line on a tiny random model: train -> eval -> inspect -> shrink, codes, messages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.cli.app import app
from tests.cli.helpers import RUNNER, invoke


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    out = place / "run"
    result = invoke(
        "train", "--config", place / "config.toml", "--out", out, "--data-dir", place, "--json"
    )
    payload = json.loads(result.stdout)  # nothing but JSON on standard output
    assert payload["out"] == str(out)
    return out


def test_train_leaves_both_models_and_the_record(trained: Path) -> None:
    record = neuroprune.record.RunRecord.load(trained / "record.json")
    assert sorted(path.name for path in trained.iterdir()) == ["dense", "pruned", "record.json"]
    assert record.metrics["reload_matches"] is True
    assert set(record.metrics["dense"]) == set(record.metrics["pruned"]) == {"accuracy"}
    assert record.sizes["dense"]["structural_sparsity"] == 0.0
    assert 0.0 < record.sizes["pruned"]["structural_sparsity"] < 1.0
    assert record.sizes["pruned"]["weight_sparsity"] >= 0.5
    assert record.sizes["pruned"]["parameters"] < record.sizes["dense"]["parameters"]
    assert record.sizes["pruned"]["bytes_on_disk"] < record.sizes["dense"]["bytes_on_disk"]
    assert record.training["dense"]["steps"] == record.training["pruned"]["steps"] == 12
    assert set(record.speeds["dense"]) == set(record.speeds["pruned"]) == {"1", "4"}
    assert record.environment["threads"] == 1
    assert record.config["training"]["seed"] == record.seed == 3


def test_the_record_says_what_was_removed(trained: Path) -> None:
    record = neuroprune.record.RunRecord.load(trained / "record.json")
    anatomy = anatomy_of(neuroprune.from_pretrained(trained / "pruned"))
    neurons = sum(32 - block.d_ff for block in anatomy.mlps)
    heads = sum(4 - block.num_heads for block in anatomy.attentions)
    assert record.training["pruned"]["removed_neurons"] == neurons
    assert record.training["pruned"]["removed_heads"] == heads
    assert neurons > 0


def test_the_table_has_every_line_and_its_denominator(trained: Path) -> None:
    from rich.console import Console

    from neuroprune.cli.train import summary
    from neuroprune.record import RunRecord

    console = Console(width=160, record=True, file=None, quiet=True)
    console.quiet = False
    with console.capture() as captured:
        console.print(summary(RunRecord.load(trained / "record.json"), trained))
    text = captured.get()
    for line in (
        "loads with neuroprune's from_pretrained",
        "accuracy",
        "weight sparsity [1]",
        "structural sparsity [2]",
        "parameters",
        "MB on disk",
        "latency, batch 1 (ms)",
        "latency, batch 4 (ms)",
        "training (s)",
        "shares of the dense model's 4,096 weights of q, k, v, o, up, gate and down",
        "1 thread; quality: measured on the saved models in a fresh process",
    ):
        assert line in text
    assert str(trained / "pruned") in text.replace("\n", "")


def test_eval_finds_the_record_beside_the_model(trained: Path, place: Path) -> None:
    result = invoke("eval", trained / "pruned", "--data-dir", place, "--json")
    payload = json.loads(result.stdout)
    record = neuroprune.record.RunRecord.load(trained / "record.json")
    assert payload["metrics"] == record.metrics["pruned"]
    assert payload["sizes"]["parameters"] == record.sizes["pruned"]["parameters"]


def test_eval_on_another_split_than_the_run(trained: Path, place: Path) -> None:
    options = ["--data-dir", place, "--set", "task.eval_split=train", "--json"]
    payload = json.loads(invoke("eval", trained / "pruned", *options).stdout)
    assert payload["split"] == "train"
    assert 0.0 <= payload["metrics"]["accuracy"] <= 1.0


def test_eval_prints_a_table(trained: Path, place: Path) -> None:
    result = invoke(
        "eval", trained / "dense", "--config", place / "config.toml", "--data-dir", place
    )
    assert "accuracy" in result.stdout
    assert "weight sparsity" in result.stdout


def test_a_record_is_run_again_with_the_same_result(trained: Path, place: Path, work: Path) -> None:
    record = trained / "record.json"
    result = invoke(
        "train", "--config", record, "--out", work / "again", "--data-dir", place, "--json"
    )
    again, first = json.loads(result.stdout), json.loads(record.read_text())
    assert again["config"] == first["config"]
    assert again["metrics"] == first["metrics"]
    for side in ("dense", "pruned"):
        assert again["sizes"][side] == first["sizes"][side]
        assert again["training"][side]["last_loss"] == first["training"][side]["last_loss"]


def test_inspect_lists_every_block(trained: Path) -> None:
    payload = json.loads(invoke("inspect", trained / "pruned", "--json").stdout)
    assert [block["name"] for block in payload["blocks"]] == [
        "encoder.layer.0.attention",
        "encoder.layer.1.attention",
        "encoder.layer.0.mlp",
        "encoder.layer.1.mlp",
    ]
    assert {block["dense_units"] for block in payload["blocks"]} == {4, 32}
    weights = sum(block["dense_weights"] for block in payload["blocks"])
    assert payload["dense_weights"] == weights == 4096
    for block in payload["blocks"]:
        assert 0.0 <= block["structural_sparsity"] <= block["weight_sparsity"] <= 1.0
        assert 0.0 <= block["connectivity_mean"] <= 1.0
        assert block["connectivity_sd"] >= 0.0


def test_inspect_prints_a_table_of_a_stock_model(place: Path) -> None:
    text = invoke("inspect", place / "model").stdout
    for part in ("4 of 4", "32 of 32", "weight sparsity", "connectivity", "4,096 weights"):
        assert part in text


def test_shrink_by_a_plan(trained: Path, work: Path) -> None:
    (work / "plan.json").write_text(
        json.dumps(
            {
                "remove_heads": {"encoder.layer.0.attention": [0, 2]},
                "remove_neurons": {"encoder.layer.1.mlp": [5]},
            }
        )
    )
    result = invoke("shrink", trained / "dense", "--plan", "plan.json", "--out", "small", "--json")
    payload = json.loads(result.stdout)
    assert (payload["removed_heads"], payload["removed_neurons"]) == (2, 1)
    model = neuroprune.from_pretrained(work / "small")
    anatomy = anatomy_of(model)
    assert [block.num_heads for block in anatomy.attentions] == [2, 4]
    assert [block.d_ff for block in anatomy.mlps] == [32, 31]
    assert (work / "small/tokenizer.json").is_file()


def test_shrink_without_a_plan_keeps_the_outputs(trained: Path, work: Path) -> None:
    import torch

    model = neuroprune.from_pretrained(trained / "dense").eval()
    mlp = anatomy_of(model).mlps[0]
    with torch.no_grad():
        mlp.down_proj.weight[:, [3, 7]] = 0.0
    neuroprune.save_pretrained(model, work / "zeroed")
    text = invoke("shrink", "zeroed", "--out", "small").stdout
    assert "removed 0 heads and 2 neurons; " in text
    with torch.no_grad():
        mlp.up_proj.weight[:, ::2] = 0.0
    neuroprune.save_pretrained(model, work / "zeroed")
    text = invoke("shrink", "zeroed", "--out", "small").stdout
    assert f"removed 0 heads and 2 neurons and {mlp.up_proj.in_features // 2} inputs; " in text
    small = neuroprune.from_pretrained(work / "small").eval()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.no_grad():
        torch.testing.assert_close(small(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "give an experiment with --config"),
        (["train", "-c", "absent.toml"], "absent.toml: No such file or directory"),
        (["train", "-c", "{c}", "--set", "epochs=1"], "expected TABLE.NAME=VALUE"),
        (["train", "-c", "{c}", "--set", "training.epoch=1"], "did you mean 'epochs'?"),
        (["train", "-c", "{c}", "--set", "method.alpha=-1"], "must be a finite number >= 0"),
        (["train", "-c", "{c}", "--set", "method.theta=nan"], "must be a finite number >= 0"),
        (
            ["train", "-c", "{c}", "--data-dir", "nowhere"],
            "nowhere/validation.jsonl does not exist",
        ),
        (["train", "-c", "{c}", "--data-dir", "{p}", "--model", "a/b/c"], "there is no directory"),
        (["train", "-c", "{c}", "--data-dir", "{p}", "--model", "pypi:no-model-x"], "pip install"),
        (
            ["train", "-c", "{c}", "--data-dir", "{p}", "--set", "evaluation.speed_tokens=999"],
            "Set speed_tokens to 16 or less",
        ),
        (["inspect", "no/such/folder"], "there is no directory 'no/such/folder'"),
        (["eval", "{p}/model"], "give the experiment with --config"),
        (["shrink", "{p}/model", "--out", "{p}/model"], "choose another one"),
        (["shrink", "{p}/model", "--out", "o", "--plan", "{c}"], "is not JSON"),
        (["bench", "run", "nowhere"], "no such file or folder"),
        (["train", "-c", "{c}", "--target", "small"], "'small' is no number"),
        (["train", "-c", "{c}", "--target", "size:3"], "'size:3' is no target"),
        (["train", "-c", "{c}", "--target", "1.5"], "sparsity must be in [0, 0.9999], got 1.5"),
        (["train", "-c", "{c}", "--target", "weights:0.8", "--heads", "4"], "Use Structural"),
        (["train", "-c", "{c}", "--target", "heads:4", "--heads", "4"], "which leaves it open"),
        (["train", "-c", "{c}", "--target", "0.8", "--snapshots", "half"], "such as 0.5,0.7,0.8"),
        (["train", "-c", "{c}", "--target", "0.8", "--snapshots", "0.9"], "not below them"),
        (["train", "-c", "{c}", "--snapshots", "0.5"], "Give target, too"),
        (["train", "-c", "{c}", "--teacher", "dense"], "Give target, too"),
        (
            ["train", "-c", "{c}", "--target", "0.8", "--set", "method.alpha=1"],
            "Give either the one or the other",
        ),
        (["bench", "run", "{c}", "--target", "flops:0"], "the share to keep, in [0.0001, 1]"),
        (["plot", "nowhere"], "nowhere: no such file or folder"),
        (["plot", "{p}/model"], "expected a RunRecord"),
        (["plot", "{c}"], "expected a JSON file of snapshots"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    place: Path, work: Path, arguments: list[str], message: str
) -> None:
    config = str(place / "config.toml")
    filled = [a.replace("{c}", config).replace("{p}", str(place)) for a in arguments]
    result = invoke(*filled, code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output


def test_an_error_is_json_where_json_was_asked_for(work: Path) -> None:
    result = invoke("inspect", "no/such/folder", "--json", code=2)
    payload = json.loads(result.stdout)
    assert payload["exit_code"] == 2
    assert "no/such/folder" in payload["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-c", "x", "--seed", "-1"], "--seed"),
        (["inspect", "x", "--bogus"], "--bogus"),
        (["shrink", "x"], "--out"),
        (["bench", "run", "--bogus"], "--bogus"),
    ],
)
def test_wrong_usage_is_json_where_json_was_asked_for(arguments: list[str], message: str) -> None:
    result = invoke(*arguments, "--json", code=2)
    payload = json.loads(result.stdout)
    assert payload["exit_code"] == 2
    assert message in payload["error"]
    assert message in result.stderr


@pytest.mark.parametrize("out", ["afile", "afile/inside"])
def test_a_place_that_cannot_be_is_refused_before_training(
    out: str, place: Path, work: Path
) -> None:
    (work / "afile").write_text("")
    run = ("train", "--config", place / "config.toml", "--data-dir", place)
    result = invoke(*run, "--out", out, code=2)
    assert "afile is a file" in result.stderr
    assert "training" not in result.stderr


def test_a_second_run_takes_the_first_ones_record_away(
    trained: Path, place: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped half-way, its dense model would lie beside the record of another."""
    import shutil

    from neuroprune.bench import runner

    shutil.copytree(trained, work / "again")

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner._Experiment, "dense", interrupted)
    run = ("train", "--config", place / "config.toml", "--data-dir", place)
    invoke(*run, "--out", "again", code=130)
    assert not (work / "again/record.json").exists()


def test_a_plan_for_another_model(place: Path, work: Path) -> None:
    (work / "plan.json").write_text(json.dumps({"remove_heads": {"decoder.x": [0]}}))
    result = invoke("shrink", place / "model", "--plan", "plan.json", "--out", "o", code=2)
    assert "which this bert model does not have" in result.stderr
    assert not (work / "o").exists()


def test_a_damaged_checkpoint(trained: Path, work: Path) -> None:
    import shutil

    shutil.copytree(trained / "pruned", work / "damaged")
    weights = work / "damaged/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "truncated or altered" in invoke("inspect", "damaged", code=2).stderr


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_model(
    place: Path, work: Path
) -> None:
    result = invoke(
        "train",
        "--config",
        place / "config.toml",
        "--data-dir",
        place,
        "--out",
        "run",
        "--set",
        "training.learning_rate=1e30",
        code=1,
    )
    assert re.search(r"error: the loss became nan at step \d+; the step was not", result.stderr)
    assert "Lower the learning rate" in result.stderr
    assert "is saved in run/dense-last-good." in result.stderr
    assert "Traceback" not in result.output
    assert not (work / "run/record.json").exists()
    assert neuroprune.from_pretrained(work / "run/dense-last-good").config.num_labels == 2


def test_an_interrupt_is_code_130(place: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroprune.bench import runner

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    result = invoke("train", "--config", place / "config.toml", code=130)
    assert "interrupted" in result.stderr


def test_a_full_disk_is_a_failure_of_the_run(
    place: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from transformers import PreTrainedModel

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    result = invoke("shrink", place / "model", "--out", "small", code=1)
    assert "free some space" in result.stderr
    assert not (work / "small").exists()


def test_defects_keep_their_traceback(
    place: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroprune.bench import runner

    def defect(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "run", defect)
    result = RUNNER.invoke(app, ["train", "--config", str(place / "config.toml")])
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    text = invoke("--help").stdout
    for word in ("train", "eval", "shrink", "inspect", "bench", "plot", "130 interrupted"):
        assert word in " ".join(text.split())
    assert "neuroprune 0." in invoke("--version").stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys; import neuroprune.cli.app; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    call = [sys.executable, "-m", "neuroprune", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("neuroprune 0.")


def test_a_matrix_is_no_experiment(work: Path) -> None:
    matrix = Path(__file__).parents[2] / "benchmarks/matrices/sst2.toml"
    said = invoke("train", "--config", matrix, "--out", "out", code=2).stderr
    assert "is a matrix of experiments" in said and "neuroprune bench run" in said
