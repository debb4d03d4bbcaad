"""Save and load: equal logits, stock layouts where they exist, and nothing that half-loads."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.blocks import input_widths
from neuroprune.checkpoint import PLAN_FILE, CheckpointError, loads_with
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from tests.surgery.test_shrink import random_units
from tests.zoo import D_FF, FAMILIES, lineage_of, logits, make_inputs, make_model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, attention: str, tmp_path: Path) -> None:
    for seed in range(3):
        model = make_model(family, attention=attention)
        shrink_(model, ShrinkPlan(*random_units(model, seed)))
        neuroprune.save_pretrained(model, tmp_path / "out")
        loaded = neuroprune.from_pretrained(tmp_path / "out", attn_implementation=attention)
        assert type(loaded) is type(model)
        assert not loaded.training
        assert lineage_of(loaded) == lineage_of(model)
        inputs = make_inputs(family)
        torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs), rtol=0, atol=1e-6)
        assert [p.shape for p in loaded.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_can_be_cut_and_saved_again(family: str, tmp_path: Path) -> None:
    """Also through the stock layout, and through transformers' own save_pretrained."""
    for plan_of in (_uniform, _mlp_only, lambda m: ShrinkPlan(*random_units(m, 11))):
        model = make_model(family)
        shrink_(model, plan_of(model))
        neuroprune.save_pretrained(model, tmp_path / "a")
        loaded = neuroprune.from_pretrained(tmp_path / "a")
        inputs = make_inputs(family)
        expected = logits(model, inputs)
        torch.testing.assert_close(logits(loaded, inputs), expected, rtol=0, atol=1e-6)
        again = ShrinkPlan(*random_units(loaded, 12))
        for m in (model, loaded):
            shrink_(m, again)
        expected = logits(model, inputs)
        torch.testing.assert_close(logits(loaded, inputs), expected, rtol=0, atol=1e-5)
        loaded.save_pretrained(tmp_path / "b")  # what Trainer.save_model does
        last = neuroprune.from_pretrained(tmp_path / "b")
        torch.testing.assert_close(logits(last, inputs), expected, rtol=0, atol=1e-5)
        assert lineage_of(last) == lineage_of(model)


def _uniform(model: Any) -> ShrinkPlan:
    anatomy = anatomy_of(model)
    return ShrinkPlan(
        {b.name: [1, 2] for b in anatomy.attentions}, {b.name: [0, 5] for b in anatomy.mlps}
    )


def _mlp_only(model: Any) -> ShrinkPlan:
    mlps = anatomy_of(model).mlps
    return ShrinkPlan(remove_neurons={b.name: [i, 3 + i] for i, b in enumerate(mlps)})


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_from_pretrained_loads_what_a_stock_config_can_say(
    family: str, tmp_path: Path
) -> None:
    cases = {"mlp": _mlp_only, "heads": _uniform}
    for case, plan_of in cases.items():
        model = make_model(family)
        shrink_(model, plan_of(model))
        neuroprune.save_pretrained(model, tmp_path / case)
        config = json.loads((tmp_path / case / "config.json").read_text())
        stock = case == "mlp" or family.startswith("t5") or family == "llama"
        assert ("per_layer_config" in config) == (not stock)
        assert loads_with(tmp_path / case) == ("transformers" if stock else "neuroprune")
        if stock:
            loaded, report = type(model).from_pretrained(tmp_path / case, output_loading_info=True)
            assert not any(report[k] for k in ("missing_keys", "unexpected_keys"))
            assert getattr(loaded.config, "neuroprune", None) is None
            inputs = make_inputs(family)
            torch.testing.assert_close(
                logits(loaded, inputs), logits(model, inputs), rtol=0, atol=1e-5
            )


def test_ragged_single_stack_models_state_their_layers_in_the_config(tmp_path: Path) -> None:
    model = make_model("bert")
    shrink_(
        model,
        ShrinkPlan({"encoder.layer.0.attention": [0]}, {"encoder.layer.1.mlp": [0, 1]}),
    )
    neuroprune.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["per_layer_config"] == {
        "0": {"intermediate_size": D_FF, "num_attention_heads": 3},
        "1": {"intermediate_size": D_FF - 2, "num_attention_heads": 4},
    }
    assert not getattr(model.config, "is_heterogeneous", False), "in the saved file only"


