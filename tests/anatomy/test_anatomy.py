"""Where things are: every family, with any head and bare; clear errors elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuroprune.anatomy import AnatomyError, AttentionPattern, Family, MLPPattern, anatomy_of
from neuroprune.anatomy.patterns import linear_at
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from tests.zoo import D_FF, D_MODEL, FAMILIES, HEAD_DIM, HEADS, LAYERS, make_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_found_once(family: str) -> None:
    anatomy = anatomy_of(make_model(family))
    stacks = 2 if family.startswith("t5") else 1
    cross = LAYERS if family in ("t5", "t5-gated", "bert-cross") else 0
    assert len(anatomy.attentions) == stacks * LAYERS + cross
    assert sum(b.is_cross for b in anatomy.attentions) == cross
    assert len(anatomy.mlps) == stacks * LAYERS
    names = [b.name for b in anatomy.blocks()]
    assert len(set(names)) == len(names)
    for block in anatomy.attentions:
        assert (block.num_heads, block.num_kv_heads, block.head_dim) == (HEADS, HEADS, HEAD_DIM)
        assert block.weights_per_head * HEADS == sum(m.numel() for m in block.matrices())
    for mlp in anatomy.mlps:
        assert mlp.d_ff == D_FF
        assert (mlp.gate_proj is not None) == (family in ("t5-gated", "llama"))
        assert mlp.weights_per_neuron * D_FF == sum(m.numel() for m in mlp.matrices())
    assert anatomy.dense_weights == sum(m.numel() for m in anatomy.matrices())


def test_names_do_not_depend_on_the_head() -> None:
    from transformers import BertModel, DistilBertModel, OPTModel, T5EncoderModel, T5Model

    for family, bare in (
        ("bert", BertModel),
        ("distilbert", DistilBertModel),
        ("opt", OPTModel),
        ("t5", T5Model),
    ):
        model = make_model(family)
        with_head = [b.name for b in anatomy_of(model).blocks()]
        assert [b.name for b in anatomy_of(bare(model.config)).blocks()] == with_head
    encoder = anatomy_of(T5EncoderModel(make_model("t5").config))
    assert {b.name.split(".")[0] for b in encoder.blocks()} == {"encoder"}


@pytest.mark.parametrize("family", FAMILIES)
def test_input_groups_read_the_same_space(family: str) -> None:
    for block in anatomy_of(make_model(family)).attentions:
        groups = block.input_groups()
        assert len(groups) == (2 if block.is_cross else 1)
        assert [len(g) for g in groups] == ([1, 2] if block.is_cross else [3])
        flat = [id(w) for g in groups for w in g]
        layers = (block.q_proj, block.k_proj, block.v_proj)
        assert flat == [id(layer.weight) for layer in layers]
        assert all(w.shape[1] == D_MODEL for g in groups for w in g)


def test_heads_are_the_weight_blocks() -> None:
    block = anatomy_of(make_model("bert")).attentions[1]
    heads = block.heads()
    assert heads.shape == (HEADS, 3 * HEAD_DIM * D_MODEL)
    rows = slice(2 * HEAD_DIM, 3 * HEAD_DIM)
    layers = (block.q_proj, block.k_proj, block.v_proj)
    expected = torch.cat([layer.weight[rows].flatten() for layer in layers])
    assert torch.equal(heads[2], expected.detach())


def test_adapters_are_refused_with_the_remedy() -> None:
    model = make_model("bert")

    class LoraLinear(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base

    layer = model.bert.encoder.layer[0].attention.self
    layer.query = LoraLinear(layer.query)
    with pytest.raises(AnatomyError, match="Merge adapters"):
        anatomy_of(model)


def test_a_model_that_does_not_fit_its_declaration() -> None:
    model = make_model("bert")
    model.bert.encoder.blocks = model.bert.encoder.layer
    del model.bert.encoder.layer
    with pytest.raises(AnatomyError, match="adding_a_family"):
        anatomy_of(model)


def test_two_bodies_are_ambiguous() -> None:
    model = make_model("bert")
    model.second = make_model("bert").bert
    with pytest.raises(AnatomyError, match="exactly once"):
        anatomy_of(model)


def test_a_declaration_needs_one_star() -> None:
    attention = AttentionPattern(path="h.*.a", q="q", k="k", v="v", o="o", head_dim="d")
    with pytest.raises(AnatomyError, match="exactly one '\\*'"):
        Family(
            "made-up",
            (attention,),
            (MLPPattern(path="h.mlp", up="u", down="d", activation="a"),),
            "heads",
            "width",
        )


def test_a_config_with_the_plan_of_other_shapes_is_refused() -> None:
    from transformers import BertModel

    model = make_model("bert")
    shrink_(model, ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": [0]}))
    with pytest.raises(AnatomyError, match="from_pretrained"):
        anatomy_of(BertModel(model.config))


def test_a_gpt2_that_is_declared_is_refused_with_the_reason() -> None:
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(n_embd=D_MODEL, n_layer=1, n_head=HEADS, vocab_size=60))
    with pytest.raises(AnatomyError, match="is a Conv1D, as GPT-2 has them"):
        linear_at(model, "h.0.attn.c_attn")
