"""Surgery changes shapes, never functions: masked == shrunk, and training does not notice."""

from __future__ import annotations

import copy
import inspect
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuroprune.anatomy import AnatomyError, WrappedModelError, anatomy_of
from neuroprune.methods.dead_units import dead_units
from neuroprune.plan import PlanError, ShrinkPlan
from neuroprune.surgery import shrink_
from tests.zoo import (
    D_FF,
    D_MODEL,
    FAMILIES,
    GENERATIVE,
    HEAD_DIM,
    HEADS,
    inputs_for,
    lineage_of,
    logits,
    make_inputs,
    make_model,
    silence_,
    unit_counts,
)


def random_units(model: nn.Module, seed: int) -> tuple[dict, dict]:
    """Random heads and neurons per block; none and all of a block are likely."""
    draw = random.Random(seed)
    heads, neurons = unit_counts(model)
    chosen_heads = {
        b: draw.sample(range(n), draw.choice([0, min(1, n), n // 2, n])) for b, n in heads.items()
    }
    chosen = {
        b: draw.sample(range(n), draw.choice([0, min(1, n), n // 2, n])) for b, n in neurons.items()
    }
    return chosen_heads, chosen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_masked_equals_shrunk(family: str, attention: str, seed: int) -> None:
    masked = make_model(family, attention=attention)
    heads, neurons = random_units(masked, seed)
    silence_(anatomy_of(masked), heads, neurons)
    shrunk = copy.deepcopy(masked)
    shrink_(shrunk, ShrinkPlan(heads, neurons))
    inputs = make_inputs(family)
    torch.testing.assert_close(logits(shrunk, inputs), logits(masked, inputs), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in shrunk.parameters()) <= sum(
        p.numel() for p in masked.parameters()
    )
    now_heads, now_neurons = unit_counts(shrunk)
    assert now_heads == {b: HEADS - len(set(h)) for b, h in heads.items()}
    assert now_neurons == {b: D_FF - len(set(n)) for b, n in neurons.items()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", GENERATIVE)
@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), beams=st.sampled_from([1, 2]))
def test_generate_with_cache_is_unchanged(
    family: str, attention: str, seed: int, beams: int
) -> None:
    masked = make_model(family, attention=attention)
    heads, neurons = random_units(masked, seed)
    silence_(anatomy_of(masked), heads, neurons)
    shrunk = copy.deepcopy(masked)
    shrink_(shrunk, ShrinkPlan(heads, neurons))
    ids = make_inputs(family)["input_ids"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": beams}
    mask = torch.ones_like(ids)
    before = masked.generate(input_ids=ids, attention_mask=mask, use_cache=True, **options)
    after = shrunk.generate(input_ids=ids, attention_mask=mask, use_cache=True, **options)
    without_cache = shrunk.generate(input_ids=ids, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(before, after)
    assert torch.equal(after, without_cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_cuts_equal_one(family: str) -> None:
    once, twice = make_model(family), make_model(family)
    first = ShrinkPlan(*random_units(once, 3))
    shrink_(twice, first)
    second = ShrinkPlan(*random_units(twice, 4))
    shrink_(twice, second)
    shrink_(once, first.then(second))
    for (name, p), (other, q) in zip(
        once.named_parameters(), twice.named_parameters(), strict=True
    ):
        assert name == other
        torch.testing.assert_close(p, q)
    assert lineage_of(once) == lineage_of(twice)
    inputs = make_inputs(family)
    torch.testing.assert_close(logits(once, inputs), logits(twice, inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_head_is_read_by_its_dominator(family: str) -> None:
    """Where head i is an exact copy of head j, merging i into j changes nothing."""
    model = make_model(family)
    anatomy = anatomy_of(model)
    copied = 0, 2
    with torch.no_grad():
        for block in anatomy.attentions:
            i, j = (slice(h * HEAD_DIM, (h + 1) * HEAD_DIM) for h in copied)
            for layer in (block.q_proj, block.k_proj, block.v_proj):
                layer.weight[i] = layer.weight[j]
                if layer.bias is not None:
                    layer.bias[i] = layer.bias[j]
        if family.startswith("t5"):  # the position bias is part of what makes a head
            for module in model.modules():
                if getattr(module, "has_relative_attention_bias", False):
                    table = module.relative_attention_bias.weight
                    table[:, copied[0]] = table[:, copied[1]]
    inputs = make_inputs(family)
    before = logits(model, inputs)
    merges = {b.name: {copied[0]: copied[1]} for b in anatomy.attentions}
    shrink_(model, ShrinkPlan(merge_heads=merges))
    torch.testing.assert_close(logits(model, inputs), before, rtol=0, atol=1e-5)
    assert all(b.num_heads == HEADS - 1 for b in anatomy_of(model).attentions)


@pytest.mark.parametrize("family", FAMILIES)
def test_constant_neurons_are_folded_exactly(family: str) -> None:
    model = make_model(family)
    with torch.no_grad():
        for block in anatomy_of(model).mlps:
            for layer in block.fan_in():
                layer.weight[[1, 5]] = 0
                if block.down_proj.bias is None and layer.bias is not None:
                    layer.bias[[1, 5]] = 0
    plan = dead_units(anatomy_of(model))
    assert all(set(plan.remove_neurons[b.name]) == {1, 5} for b in anatomy_of(model).mlps)
    inputs = make_inputs(family)
    before = logits(model, inputs)
    shrink_(model, plan)
    torch.testing.assert_close(logits(model, inputs), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_with_zero_values_are_folded_exactly(family: str) -> None:
    model = make_model(family)
    with torch.no_grad():
        for block in anatomy_of(model).attentions:
            block.v_proj.weight[HEAD_DIM : 2 * HEAD_DIM] = 0
    plan = dead_units(anatomy_of(model))
    assert all(plan.remove_heads[b.name] == (1,) for b in anatomy_of(model).attentions)
    inputs = make_inputs(family)
    before = logits(model, inputs)
    shrink_(model, plan)
    torch.testing.assert_close(logits(model, inputs), before, rtol=0, atol=1e-5)


def test_a_constant_that_cannot_be_folded_is_not_dead() -> None:
    """Without an output bias, a neuron that emits a nonzero constant must stay."""
    model = make_model("t5")
    block = anatomy_of(model).mlps[0]
    object.__setattr__(block, "activation", torch.sigmoid)  # act(0) = 0.5
    from neuroprune.methods.dead_units import dead_neurons

    with torch.no_grad():
        block.up_proj.weight[2] = 0
        block.up_proj.weight[3] = 0
        block.down_proj.weight[:, 3] = 0
    assert dead_neurons(block).nonzero().flatten().tolist() == [3]


def test_dense_model_has_no_dead_units() -> None:
    for family in FAMILIES:
        assert not dead_units(anatomy_of(make_model(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_attributes_follow(family: str) -> None:
    model = make_model(family)
    first = anatomy_of(model).attentions[0]
    shrink_(model, ShrinkPlan(remove_heads={first.name: [0]}))
    block = anatomy_of(model).attentions[0]
    assert block.q_proj.out_features == block.o_proj.in_features == (HEADS - 1) * HEAD_DIM
    for attribute in block.head_attributes:
        assert getattr(block.owner, attribute) == HEADS - 1
    for attribute in block.width_attributes:
        assert getattr(block.owner, attribute) == (HEADS - 1) * HEAD_DIM


def test_models_that_share_a_config_stay_apart() -> None:
    from transformers import BertForSequenceClassification

    pruned = make_model("bert")
    dense = BertForSequenceClassification(pruned.config)
    shrink_(pruned, ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": [0]}))
    assert not lineage_of(dense).plan
    assert getattr(dense.config, "neuroprune", None) is None
    assert pruned.bert.config is pruned.config
    assert copy.deepcopy(pruned).config.neuroprune == pruned.config.neuroprune


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ShrinkPlan(remove_heads={"encoder.layer.0.attention": [HEADS]}), "another model"),
        (ShrinkPlan(remove_heads={"encoder.layer.9.attention": [0]}), "attention blocks: encoder"),
        (ShrinkPlan(remove_neurons={"encoder.layer.0.attention": [0]}), "MLP blocks: encoder"),
        (ShrinkPlan(merge_heads={"encoder.layer.0.attention": {0: HEADS}}), "another model"),
    ],
)
def test_a_plan_for_another_model_changes_nothing(plan: ShrinkPlan, message: str) -> None:
    model = make_model("bert")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        shrink_(model, plan)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_wrapped_models_are_refused_with_the_remedy() -> None:
    model = make_model("bert")
    plan = ShrinkPlan(remove_heads={"encoder.layer.0.attention": [0]})
    with pytest.raises(WrappedModelError, match=r"model\.module"):
        shrink_(nn.DataParallel(model), plan)
    with pytest.raises(WrappedModelError, match="_orig_mod"):
        shrink_(torch.compile(model), plan)

    class DistributedDataParallel(nn.Module):  # the real one needs a process group
        pass

    with pytest.raises(WrappedModelError, match="unwrap_model"):
        shrink_(DistributedDataParallel(), plan)
    model.compile()
    with pytest.raises(WrappedModelError, match="after"):
        shrink_(model, plan)


def test_unknown_model_type_tells_how_to_register() -> None:
    from transformers import ViTConfig, ViTModel

    vit = ViTModel(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=4,
            patch_size=2,
        )
    )
    with pytest.raises(AnatomyError, match="register_family"):
        shrink_(vit, ShrinkPlan())
    with pytest.raises(AnatomyError, match="register_family"):
        shrink_(nn.Linear(2, 2), ShrinkPlan())


def test_flash_attention_is_refused_for_a_shared_position_bias() -> None:
    model = make_model("t5")
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "flash_attention_2"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PlanError, match="'sdpa' or 'eager'"):
        shrink_(model, ShrinkPlan(remove_heads={"encoder.block.0.layer.0.SelfAttention": [0]}))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_the_attention_implementation_can_be_changed_after_a_cut() -> None:
    masked = make_model("t5")
    heads, neurons = random_units(masked, 1)
    silence_(anatomy_of(masked), heads, neurons)
    shrunk = copy.deepcopy(masked)
    shrink_(shrunk, ShrinkPlan(heads, neurons))
    inputs = make_inputs("t5")
    for implementation in ("eager", "sdpa", "eager"):
        shrunk.set_attn_implementation(implementation)
        again = copy.deepcopy(shrunk)
        for model in (shrunk, again):
            torch.testing.assert_close(
                logits(model, inputs), logits(masked, inputs), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("layer", ["gate_proj", "up_proj"])
def test_a_gated_neuron_is_silent_by_one_zero_row(layer: str) -> None:
    model = make_model("t5-gated")
    with torch.no_grad():
        for block in anatomy_of(model).mlps:
            getattr(block, layer).weight[[2, 3]] = 0
    plan = dead_units(anatomy_of(model))
    assert all(plan.remove_neurons[b.name] == (2, 3) for b in anatomy_of(model).mlps)
    inputs = make_inputs("t5-gated")
    before = logits(model, inputs)
    shrink_(model, plan)
    torch.testing.assert_close(logits(model, inputs), before, rtol=0, atol=1e-5)


def test_masks_are_read_as_masks_and_plans_as_plans() -> None:
    mask = torch.tensor([False, True])
    with pytest.raises(PlanError, match="integer indices"):
        ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": mask})
    kept = ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": mask.nonzero().flatten()})
    assert kept.remove_neurons["encoder.layer.0.mlp"] == (1,)
    with pytest.raises(PlanError, match="expected a ShrinkPlan"):
        # Without the shape checks of the tests, which would refuse it first.
        inspect.unwrap(shrink_)(make_model("bert"), {"remove_heads": {}})


def test_parametrised_and_partly_compiled_models_are_refused() -> None:
    from torch.nn.utils import prune

    model = make_model("bert")
    prune.random_unstructured(model.bert.encoder.layer[0].intermediate.dense, "weight", 0.5)
    with pytest.raises(AnatomyError, match="remove parametrisations"):
        anatomy_of(model)
    model = make_model("bert")
    model.bert.encoder.layer[0] = torch.compile(model.bert.encoder.layer[0])
    with pytest.raises(WrappedModelError, match="a part of it"):
        anatomy_of(model)


def test_frozen_parameters_stay_frozen_and_gradients_follow() -> None:
    model = make_model("bert")
    block = anatomy_of(model).mlps[0]
    block.up_proj.weight.requires_grad_(False)
    block.down_proj.weight.grad = torch.randn(D_MODEL, D_FF)
    kept = block.down_proj.weight.grad[:, 1:].clone()
    shrink_(model, ShrinkPlan(remove_neurons={block.name: [0]}))
    assert not block.up_proj.weight.requires_grad
    assert torch.equal(block.down_proj.weight.grad, kept)


def test_an_emptied_parameter_is_hooked_once_however_often_the_model_is_cut() -> None:
    model = make_model("bert")
    name = anatomy_of(model).attentions[0].name
    other = anatomy_of(model).mlps[0].name
    shrink_(model, ShrinkPlan(remove_heads={name: range(HEADS)}))
    for _ in range(3):
        shrink_(model, ShrinkPlan(remove_neurons={other: [0]}))
    empty = [p for p in model.parameters() if p.numel() == 0]
    assert empty
    assert {len(p._post_accumulate_grad_hooks) for p in empty} == {1}


class Classifier(nn.Module):
    """A body and a head of the user's own, with a config that is not the body's."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = make_model("bert").base_model
        self.config = copy.deepcopy(self.bert.config)
        self.head = nn.Linear(D_MODEL, 2)


def test_a_body_with_a_config_of_its_own_keeps_its_lineage() -> None:
    model = Classifier()
    dense = anatomy_of(model).dense_weights
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0, 1]}, {"encoder.layer.1.mlp": [3]}))
    anatomy = anatomy_of(model)
    assert anatomy.dense_weights == dense
    assert anatomy.structural_sparsity > 0
    assert anatomy.lineage.to_dict() == model.config.neuroprune
    shrink_(model, ShrinkPlan({"encoder.layer.0.attention": [0]}))
    assert anatomy_of(model).lineage.plan.remove_heads == {"encoder.layer.0.attention": (0, 1, 2)}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_without_heads_can_be_trained_on_many_devices(family: str, tmp_path: Path) -> None:
    """DistributedDataParallel waits for a gradient of every parameter."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    model = make_model(family).train()
    heads = {b.name: range(b.num_heads) for b in anatomy_of(model).attentions}
    shrink_(model, ShrinkPlan(heads))
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        for seed in range(2):
            wrapped(**inputs_for(model, family, seed)).loss.backward()
    finally:
        dist.destroy_process_group()