def test_a_dense_model_round_trips_and_loads_with_another_head(tmp_path: Path) -> None:
    from transformers import BertModel

    model = make_model("bert")
    neuroprune.save_pretrained(model, tmp_path / "dense")
    assert not lineage_of(neuroprune.from_pretrained(tmp_path / "dense")).plan
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    neuroprune.save_pretrained(model, tmp_path / "pruned")
    bare = neuroprune.from_pretrained(tmp_path / "pruned", model_class=BertModel)
    assert anatomy_of(bare).attentions[0].num_heads == 3


def test_kwargs_reach_transformers(tmp_path: Path) -> None:
    model = make_model("t5")
    shrink_(model, ShrinkPlan(*random_units(model, 1)))
    neuroprune.save_pretrained(model, tmp_path)
    loaded = neuroprune.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert loaded.dtype == torch.bfloat16
    assert loaded.decoder.config._attn_implementation == "neuroprune_eager"


def test_the_precision_that_was_saved_can_be_asked_for(tmp_path: Path) -> None:
    for family in ("bert", "llama"):
        model = make_model(family).to(torch.bfloat16)
        shrink_(model, ShrinkPlan(*random_units(model, 1)))
        neuroprune.save_pretrained(model, tmp_path / family)
        for given, found in (("auto", torch.bfloat16), ("float32", torch.float32)):
            assert neuroprune.from_pretrained(tmp_path / family, dtype=given).dtype == found


def test_a_class_of_the_users_own_is_loaded_where_it_is_given(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

    class MyBert(BertForSequenceClassification):
        pass

    model = MyBert(make_model("bert").config)
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    neuroprune.save_pretrained(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"\['MyBert'\].*Pass model_class"):
        neuroprune.from_pretrained(tmp_path)
    for kind in (MyBert, BertForSequenceClassification, AutoModelForSequenceClassification):
        loaded = neuroprune.from_pretrained(tmp_path, model_class=kind)
        assert type(loaded) is (MyBert if kind is MyBert else BertForSequenceClassification)
        inputs = make_inputs("bert")
        torch.testing.assert_close(logits(loaded, inputs), logits(model.eval(), inputs))


_RUN = """
import sys
import torch
model, inputs, expected = torch.load(sys.argv[1], weights_only=False)
with torch.no_grad():
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-6)
"""


def test_a_cut_t5_runs_in_another_process(tmp_path: Path) -> None:
    """The attention that takes ragged heads is registered there, too."""
    model = make_model("t5")
    shrink_(model, ShrinkPlan(*random_units(model, 1)))
    inputs = make_inputs("t5")
    torch.save((model, inputs, logits(model, inputs)), tmp_path / "model.pt")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, tmp_path / "model.pt"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_tokenizer_travels_along(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    model = make_model("bert")
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    neuroprune.save_pretrained(model, tmp_path / "out", tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("good")["input_ids"] == [1]


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = make_model("bert")
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}, {"encoder.layer.0.mlp": [1]}))
    neuroprune.save_pretrained(model, tmp_path / "out")
    return tmp_path / "out"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _edit(key: str, value: Any) -> Any:
    def edit(path: Path) -> None:
        data = json.loads(path.read_text())
        here = data
        *parents, last = key.split("/")
        for parent in parents:
            here = here[parent]
        here[last] = value
        path.write_text(json.dumps(data))

    return edit


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", _truncate, "truncated or altered.*Copy it again"),
        ("model.safetensors", _flip, "truncated or altered.*Copy it again"),
        ("model.safetensors", Path.unlink, "Copy the whole directory"),
        (PLAN_FILE, _truncate, "damaged.*Save the model again"),
        (PLAN_FILE, Path.unlink, "AutoModel"),
        (PLAN_FILE, _edit("checkpoint_version", 99), "Update neuroprune"),
        (PLAN_FILE, _edit("lineage/format_version", 99), "update neuroprune"),
        (PLAN_FILE, _edit("lineage/model_type", "opt"), "Copy the whole directory"),
        (PLAN_FILE, _edit("lineage/heads", {}), "attention blocks"),
        (PLAN_FILE, _edit("lineage/plan/remove_neurons", {}), "do not fit"),
        ("config.json", Path.unlink, "not a complete model directory"),
        ("config.json", _truncate, "damaged"),
        ("config.json", _edit("num_hidden_layers", 3), "config.json that was saved"),
        ("config.json", _edit("architectures", ["NoSuchModel"]), "model_class"),
        ("config.json", _edit("architectures", ["BertConfig"]), "model_class"),
        ("config.json", _edit("architectures", ["pipeline"]), "model_class"),
        ("config.json", _edit("architectures", [None]), "model_class"),
        ("config.json", _edit("architectures", None), "model_class"),
        ("config.json", _edit("num_hidden_layers", "two"), "config.json is damaged, or a setting"),
    ],
)
def test_damage_is_named_with_the_remedy(saved: Path, file: str, damage: Any, message: str) -> None:
    damage(saved / file)
    with pytest.raises(CheckpointError, match=message):
        neuroprune.from_pretrained(saved)


