"""Llama and its kin: query heads that share keys and values, from anatomy to checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import neuroprune
from neuroprune import (
    DSP,
    L1,
    CoFi,
    Fisher,
    Flops,
    Heads,
    Magnitude,
    Movement,
    NeuroPrune,
    Parameters,
    ProximalGroup,
)
from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.inputs import count_flops, sample_inputs
from neuroprune.checkpoint import loads_with
from neuroprune.choices import Connectivity, Redundancy
from neuroprune.evaluation.size import size_report
from neuroprune.methods.connectivity import UnitConnectivity
from neuroprune.methods.costs import parameter_cost, unit_counts, weight_cost
from neuroprune.methods.takeover import Takeover
from neuroprune.methods.units import plan_of
from tests.methods.loops import run
from tests.tasks.helpers import tokenizer
from tests.zoo import VOCAB, logits, make_inputs, silence_

KINDS = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "smollm3": transformers.SmolLM3ForCausalLM,
}
GROUP = [0, 1, 2]  # the heads of a group
PAPER_MODE = NeuroPrune(apply="prox", alpha=10.0, beta=10.0)


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
    run(pruner, "llama", range(steps))
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
    neuroprune.save_pretrained(model, tmp_path, tokenizer())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).vocab_size
    assert transformers.AutoConfig.from_pretrained(tmp_path).model_type == kind
    with pytest.raises(RuntimeError, match=r"mismatch|is a per-layer attribute"):
        KINDS[kind].from_pretrained(tmp_path)
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
        NeuroPrune(target=0.5, connectivity="strength", redundancy="weights", theta=2.0),
        PAPER_MODE,
        L1(target=0.5),
        Magnitude(target=0.5, structure="units"),
        Magnitude(target=0.5),
        ProximalGroup(target=0.5),
        Movement(target=0.5),
        Fisher(target=0.5),
        CoFi(target=0.5),
        DSP(heads=6),
    ],
    ids=str,
)
def test_every_method_meets_what_it_was_asked_for(method: Any, tmp_path: Path) -> None:
    model = make()
    inputs = sample_inputs(model, 1, 16)
    dense = count_flops(model, inputs)
    pruner = train(model, method)
    reached, now = pruner.reached, size_report(model)
    met = {
        "structural:0.5": (now.structural_sparsity, pytest.approx(0.5, abs=0.03)),
        "structural:0.9": (now.structural_sparsity, pytest.approx(0.9, abs=0.03)),
        "heads:6": (sum(b.num_heads for b in anatomy_of(model).attentions), 6),
        "parameters:20000": (now.parameters, pytest.approx(20_000, abs=150)),
        "weights:0.5": (now.weight_sparsity, pytest.approx(0.5, abs=0.03)),
        "flops:0.5@1x16": (count_flops(model, inputs) / dense, pytest.approx(0.5, abs=0.03)),
    }
    assert bool(reached) == (method != PAPER_MODE)
    for asked in reached:
        found, wanted = met[asked]
        assert reached[asked] == pytest.approx(found) == wanted
    if method == PAPER_MODE:
        assert now.weight_sparsity > 0.1
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


def test_strength_is_that_of_all_matrices() -> None:
    block = anatomy_of(make()).attentions[0]
    connectivity = UnitConnectivity(Connectivity.STRENGTH, 16)
    before = connectivity.of(block)
    with torch.no_grad():
        block.k_proj.weight[:8] *= 100
    after = connectivity.of(block)
    total = sum(float(m.detach().square().sum()) for m in block.matrices())
    assert float(after.sum()) == pytest.approx(total, rel=1e-5)
    assert after[0] > before[0]
    assert after[1] == before[1]


@pytest.mark.parametrize("how", [Redundancy.WEIGHTS, Redundancy.OUTPUT])
def test_whole_groups_are_taken_over(how: Redundancy) -> None:
    """Group 1 does what group 0 does: merged into it, nothing is lost."""
    model = make().double()
    for block in anatomy_of(model).attentions:
        with torch.no_grad():
            for layer, half in ((block.q_proj, 24), (block.k_proj, 8), (block.v_proj, 8)):
                layer.weight[half:] = layer.weight[:half]
            block.o_proj.weight[:, 24:] = 2 * block.o_proj.weight[:, :24]
    takeover = Takeover(how, 1e-4, 1)
    takeover.attach(anatomy_of(model))
    model.train()
    for seed in range(10):
        model(**make_inputs("llama", seed))
    inputs = make_inputs("llama", 99)
    expected = logits(model, inputs)
    anatomy = anatomy_of(model)
    gone = {b.name: torch.zeros(b.d_ff, dtype=torch.bool) for b in anatomy.mlps}
    gone |= {b.name: torch.tensor([False, True]) for b in anatomy.attentions}
    takeover.absorb_(anatomy, gone)
    neuroprune.shrink_(model, plan_of(anatomy, gone))
    assert {b.num_heads for b in anatomy_of(model).attentions} == {3}
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-4)


def test_parameters_of_the_dense_model_are_known_to_an_emptied_attention() -> None:
    model = make()
    dense = sum(p.numel() for p in model.parameters())
    inputs = {"layers.0.self_attn": {"qkv": [0, 1, 2]}}
    neuroprune.shrink_(model, neuroprune.ShrinkPlan(remove_inputs=inputs))
    neuroprune.shrink_(model, neuroprune.ShrinkPlan({"layers.0.self_attn": range(6)}))
    assert size_report(model).dense_parameters == dense


def test_groups_are_not_split_where_there_are_no_values() -> None:
    with torch.device("meta"):
        model = KINDS["llama"](make().config)
    with pytest.raises(neuroprune.PlanError, match="among 3 query heads"):
        neuroprune.shrink_(model, neuroprune.ShrinkPlan({"layers.0.self_attn": [0, 1]}))
