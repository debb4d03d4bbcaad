from __future__ import annotations

import copy
import json

import pytest
import torch

import neuroprune
from neuroprune import ShrinkPlan, anatomy_of, shrink_
from neuroprune.evaluation import bytes_on_disk, count_flops, sample_inputs, size_report
from tests.surgery.test_shrink import random_units
from tests.zoo import FAMILIES, make_inputs, make_model, random_inputs


def cut(model):
    """One head and three neurons of every block."""
    anatomy = anatomy_of(model)
    plan = ShrinkPlan(
        remove_heads={block.name: [1] for block in anatomy.attentions},
        remove_neurons={mlp.name: [0, 2, 5] for mlp in anatomy.mlps},
    )
    shrink_(model, plan)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_sparsities_of_a_cut_model(family):
    dense = make_model(family)
    before = size_report(dense)
    small = cut(copy.deepcopy(dense))
    after = size_report(small)
    assert before.parameters == before.dense_parameters == sum(p.numel() for p in set_of(dense))
    assert after.dense_parameters == before.parameters
    assert after.parameters == sum(p.numel() for p in set_of(small)) < before.parameters
    assert (before.weight_sparsity, before.structural_sparsity) == (0.0, 0.0)
    gone = sum(m.numel() for m in anatomy_of(dense).matrices()) - sum(
        m.numel() for m in anatomy_of(small).matrices()
    )
    assert after.structural_sparsity == pytest.approx(gone / before.dense_weights)
    assert after.weight_sparsity == after.structural_sparsity
    assert after.dense_weights - after.kept_weights == gone


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [4, 5])
def test_the_dense_model_is_remembered_where_inputs_and_units_went(family, seed):
    model = make_model(family)
    before = size_report(model)
    shrink_(model, ShrinkPlan(*random_units(model, seed), remove_inputs=random_inputs(model, seed)))
    after = size_report(model, make_inputs(family))
    assert after.dense_parameters == before.dense_parameters
    assert after.dense_weights == before.dense_weights
    assert 0 < after.structural_sparsity == after.weight_sparsity
    assert after.parameters == sum(p.numel() for p in set_of(model)) < before.parameters


def set_of(model):
    return {id(p): p for p in model.parameters()}.values()


def test_zeros_count_as_weight_sparsity_only():
    model = make_model("bert")
    with torch.no_grad():
        anatomy_of(model).mlps[0].up_proj.weight[:4] = 0
    report = size_report(model)
    assert report.zero_weights == 4 * 32
    assert report.weight_sparsity == pytest.approx(128 / report.dense_weights)
    assert report.structural_sparsity == 0.0


def test_bytes_are_those_of_all_files(tmp_path):
    neuroprune.save_pretrained(make_model("bert"), tmp_path / "out")
    (tmp_path / "out" / "deeper").mkdir()
    (tmp_path / "out" / "deeper" / "notes").write_bytes(b"x" * 1000)
    total = bytes_on_disk(tmp_path / "out")
    shallow = sum(f.stat().st_size for f in (tmp_path / "out").iterdir() if f.is_file())
    assert total == shallow + 1000
    assert size_report(make_model("bert"), directory=tmp_path / "out").bytes_on_disk == total
    with pytest.raises(FileNotFoundError, match="save the model there first"):
        bytes_on_disk(tmp_path / "absent")


def test_flops_of_an_encoder_by_hand():
    model, batch, length, d, d_ff, layers = make_model("bert"), 3, 7, 32, 24, 2
    inputs = sample_inputs(model, batch, length)
    tokens = batch * length
    linear = layers * 2 * tokens * (4 * d * d + 2 * d * d_ff)
    attention = layers * 2 * batch * 2 * length * length * d
    head = 2 * batch * (d * d + d * 2)  # pooler and classifier, one token each
    assert count_flops(model, inputs) == linear + attention + head


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_flops_fall_with_what_is_removed_and_not_with_zeros(family, attention):
    model, inputs = make_model(family, attention=attention), make_inputs(family)
    dense = count_flops(model, inputs)
    with torch.no_grad():
        anatomy_of(model).mlps[0].up_proj.weight.zero_()
    assert count_flops(model, inputs) == dense
    assert 0 < count_flops(cut(model), inputs) < dense


def test_both_attention_implementations_count_the_same():
    inputs = make_inputs("bert")
    counts = {count_flops(make_model("bert", attention=a), inputs) for a in ("sdpa", "eager")}
    assert len(counts) == 1


def test_the_model_is_left_as_it_was():
    model = make_model("t5").train()
    inputs = make_inputs("t5")
    count_flops(model, inputs)
    assert model.training
    assert model(**inputs).loss.requires_grad


def test_the_report_is_json_ready_and_leaves_out_what_was_not_measured():
    report = size_report(make_model("opt")).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert "flops" not in report
    assert "bytes_on_disk" not in report
    assert {"dense_weights", "weight_sparsity", "structural_sparsity"} <= set(report)


def test_sample_inputs_fit_the_model():
    for family in ("bert", "t5", "opt"):
        model = make_model(family)
        inputs = sample_inputs(model, 2, 6, target_length=3)
        assert inputs["input_ids"].shape == (2, 6)
        assert ("decoder_input_ids" in inputs) is (family == "t5")
        with torch.no_grad():
            out = model(**inputs)
        assert out.logits.shape[0] == 2
        again = sample_inputs(model, 2, 6, target_length=3)
        assert all(torch.equal(again[k], v) for k, v in inputs.items())