def test_a_foreign_directory_and_no_directory(tmp_path: Path) -> None:
    make_model("bert").save_pretrained(tmp_path / "stock")
    with pytest.raises(CheckpointError, match="AutoModel"):
        neuroprune.from_pretrained(tmp_path / "stock")
    with pytest.raises(CheckpointError, match="not a directory"):
        neuroprune.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="neither a local directory nor a hub"):
        neuroprune.from_pretrained("someone/some-model")


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {f.name: f.read_bytes() for f in saved.iterdir()}
    model = make_model("bert", seed=5)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(CheckpointError, match="free some space"):
        neuroprune.save_pretrained(model, saved)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["out"], "nothing is left behind"
    neuroprune.from_pretrained(saved)


@pytest.mark.parametrize("crash_at", [0, 1, 2, 3])
def test_a_crash_while_moving_never_half_loads(
    saved: Path, crash_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever move is the last one done, the directory loads whole or refuses."""
    model = make_model("bert", seed=5)
    shrink_(model, ShrinkPlan({"encoder.layer.1.attention": [0]}, {"encoder.layer.0.mlp": [2]}))
    done, replace = [], Path.replace

    def counted(self: Path, target: Any) -> Any:
        if Path(target).parent == saved:
            if len(done) == crash_at:
                raise KeyboardInterrupt
            done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    try:
        neuroprune.save_pretrained(model, saved)
        crashed = False
    except KeyboardInterrupt:
        crashed = True
    monkeypatch.undo()
    if crashed:
        with pytest.raises(CheckpointError):
            neuroprune.from_pretrained(saved)
    else:
        inputs = make_inputs("bert")
        assert torch.equal(logits(neuroprune.from_pretrained(saved), inputs), logits(model, inputs))


def test_foreign_files_survive_and_stale_shards_do_not(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    neuroprune.save_pretrained(make_model("bert"), saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert not (saved / "model-00001-of-00002.safetensors").exists()
    neuroprune.from_pretrained(saved)


def test_saving_to_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="give a directory"):
        neuroprune.save_pretrained(make_model("bert"), tmp_path / "file")


def save_while_moves_fail(
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[Path, Path], bool],
    told: str = "Nothing that was there has changed",
) -> dict[str, bytes]:
    """Save over a model while some files cannot be moved; what was there before."""
    before = {f.name: f.read_bytes() for f in saved.iterdir()}
    replace = Path.replace

    def refuses(self: Path, target: Any) -> Any:
        if fails(self, Path(target)):
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuses)
    with pytest.raises(CheckpointError, match=told):
        neuroprune.save_pretrained(make_model("bert", seed=5), saved)
    monkeypatch.undo()
    return before


def test_an_error_while_moving_puts_the_old_files_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Path] = []

    def fails_late(file: Path, target: Path) -> bool:
        if target.parent == saved and "old" not in file.parts:
            moved.append(target)
            return len(moved) == 2
        return False

    before = save_while_moves_fail(saved, monkeypatch, fails_late)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before
    neuroprune.from_pretrained(saved)


@pytest.mark.parametrize("refused", ["config.json", "model.safetensors", "neuroprune.json"])
def test_an_old_file_that_cannot_be_moved_stays(
    refused: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save_while_moves_fail(saved, monkeypatch, lambda file, _: file == saved / refused)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before


def test_old_files_that_cannot_be_put_back_are_kept(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved / "model.safetensors"
    told = r"model.safetensors of the old model are in .*old"
    before = save_while_moves_fail(saved, monkeypatch, lambda _, to: to == weights, told)
    (kept,) = saved.glob(".neuroprune-*/old/model.safetensors")
    assert kept.read_bytes() == before.pop("model.safetensors")
    assert {f.name: f.read_bytes() for f in saved.iterdir() if f.is_file()} == before


def test_saving_through_a_link_and_beside_foreign_weights(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    (saved / "extra.safetensors").write_bytes(b"another tool's")
    model = make_model("bert", seed=5)
    neuroprune.save_pretrained(model, tmp_path / "link")
    inputs = make_inputs("bert")
    assert torch.equal(logits(neuroprune.from_pretrained(saved), inputs), logits(model, inputs))
    assert (saved / "extra.safetensors").exists()


def test_a_missing_tensor_is_noticed_without_digests(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make_model("bert")
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    model.save_pretrained(tmp_path)  # transformers' own: no digests
    state = load_file(tmp_path / "model.safetensors")
    gone = "bert.encoder.layer.1.output.dense.weight"
    del state[gone]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights are missing.*layer.1.output.dense"):
        neuroprune.from_pretrained(tmp_path)


def test_auto_classes_settings_and_parts_of_a_model(tmp_path: Path) -> None:
    from transformers import AutoModel, OPTForCausalLM, T5EncoderModel

    model = make_model("bert")
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    neuroprune.save_pretrained(model, tmp_path / "bert")
    bare = neuroprune.from_pretrained(tmp_path / "bert", model_class=AutoModel)
    assert type(bare).__name__ == "BertModel"
    with pytest.raises(CheckpointError, match=r"'bert' model.*'opt' model"):
        neuroprune.from_pretrained(tmp_path / "bert", model_class=OPTForCausalLM)
    with pytest.raises(CheckpointError, match="leave them out"):
        neuroprune.from_pretrained(tmp_path / "bert", config=model.config)
    for case, plan_of in {
        "ragged": lambda m: ShrinkPlan(*random_units(m, 1)),
        "u": _uniform,
    }.items():
        t5 = make_model("t5")
        shrink_(t5, plan_of(t5))
        neuroprune.save_pretrained(t5, tmp_path / case)
        encoder = neuroprune.from_pretrained(tmp_path / case, model_class=T5EncoderModel)
        ids = make_inputs("t5")["input_ids"]
        with torch.no_grad():
            expected = t5.encoder(input_ids=ids).last_hidden_state
            got = encoder(input_ids=ids).last_hidden_state
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        assert {b.split(".")[0] for b in lineage_of(encoder).heads} == {"encoder"}


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_inputs_round_trip_and_compose(family: str, tmp_path: Path) -> None:
    """One call to identical outputs, also after a further cut and transformers' own save."""
    for seed in (4, 5):
        model = make_model(family)
        shrink_(model, ShrinkPlan(*random_units(model, seed), remove_inputs=_thirds(model)))
        neuroprune.save_pretrained(model, tmp_path / "a")
        loaded = neuroprune.from_pretrained(tmp_path / "a")
        assert type(loaded) is type(model)
        assert lineage_of(loaded) == lineage_of(model)
        inputs = make_inputs(family)
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))
        again = ShrinkPlan(*random_units(loaded, seed + 1), remove_inputs=_thirds(loaded))
        for m in (model, loaded):
            shrink_(m, again)
        loaded.save_pretrained(tmp_path / "b")
        last = neuroprune.from_pretrained(tmp_path / "b")
        assert torch.equal(logits(last, inputs), logits(model, inputs))
        assert lineage_of(last) == lineage_of(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_stock_config_describes_removed_inputs(family: str, tmp_path: Path) -> None:
    """Not even of uniform widths: a stock class refuses the weights, and never half-loads them."""
    model = make_model(family)
    mlp_only = _mlp_only(model)
    shrink_(model, ShrinkPlan({}, mlp_only.remove_neurons, remove_inputs=_thirds(model)))
    neuroprune.save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / PLAN_FILE).read_text())["stock_layout"] is None
    with pytest.raises(RuntimeError, match=r"mismatch|per-layer"):
        type(model).from_pretrained(tmp_path)


