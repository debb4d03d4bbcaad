"""Llama and its kin: query heads that share keys and values, from anatomy to checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import neuroprune
from neuroprune import DSP, L1, CoFi, Fisher, Flops, Heads, Movement, NeuroPrune, Parameters
from neuroprune.anatomy import anatomy_of
from neuroprune.checkpoint import loads_with
from neuroprune.evaluation.size import size_report
from neuroprune.methods.costs import parameter_cost, unit_counts, weight_cost
from tests.zoo import VOCAB, logits, make_inputs, silence_

KINDS = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "smollm3": transformers.SmolLM3ForCausalLM,
}
GROUP = [0, 1, 2]  # the heads of a group


def make(kind: str = "llama", attention: str = "sdpa", **settings: Any) -> Any:
    """6 query heads, of which 3 share a key/value head each."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=24,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attention,
        **settings,
    )
    model = KINDS[kind](config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def train(model: Any, method: Any, steps: int = 12) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = neuroprune.attach(model, optimizer, method, steps)
    model.train()
    for seed in range(steps):
        model(**make_inputs("llama", seed)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    return pruner


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_counted_as_they_are(kind: str) -> None:
    model = make(kind)
    anatomy = anatomy_of(model)
    assert {(b.num_heads, b.num_kv_heads, b.group_size) for b in anatomy.attentions} == {(6, 2, 3)}
    dense = anatomy.dense_weights
    assert dense == anatomy.kept_weights
    weights, parameters = weight_cost(anatomy), parameter_cost(anatomy, model)
    neuroprune.shrink_(model, neuroprune.ShrinkPlan({"layers.0.self_attn": GROUP}))
    now = anatomy_of(model)
    assert now.dense_weights == dense
    assert weights.kept(unit_counts(now)) == now.kept_weights
    assert parameters.kept(unit_counts(now)) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [GROUP, [3, 4, 5], range(6)], ids=["first", "last", "all"])
def test_a_cut_is_a_mask_and_reloads(
    kind: str, attention: str, heads: list[int], tmp_path: Path
) -> None:
    masked, model = make(kind, attention), make(kind, attention)
    plan = neuroprune.ShrinkPlan({"layers.1.self_attn": heads}, {"layers.0.mlp": [0, 5]})
    silence_(anatomy_of(masked), dict(plan.remove_heads), dict(plan.remove_neurons))
    dense = anatomy_of(model).dense_weights
    neuroprune.shrink_(model, plan)
    assert anatomy_of(model).dense_weights == dense
    inputs = make_inputs("llama")
    torch.testing.assert_close(logits(model, inputs), logits(masked, inputs), rtol=0, atol=1e-5)
    neuroprune.save_pretrained(model, tmp_path)
    loaded = neuroprune.from_pretrained(tmp_path, attn_implementation=attention)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    assert anatomy_of(loaded).dense_weights == dense
    assert [b.group_size for b in anatomy_of(loaded).attentions] == [3, 3]
    ids = inputs["input_ids"]
    new = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(ids, **new), masked.generate(ids, **new))


def test_groups_are_not_split() -> None:
    with pytest.raises(neuroprune.PlanError, match="shares each key/value head among 3 query head"):
        neuroprune.shrink_(make(), neuroprune.ShrinkPlan({"layers.0.self_attn": [0, 1]}))


@pytest.mark.parametrize(
    "method",
    [
        NeuroPrune(target=0.5),
        NeuroPrune(target=0.9),
        NeuroPrune(target=0.5, uniform=True),
        NeuroPrune(target=Flops(0.5, batch=1, length=16)),
        NeuroPrune(target=Parameters(20_000)),
        NeuroPrune(target=[0.5, Heads(6)]),
        NeuroPrune(target=0.5, redundancy="output"),
        NeuroPrune(target="weights:0.5"),
        NeuroPrune(apply="prox", alpha=1.0, beta=1.0),
        L1(target=0.5),
        Movement(target=0.5),
        Fisher(target=0.5),
        CoFi(target=0.5),
        DSP(heads=6),
    ],
    ids=str,
)
def test_every_method_meets_what_it_was_asked_for(method: Any, tmp_path: Path) -> None:
    model = make()
    pruner = train(model, method)
    reached, now = pruner.reached, size_report(model)
    met = {
        "structural:0.5": (now.structural_sparsity, pytest.approx(0.5, abs=0.03)),
        "structural:0.9": (now.structural_sparsity, pytest.approx(0.9, abs=0.03)),
        "heads:6": (sum(b.num_heads for b in anatomy_of(model).attentions), 6),
        "parameters:20000": (now.parameters, pytest.approx(20_000, abs=150)),
        "weights:0.5": (now.weight_sparsity, pytest.approx(0.5, abs=0.03)),
    }
    assert reached or getattr(method, "target", None) is None
    for asked in reached:
        if asked in met:
            found, wanted = met[asked]
            assert reached[asked] == found == wanted
    neuroprune.save_pretrained(model, tmp_path)
    inputs = make_inputs("llama")
    loaded = neuroprune.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_equal_layers_load_with_stock_classes(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    heads = {b.name: GROUP for b in anatomy_of(model).attentions}
    neuroprune.shrink_(model, neuroprune.ShrinkPlan(heads))
    neuroprune.save_pretrained(model, tmp_path)
    assert loads_with(tmp_path) == "transformers"
    loaded = KINDS[kind].from_pretrained(tmp_path)
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (3, 1)
    inputs = make_inputs("llama")
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs), rtol=0, atol=1e-5)


def test_circuits_of_rotary_attentions_are_not_compared() -> None:
    for method in (
        NeuroPrune(redundancy="circuit"),
        NeuroPrune(target=0.5, redundancy="circuit"),
    ):
        with pytest.raises(neuroprune.ConfigError, match="turns both by their positions"):
            train(make(), method)
