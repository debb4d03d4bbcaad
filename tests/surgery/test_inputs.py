"""Input dimensions that nothing reads: dropping them changes shapes and speed, nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import neuroprune
from neuroprune.anatomy import AttentionBlock, anatomy_of
from neuroprune.anatomy.blocks import input_widths
from neuroprune.methods import dead_inputs
from neuroprune.methods.dead_units import LEAST_DEAD_INPUTS
from neuroprune.plan import PlanError, ShrinkPlan
from neuroprune.surgery import OptimizerStateError, shrink_
from neuroprune.surgery.inputs import GatheredLinear, remove_inputs_
from tests.surgery.test_optimizer_state import OPTIMIZERS, _adafactors, groups, step
from tests.surgery.test_shrink import random_units
from tests.zoo import (
    D_FF,
    D_MODEL,
    FAMILIES,
    GENERATIVE,
    HEADS,
    ZOO,
    Inputs,
    lineage_of,
    logits,
    make_inputs,
    make_model,
    random_inputs,
    silence_,
    silence_inputs_,
)


def masked_and_shrunk(family: str, seed: int, attention: str = "sdpa") -> tuple:
    """A model with dead units and inputs, and what is left of it without them."""
    masked = make_model(family, attention=attention)
    heads, neurons = random_units(masked, seed)
    inputs = random_inputs(masked, seed)
    silence_(anatomy_of(masked), heads, neurons)
    silence_inputs_(anatomy_of(masked), inputs)
    shrunk = copy.deepcopy(masked)
    shrink_(shrunk, ShrinkPlan(heads, neurons, remove_inputs=inputs))
    return masked, shrunk, inputs


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), attention=st.sampled_from(["sdpa", "eager"]))
def test_masked_equals_shrunk(family: str, seed: int, attention: str) -> None:
    """Units and inputs in one cut, none and all of either among them."""
    masked, shrunk, inputs = masked_and_shrunk(family, seed, attention)
    batch = make_inputs(family)
    torch.testing.assert_close(logits(shrunk, batch), logits(masked, batch), rtol=0, atol=1e-5)
    for block in anatomy_of(shrunk).blocks():
        assert input_widths(block) == {
            group: D_MODEL - len(gone) for group, gone in inputs[block.name].items()
        }


@pytest.mark.parametrize("family", GENERATIVE)
def test_generate_with_cache_is_unchanged(family: str) -> None:
    masked, shrunk, _ = masked_and_shrunk(family, seed=4)
    ids = make_inputs(family)["input_ids"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    mask = torch.ones_like(ids)
    before, after = (
        m.generate(input_ids=ids, attention_mask=mask, **options) for m in (masked, shrunk)
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_cuts_equal_one(family: str) -> None:
    """Also where the first takes units, and the second more inputs of the same layers."""
    once, twice = make_model(family), make_model(family)
    first = ShrinkPlan(*random_units(once, 3), remove_inputs=random_inputs(once, 3))
    shrink_(twice, first)
    second = ShrinkPlan(*random_units(twice, 4), remove_inputs=some_inputs(twice))
    shrink_(twice, second)
    shrink_(once, first.then(second))
    for p, q in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    for (name, b), (other, c) in zip(once.named_buffers(), twice.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(b, c)
    assert lineage_of(once) == lineage_of(twice)
    inputs = make_inputs(family)
    torch.testing.assert_close(logits(once, inputs), logits(twice, inputs))


def some_inputs(model: nn.Module) -> Inputs:
    """Every third of the inputs that are left, from another one in every block."""
    return {
        block.name: {g: range(i % 3, width, 3) for g, width in input_widths(block).items()}
        for i, block in enumerate(anatomy_of(model).blocks())
    }


@pytest.mark.parametrize("family", ["t5", "bert-cross"])
def test_cross_attention_reads_two_spaces(family: str) -> None:
    model = make_model(family)
    block = next(b for b in anatomy_of(model).attentions if b.is_cross)
    inputs = {block.name: {"kv": range(12)}}
    silence_inputs_(anatomy_of(model), inputs)
    batch = make_inputs(family)
    before = logits(model, batch)
    shrink_(model, ShrinkPlan(remove_inputs=inputs))
    torch.testing.assert_close(logits(model, batch), before, rtol=0, atol=1e-5)
    block = next(b for b in anatomy_of(model).attentions if b.is_cross)
    assert input_widths(block) == {"q": D_MODEL, "kv": D_MODEL - 12}
    assert type(block.q_proj) is nn.Linear
    assert all(type(layer) is GatheredLinear for layer in (block.k_proj, block.v_proj))


def test_heads_that_share_keys_and_values_share_inputs() -> None:
    """Fewer rows in k and v than in q: the columns are the same."""
    sizes = {"q": (32, 16), "k": (16, 16), "v": (16, 16), "o": (16, 32)}
    q, k, v, o = (nn.Linear(n, rows, bias=False) for rows, n in sizes.values())
    block = AttentionBlock("a", q, k, v, o, head_dim=8, is_cross=False, owner=nn.Module())
    assert (block.num_heads, block.num_kv_heads) == (4, 2)
    kept = [p.weight[:, 4:].clone() for p in (q, k, v)]
    remove_inputs_(block, {"qkv": (0, 1, 2, 3)})
    assert (block.num_heads, block.num_kv_heads) == (4, 2)
    assert all(torch.equal(p.weight, w) for p, w in zip((q, k, v), kept, strict=True))
    assert block.heads().shape == (4, 3 * 8 * 12)


def test_a_llama_with_shared_keys_and_values(tmp_path: Path) -> None:
    """4 query heads, 2 key/value heads, a gated MLP."""
    torch.manual_seed(0)
    model = ZOO["llama"](num_key_value_heads=2).eval()
    assert all(b.num_kv_heads == 2 for b in anatomy_of(model).attentions)
    silence_inputs_(anatomy_of(model), some_inputs(model))
    batch = {"input_ids": make_inputs("opt")["input_ids"]}
    before = logits(model, batch)
    shrink_(model, dead_inputs(anatomy_of(model)))
    assert all(input_widths(b) == {"qkv": 21} for b in anatomy_of(model).attentions[:1])
    torch.testing.assert_close(logits(model, batch), before, rtol=0, atol=1e-5)
    neuroprune.save_pretrained(model, tmp_path)
    loaded = neuroprune.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 2, 2, 5)])
@pytest.mark.parametrize("kept", [(0, 3), ()])
def test_a_gathered_layer_is_its_equation(shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    layer = nn.Linear(5, 4)
    layer.weight = nn.Parameter(layer.weight[:, list(kept)])
    layer.__class__ = GatheredLinear
    layer.register_buffer("index", torch.tensor(kept, dtype=torch.int64), persistent=False)
    x = torch.randn(shape)
    expected = x[..., list(kept)] @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_the_index_moves_with_the_model_and_is_saved_with_the_plan_alone() -> None:
    _, model, _ = masked_and_shrunk("bert", seed=4)
    layers = [m for m in model.modules() if isinstance(m, GatheredLinear)]
    assert layers
    assert not any(name.endswith("index") for name in model.state_dict())
    for changed in (model.half(), model.to("meta")):
        assert all(m.index.dtype == torch.int64 for m in layers)
        assert {m.index.device for m in layers} == {p.device for p in changed.parameters()}


def test_a_gathered_layer_compiles_and_recomputes() -> None:
    _, model, _ = masked_and_shrunk("bert", seed=4)
    layer = next(m for m in model.modules() if isinstance(m, GatheredLinear))
    x = torch.randn(2, 3, D_MODEL, requires_grad=True)
    whole = torch.compile(copy.deepcopy(layer), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x), layer(x))
    (expected,) = torch.autograd.grad(layer(x).square().sum(), [x])
    again = checkpoint(layer, x, use_reentrant=False)
    (got,) = torch.autograd.grad(again.square().sum(), [x])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_trajectory_is_that_of_the_masked_model(family: str, name: str) -> None:
    """In float64, losses after the cut are those of the model whose columns are held at zero."""
    masked = make_model(family).double().train()
    optimizer = OPTIMIZERS[name](groups(masked))
    for seed in range(2):
        step(masked, optimizer, seed, family)
    inputs = some_inputs(masked)
    shrunk = copy.deepcopy(masked)
    other = OPTIMIZERS[name](groups(shrunk))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    silence_inputs_(anatomy_of(masked), inputs)
    shrink_(shrunk, ShrinkPlan(remove_inputs=inputs), other)
    for seed in range(10, 18):
        expected = step(masked, optimizer, seed, family)
        silence_inputs_(anatomy_of(masked), inputs)
        assert step(shrunk, other, seed, family) == pytest.approx(expected, abs=1e-9, rel=0)
    held = {id(p) for g in other.param_groups for p in g["params"]}
    assert held == {id(p) for p in shrunk.parameters()}


@pytest.mark.parametrize("name", ["torch", "transformers", "transformers-momentum"])
def test_adafactor_state_is_sliced_along_the_columns(name: str) -> None:
    model = make_model("t5-gated").train()
    optimizer = _adafactors()[name](groups(model))
    step(model, optimizer, 0, "t5-gated")
    plan = ShrinkPlan(
        {b.name: [0] for b in anatomy_of(model).attentions},
        {b.name: [1, 2] for b in anatomy_of(model).mlps},
        remove_inputs=some_inputs(model),
    )
    shrink_(model, plan, optimizer)
    fresh_model = copy.deepcopy(model)
    fresh = _adafactors()[name](groups(fresh_model))
    step(fresh_model, fresh, 1, "t5-gated")
    for p, q in zip(model.parameters(), fresh_model.parameters(), strict=True):
        mine, theirs = optimizer.state[p], fresh.state[q]
        assert {k: getattr(v, "shape", None) for k, v in mine.items()} == {
            k: getattr(v, "shape", None) for k, v in theirs.items()
        }
    step(model, optimizer, 2, "t5-gated")
    assert all(torch.isfinite(p).all() for p in model.parameters())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"encoder.layer.0.attention": {"qkv": [D_MODEL]}}, "another model"),
        ({"encoder.layer.0.attention": {"kv": [0]}}, "The block's groups: 'qkv'"),
        ({"encoder.layer.9.attention": {"qkv": [0]}}, "the block is not there"),
    ],
)
def test_a_plan_for_another_model_changes_nothing(inputs: Inputs, message: str) -> None:
    model = make_model("bert")
    with pytest.raises(PlanError, match=message):
        shrink_(model, ShrinkPlan(remove_inputs=inputs))
    assert not lineage_of(model).plan


def test_layers_with_a_forward_of_their_own_are_refused_or_left_alone() -> None:
    model = make_model("bert")
    block = anatomy_of(model).mlps[0]
    inputs = {block.name: {"up": range(D_MODEL // 2)}}
    silence_inputs_(anatomy_of(model), inputs)
    assert dead_inputs(anatomy_of(model)).num_inputs == D_MODEL // 2
    block.up_proj.forward = block.up_proj.forward  # as accelerate's hooks do
    assert not dead_inputs(anatomy_of(model))
    with pytest.raises(PlanError, match="forward of its own"):
        shrink_(model, ShrinkPlan(remove_inputs=inputs))
    assert block.up_proj.weight.shape == (D_FF, D_MODEL)


def test_an_unknown_state_shape_is_refused_before_anything_changes() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, 0, "bert")
    block = anatomy_of(model).mlps[0]
    optimizer.state[block.up_proj.weight]["absmax"] = torch.zeros(13)
    with pytest.raises(OptimizerStateError, match="'absmax'"):
        shrink_(model, ShrinkPlan(remove_inputs={block.name: {"up": [0]}}), optimizer)
    assert block.up_proj.weight.shape == (D_FF, D_MODEL)


# --- which are chosen -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quarter_dead_is_dropped_and_less_stays(family: str) -> None:
    model = make_model(family)
    least = int(LEAST_DEAD_INPUTS * D_MODEL)
    names = [b.name for b in anatomy_of(model).blocks()]
    widths = {b.name: input_widths(b) for b in anatomy_of(model).blocks()}
    enough = {n: {g: range(least) for g in widths[n]} for n in names[::2]}
    fewer = {n: {g: range(least - 1) for g in widths[n]} for n in names[1::2]}
    silence_inputs_(anatomy_of(model), enough | fewer)
    assert dead_inputs(anatomy_of(model)) == ShrinkPlan(remove_inputs=enough)


def test_every_matrix_of_the_group_must_be_silent() -> None:
    model = make_model("t5-gated")
    block = anatomy_of(model).mlps[0]
    with torch.no_grad():
        block.up_proj.weight[:, :16] = 0
        block.gate_proj.weight[:, 8:] = 0
    assert dead_inputs(anatomy_of(model)).remove_inputs == {block.name: {"up": tuple(range(8, 16))}}


def test_a_gathered_layer_drops_every_input_that_dies_later() -> None:
    model = make_model("bert")
    name = anatomy_of(model).mlps[0].name
    silence_inputs_(anatomy_of(model), {name: {"up": range(16)}})
    shrink_(model, dead_inputs(anatomy_of(model)))
    assert not dead_inputs(anatomy_of(model)), "nothing is left to drop"
    silence_inputs_(anatomy_of(model), {name: {"up": [3]}})
    assert dead_inputs(anatomy_of(model)).remove_inputs == {name: {"up": (3,)}}


def test_a_layer_without_units_has_no_dead_inputs() -> None:
    model = make_model("bert")
    block = anatomy_of(model).attentions[0]
    shrink_(model, ShrinkPlan({block.name: range(HEADS)}))
    assert not dead_inputs(anatomy_of(model))