def test_a_file_of_before_inputs_could_be_removed_loads(tmp_path: Path) -> None:
    model = make_model("bert")
    shrink_(model, ShrinkPlan(*random_units(model, 4)))
    neuroprune.save_pretrained(model, tmp_path)
    lineage = json.loads((tmp_path / PLAN_FILE).read_text())["lineage"]
    assert sorted(lineage) == ["format_version", "heads", "model_type", "neurons", "plan"]
    assert sorted(lineage["plan"]) == ["merge_heads", "remove_heads", "remove_neurons"]
    loaded = neuroprune.from_pretrained(tmp_path)
    shrink_(loaded, ShrinkPlan(remove_inputs=_thirds(loaded)))
    assert lineage_of(loaded).plan.num_inputs == sum(
        len(columns) for groups in _thirds(model).values() for columns in groups.values()
    )


def test_plans_that_do_not_fit_the_inputs_are_refused(tmp_path: Path) -> None:
    model = make_model("bert")
    shrink_(model, ShrinkPlan(remove_inputs=_thirds(model)))
    neuroprune.save_pretrained(model, tmp_path)
    name = "encoder.layer.0.mlp"
    for spoil, message in (
        (lambda lineage: lineage["inputs"].pop(name), "the block is not there"),
        (lambda lineage: lineage["inputs"][name].update(up=9), "input 30 of 'up'"),
        (lambda lineage: lineage["inputs"][name].update(up=-1), "expected a count"),
        (lambda lineage: lineage["inputs"][name].update(up=64), "other blocks or sizes"),
        (lambda lineage: lineage.update(inputs=3), "damaged"),
        (lambda lineage: lineage["plan"]["remove_inputs"][name].update(up=["x"]), "integer"),
        (lambda lineage: lineage["plan"]["remove_inputs"].update({name: 3}), "expected groups"),
    ):
        plan = json.loads((tmp_path / PLAN_FILE).read_text())
        whole = json.dumps(plan)
        spoil(plan["lineage"])
        (tmp_path / PLAN_FILE).write_text(json.dumps(plan))
        with pytest.raises(CheckpointError, match=message):
            neuroprune.from_pretrained(tmp_path)
        (tmp_path / PLAN_FILE).write_text(whole)
    neuroprune.from_pretrained(tmp_path)


