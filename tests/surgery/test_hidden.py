"""Hidden dimensions: narrow models do what their gated twins do, train alike, and load again."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neuroprune
from neuroprune.anatomy import AnatomyError, anatomy_of, stream_of
from neuroprune.anatomy.registry import families_with_streams
from neuroprune.checkpoint import CheckpointError
from neuroprune.evaluation.size import size_report
from neuroprune.methods import dead_inputs
from neuroprune.plan import PlanError, ShrinkPlan
from neuroprune.surgery import OptimizerStateError, shrink_
from neuroprune.topology.graph import graph_report
from neuroprune.topology.sparsity import inspect_blocks
from neuroprune.topology.structure import structure
from tests.surgery.test_optimizer_state import OPTIMIZERS, _adafactors, groups, state_shapes, step
from tests.surgery.test_shrink import random_units
from tests.zoo import D_MODEL, HEADS, VOCAB, lineage_of, logits, make_inputs, make_model, silence_

GONE = (0, 3, 17, 31)
CLASSES = [
    (kind, name) for kind, family in families_with_streams().items() for name in family.stream.heads
]


def make(name: str, seed: int = 0) -> Any:
    """A tiny random model of any class."""
    import transformers

    kind = getattr(transformers, name)
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 64, "num_labels": 2, "pad_token_id": 1}
    if name.startswith("Distil"):
        sizes |= {"dim": D_MODEL, "n_layers": 2, "n_heads": HEADS, "hidden_dim": 24}
        sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    else:
        sizes |= {"hidden_size": D_MODEL, "num_hidden_layers": 2, "num_attention_heads": HEADS}
        sizes |= {"intermediate_size": 24, "hidden_dropout_prob": 0.0}
        sizes |= {"attention_probs_dropout_prob": 0.0}
    torch.manual_seed(seed)
    model = kind(kind.config_class(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def answers(model: Any, name: str, seed: int = 1) -> list[Tensor]:
    """What a model of any class says, its hidden states left out."""
    inputs = make_inputs("bert", seed)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if name.endswith("MultipleChoice"):
        ids, mask = ids[:, None], mask[:, None]
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask)
    wanted = ("logits", "start_logits", "end_logits", "pooler_output", "last_hidden_state")
    return [out[key] for key in wanted if out.get(key) is not None]


def norm_over_(model: nn.Module, gone: tuple[int, ...]) -> None:
    """Take every norm over the other dimensions, by its definition, and close these behind it."""
    kept = [k for k in range(D_MODEL) if k not in gone]

    def plain(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0][..., kept]
        spread = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
        x = (x - x.mean(-1, keepdim=True)) / (spread + norm.eps).sqrt()
        out = torch.zeros_like(output)
        out[..., kept] = x * norm.weight[kept] + norm.bias[kept]
        return out

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(plain)


# --- the function --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_every_declared_head_keeps_its_answers(kind: str, name: str) -> None:
    narrow = make(name)
    wide = copy.deepcopy(narrow)
    norm_over_(wide, GONE)
    shrink_(narrow, ShrinkPlan(remove_hidden=GONE))
    assert narrow.config.model_type == kind
    kept = [k for k in range(D_MODEL) if k not in GONE]
    for mine, other in zip(answers(narrow, name), answers(wide, name), strict=True):
        alike = mine.shape == other.shape  # but a body alone hands the stream out
        torch.testing.assert_close(mine, other if alike else other[..., kept], rtol=0, atol=1e-5)
    assert narrow.config.hidden_size == stream_of(anatomy_of(narrow)).width == len(kept)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_units_and_dimensions_go_in_one_cut_or_one_after_the_other(family: str, seed: int) -> None:
    wide = make_model(family)
    heads, neurons = random_units(wide, seed)
    gone = random.Random(seed).sample(range(D_MODEL), 9)
    silence_(anatomy_of(wide), heads, neurons)
    at_once, in_turn = copy.deepcopy(wide), copy.deepcopy(wide)
    norm_over_(wide, tuple(gone))
    shrink_(at_once, ShrinkPlan(heads, neurons, remove_hidden=gone))
    expected = logits(wide, make_inputs(family))
    torch.testing.assert_close(logits(at_once, make_inputs(family)), expected, rtol=0, atol=1e-5)
    first = sorted(gone)[:4]
    shrink_(in_turn, ShrinkPlan(heads, remove_hidden=first))
    shrink_(
        in_turn, ShrinkPlan(remove_neurons=neurons, remove_hidden=[k - 4 for k in sorted(gone)[4:]])
    )
    assert lineage_of(in_turn) == lineage_of(at_once)
    assert torch.equal(logits(in_turn, make_inputs(family)), logits(at_once, make_inputs(family)))


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_trajectory_is_that_of_the_wide_model(family: str, name: str) -> None:
    """20 steps after the cut, in float64, losses agree with those of the gated model."""
    wide = make_model(family).double().train()
    optimizer = OPTIMIZERS[name](groups(wide))
    for seed in range(3):
        step(wide, optimizer, seed, family)
    narrow = copy.deepcopy(wide)
    other = OPTIMIZERS[name](groups(narrow))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    norm_over_(wide, GONE)
    shrink_(narrow, ShrinkPlan(remove_hidden=GONE), other)
    held = {id(p) for g in other.param_groups for p in g["params"]}
    assert held == {id(p) for p in narrow.parameters()} and set(map(id, other.state)) <= held
    for seed in range(10, 30):
        expected = step(wide, optimizer, seed, family)
        assert step(narrow, other, seed, family) == pytest.approx(expected, abs=1e-9, rel=0)


@pytest.mark.parametrize("name", ["torch", "transformers", "transformers-momentum"])
def test_adafactor_state_is_sliced_and_runs(name: str) -> None:
    model = make_model("bert").train()
    optimizer = _adafactors()[name](groups(model))
    step(model, optimizer, 0, "bert")
    heads = {b.name: [0, 3] for b in anatomy_of(model).attentions}
    shrink_(model, ShrinkPlan(heads, remove_hidden=GONE), optimizer)
    fresh_model = copy.deepcopy(model)
    fresh = _adafactors()[name](groups(fresh_model))
    step(fresh_model, fresh, 7, "bert")
    assert state_shapes(optimizer) == state_shapes(fresh)
    step(model, optimizer, 8, "bert")
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_an_unknown_state_shape_is_refused_before_anything_changes() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, 0, "bert")
    norm = stream_of(anatomy_of(model)).norms[1]
    optimizer.state[norm.weight]["absmax"] = torch.zeros(13)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(OptimizerStateError, match="'absmax'"):
        heads = {b.name: [0] for b in anatomy_of(model).attentions}
        shrink_(model, ShrinkPlan(heads, remove_hidden=[1]), optimizer)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


# --- saving and loading --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["BertForSequenceClassification", "DistilBertForTokenClassification"]
)
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "trainer"])
def test_round_trip_and_a_further_cut(name: str, stock: bool, tmp_path: Path) -> None:
    """Saved by this library or as a Trainer does it; then trained, cut and saved again."""
    model = make(name)
    block = anatomy_of(model).attentions[0].name
    shrink_(model, ShrinkPlan({block: [1]}, remove_hidden=GONE))
    expected = answers(model, name)
    if stock:
        model.save_pretrained(tmp_path / "a")
    else:
        neuroprune.save_pretrained(model, tmp_path / "a")
    loaded = neuroprune.from_pretrained(tmp_path / "a")
    assert type(loaded).__name__ == name and lineage_of(loaded) == lineage_of(model)
    assert loaded.config.hidden_size == D_MODEL - len(GONE)
    assert all(map(torch.equal, answers(loaded, name), expected))
    optimizer = torch.optim.AdamW(loaded.train().parameters(), lr=1e-3)
    labels = torch.zeros(3, dtype=torch.long)
    labels = labels if "Sequence" in name else labels.repeat(7, 1).T.contiguous()
    for _ in range(2):
        loaded(**(make_inputs("bert") | {"labels": labels})).loss.backward()
        optimizer.step()
    shrink_(loaded, ShrinkPlan({block: [0, 1, 2]}, remove_hidden=[0]), optimizer)
    plan = lineage_of(loaded).plan
    assert plan.remove_heads[block] == (0, 1, 2, 3) and plan.remove_hidden == (0, 1, 3, 17, 31)
    neuroprune.save_pretrained(loaded.eval(), tmp_path / "b")
    again = neuroprune.from_pretrained(tmp_path / "b")
    assert all(map(torch.equal, answers(again, name), answers(loaded, name)))


def test_another_head_is_built_at_the_narrow_width(tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification, BertForMaskedLM, BertModel

    model = make("BertForSequenceClassification")
    shrink_(model, ShrinkPlan(remove_hidden=GONE))
    neuroprune.save_pretrained(model, tmp_path)
    wanted = {"num_labels": 5, "ignore_mismatched_sizes": True}  # both heads are a "classifier"
    other = neuroprune.from_pretrained(tmp_path, AutoModelForTokenClassification, **wanted)
    assert other.classifier.weight.shape == (5, D_MODEL - len(GONE))
    assert answers(other, "BertForTokenClassification")[0].shape == (3, 7, 5)
    body = neuroprune.from_pretrained(tmp_path, BertModel)
    assert torch.equal(answers(body, "BertModel")[0], answers(model.bert, "BertModel")[0])
    with pytest.raises(CheckpointError, match="BertForMaskedLM is not known"):
        neuroprune.from_pretrained(tmp_path, BertForMaskedLM)


def test_no_stock_layout_describes_it_and_a_dense_model_is_not_taken_for_it(tmp_path: Path) -> None:
    model = make("BertForSequenceClassification")
    shrink_(model, ShrinkPlan(remove_hidden=GONE))
    neuroprune.save_pretrained(model, tmp_path)
    assert "per_layer_config" in (tmp_path / "config.json").read_text()
    with pytest.raises(AnatomyError, match="plan of a model with other shapes"):
        anatomy_of(type(model)(model.config))


# --- sizes and figures ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_sizes_have_the_dense_denominator(family: str) -> None:
    dense = make_model(family)
    whole, parameters = anatomy_of(dense).dense_weights, sum(p.numel() for p in dense.parameters())
    model = make_model(family)
    heads, neurons = random_units(model, 4)
    shrink_(model, ShrinkPlan(heads, neurons, remove_hidden=range(8)))
    report = size_report(model)
    assert report.dense_weights == whole and report.dense_parameters == parameters
    assert report.kept_weights == sum(m.numel() for m in anatomy_of(model).matrices())
    blocks = inspect_blocks(anatomy_of(model))
    assert sum(b.sparsity.dense_weights for b in blocks) == whole
    narrow = make_model(family)
    shrink_(narrow, ShrinkPlan(remove_hidden=range(8)))
    assert anatomy_of(narrow).structural_sparsity == pytest.approx(0.25, abs=1e-12)


def test_figures_are_those_of_the_masked_twin() -> None:
    masked = make_model("bert")
    narrow = copy.deepcopy(masked)
    heads, neurons = random_units(masked, 2)
    shrink_(narrow, ShrinkPlan(heads, neurons, remove_hidden=GONE))
    shrink_(masked, ShrinkPlan(heads, neurons))
    with torch.no_grad():
        stream = stream_of(anatomy_of(masked))
        for reader in stream.readers:
            reader.weight[:, GONE] = 0
        for writer in stream.writers:
            writer.weight[list(GONE)] = 0
    assert structure(anatomy_of(narrow)) == structure(anatomy_of(masked))
    assert graph_report(anatomy_of(narrow)).to_dict() == graph_report(anatomy_of(masked)).to_dict()


# --- what is refused -----------------------------------------------------------------------------


def test_what_is_not_declared_is_refused() -> None:
    from transformers import BertForSequenceClassification

    class MyBert(BertForSequenceClassification):
        pass

    plan = ShrinkPlan(remove_hidden=[0])
    own = MyBert(make("BertForSequenceClassification").config)
    for model, words in (
        (make_model("roberta"), "RobertaForMaskedLM is not known"),
        (own, "MyBert is not known .*BertForSequenceClassification"),
        (make_model("bert-cross"), "BertLMHeadModel is not known"),
    ):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(AnatomyError, match=words):
            shrink_(model, plan)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    for family in ("t5", "opt"):
        with pytest.raises(PlanError, match="not declared"):
            shrink_(make_model(family), plan)
        with pytest.raises(AnatomyError, match="bert, distilbert, roberta"):
            stream_of(anatomy_of(make_model(family)))


def test_a_norm_that_the_declaration_does_not_name_is_refused() -> None:
    model = make_model("bert")
    model.bert.extra = nn.LayerNorm(D_MODEL)
    with pytest.raises(AnatomyError, match="extra: not in the declaration"):
        shrink_(model, ShrinkPlan(remove_hidden=[0]))


@pytest.mark.parametrize("gone", [[D_MODEL], range(D_MODEL)], ids=["beyond", "all"])
def test_dimensions_that_cannot_go_are_refused(gone: Any) -> None:
    with pytest.raises(PlanError, match=f"of a model with {D_MODEL}"):
        shrink_(make_model("bert"), ShrinkPlan(remove_hidden=gone))


def test_a_model_loses_inputs_of_layers_or_hidden_dimensions() -> None:
    """Both at once have no place in a plan, and the one after the other changes nothing."""
    model = make_model("bert")
    name = anatomy_of(model).mlps[0].name
    with pytest.raises(PlanError, match="not both"):
        ShrinkPlan(remove_inputs={name: {"up": [0]}}, remove_hidden=[1])
    shrink_(model, ShrinkPlan(remove_hidden=[1]))
    before = logits(model, make_inputs("bert"))
    with pytest.raises(PlanError, match="not both"):
        shrink_(model, ShrinkPlan(remove_inputs={name: {"up": [0]}}))
    assert torch.equal(logits(model, make_inputs("bert")), before)
    other = make_model("bert")
    shrink_(other, ShrinkPlan(remove_inputs={name: {"up": [0]}}))
    with pytest.raises(PlanError, match="not both"):
        shrink_(other, ShrinkPlan(remove_hidden=[1]))


def test_a_narrow_model_keeps_its_dead_inputs() -> None:
    model = make_model("bert")
    shrink_(model, ShrinkPlan(remove_hidden=[1]))
    with torch.no_grad():
        for layer in anatomy_of(model).mlps[0].fan_in():
            layer.weight[:, : D_MODEL // 2] = 0
    assert not dead_inputs(anatomy_of(model))