def test_a_part_and_another_precision_of_a_model_with_removed_inputs(tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    t5 = make_model("t5")
    shrink_(t5, ShrinkPlan(*random_units(t5, 1), remove_inputs=_thirds(t5)))
    neuroprune.save_pretrained(t5, tmp_path)
    encoder = neuroprune.from_pretrained(tmp_path, model_class=T5EncoderModel)
    ids = make_inputs("t5")["input_ids"]
    with torch.no_grad():
        expected = t5.encoder(input_ids=ids).last_hidden_state
        got = encoder(input_ids=ids).last_hidden_state
    torch.testing.assert_close(got, expected)
    half = neuroprune.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = make_inputs("t5")
    close = {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(logits(half, inputs).float(), logits(t5, inputs), **close)


def _thirds(model: Any) -> dict[str, dict[str, range]]:
    """Every third input of every group that is left."""
    return {
        block.name: {group: range(0, width, 3) for group, width in input_widths(block).items()}
        for block in anatomy_of(model).blocks()
    }


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_a_stock_save_over_ours_is_the_newer_one(family: str, tmp_path: Path) -> None:
    """A Trainer that goes on in the same folder leaves our plan file behind."""
    model = make_model(family)
    shrink_(model, ShrinkPlan(*random_units(model, 1)))
    neuroprune.save_pretrained(model, tmp_path)
    again = neuroprune.from_pretrained(tmp_path)
    some = next(block for block in anatomy_of(again).mlps if block.d_ff)
    shrink_(again, ShrinkPlan({}, {some.name: [0]}))
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.mul_(0.9)
    again.save_pretrained(tmp_path)
    loaded = neuroprune.from_pretrained(tmp_path)
    assert lineage_of(loaded) == lineage_of(again) != lineage_of(model)
    inputs = make_inputs(family)
    torch.testing.assert_close(logits(loaded, inputs), logits(again, inputs), rtol=0, atol=1e-6)
    neuroprune.save_pretrained(loaded, tmp_path)
    loaded = neuroprune.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, inputs), logits(again, inputs), rtol=0, atol=1e-6)


def test_a_type_of_the_users_own_loads_with_its_class(tmp_path: Path) -> None:
    """What docs/adding_a_family.md promises, with a config class that says nothing at first."""
    from transformers import BertConfig, BertForSequenceClassification

    from neuroprune.anatomy.registry import _FAMILIES, register_family

    class OwnConfig(BertConfig):
        model_type = "my-bert"

    class OwnModel(BertForSequenceClassification):
        config_class = OwnConfig

    settings = {k: v for k, v in make_model("bert").config.to_dict().items() if k != "model_type"}
    register_family(dataclasses.replace(_FAMILIES["bert"], model_type="my-bert"))
    try:
        model = OwnModel(OwnConfig(**settings)).eval()
        shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
        neuroprune.save_pretrained(model, tmp_path)
        with pytest.raises(CheckpointError, match=r"type 'my-bert'.*AutoConfig.register"):
            neuroprune.from_pretrained(tmp_path)
        loaded = neuroprune.from_pretrained(tmp_path, model_class=OwnModel)
        inputs = make_inputs("bert")
        torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs))
    finally:
        del _FAMILIES["my-bert"]


def test_a_module_around_a_model_is_no_model_to_save(tmp_path: Path) -> None:
    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = make_model("bert").bert
            self.config = self.bert.config

    with pytest.raises(CheckpointError, match=r"got a Around\. Save the model inside it"):
        neuroprune.save_pretrained(Around(), tmp_path)
