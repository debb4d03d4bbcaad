"""Redundant heads end to end: a head in another basis is found, taken over and removed for free."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neuroprune.anatomy import AttentionBlock, anatomy_of
from neuroprune.choices import Dominating, Redundancy
from neuroprune.config import NeuroPrune
from neuroprune.core.redundancy import find_dominating, merge_map, similarity_matrix
from neuroprune.errors import ConfigError
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.redundant_heads import (
    absorb_heads_,
    redundant_heads,
    similar_heads,
)
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import attach
from neuroprune.surgery import shrink_
from tests.zoo import FAMILIES, HEAD_DIM, HEADS, inputs_for, logits, make_inputs, make_model

FUNCTION = (Redundancy.CIRCUIT, Redundancy.OUTPUT)


def rows_of(head: int, width: int = HEAD_DIM) -> slice:
    return slice(head * width, (head + 1) * width)


def basis(seed: int, width: int = HEAD_DIM) -> Tensor:
    """A random invertible matrix of condition 4, in float64.

    Damping acts on the features as they are written, so a badly written head is taken over less
    exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, width, generator=generator, dtype=torch.float64)
    left, _, right = torch.linalg.svd(drawn)
    return left @ torch.diag(torch.linspace(0.5, 2, width, dtype=torch.float64)) @ right


@torch.no_grad()
def rewrite_(layer: nn.Linear, to: int, source: int, change: Tensor, width: int = HEAD_DIM) -> None:
    """Rows (and biases) of head `to` := those of head `source`, in another basis."""
    for p in layer.parameters():
        p[rows_of(to, width)] = (change @ p[rows_of(source, width)].double()).to(p.dtype)


@torch.no_grad()
def copy_head_(block: AttentionBlock, to: int, source: int, seed: int) -> None:
    """Make head `to` compute what head `source` does, written in other bases; W_O scaled by 2."""
    r, s = basis(seed), basis(seed + 1)
    if block.is_rotary:  # the rotations are written in one basis
        r = torch.eye(HEAD_DIM, dtype=torch.float64)
    rewrite_(block.q_proj, to, source, r)
    rewrite_(block.k_proj, to, source, torch.linalg.inv(r).T)
    rewrite_(block.v_proj, to, source, s)
    columns = block.o_proj.weight[:, rows_of(source)].double() @ torch.linalg.inv(s)
    block.o_proj.weight[:, rows_of(to)] = 2 * columns.to(block.o_proj.weight.dtype)


@torch.no_grad()
def model_with_copies(
    family: str, copies: dict[int, int], dtype: torch.dtype = torch.float32
) -> Any:
    """A tiny model in whose every attention head i computes what head copies[i] does."""
    model = make_model(family).to(dtype)
    for place, block in enumerate(anatomy_of(model).attentions):
        for to, source in copies.items():
            copy_head_(block, to, source, seed=10 * place + to)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            for to, source in copies.items():
                parameter[:, to] = parameter[:, source]
    return model


def watched(model: Any, family: str) -> FeatureMoments:
    """Moments of ten small training batches."""
    moments = FeatureMoments(every=1)
    moments.attach(anatomy_of(model))
    model.train()
    for seed in range(10, 20):
        model(**inputs_for(model, family, seed))
    return moments


def toy_block(num_heads: int = 4, num_kv_heads: int = 4, d: int = 6, width: int = 2) -> Any:
    """An attention of linear layers alone, with shared keys and values where asked for."""
    torch.manual_seed(0)
    layers = {
        name: nn.Linear(d, heads * width, bias=False)
        for name, heads in (("q", num_heads), ("k", num_kv_heads), ("v", num_kv_heads))
    }
    o = nn.Linear(num_heads * width, d, bias=False)
    for layer in (*layers.values(), o):
        nn.init.normal_(layer.weight)
    return AttentionBlock(
        name="toy",
        q_proj=layers["q"],
        k_proj=layers["k"],
        v_proj=layers["v"],
        o_proj=o,
        head_dim=width,
        is_cross=False,
        owner=nn.Module(),
    )


# --- end to end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", FUNCTION, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_in_another_basis_is_found_and_removed_for_free(
    family: str, how: Redundancy
) -> None:
    """Heads 1 and 2 do what head 0 does. By weights they are strangers; by function they go."""
    model = model_with_copies(family, {1: 0, 2: 0}, torch.float64)
    moments = watched(model, family)
    inputs = inputs_for(model, family, seed=5)
    expected = logits(model, inputs)
    plan: dict[str, dict[int, int]] = {}
    for block in anatomy_of(model).attentions:
        gram = moments.gram(block.o_proj)
        assert redundant_heads(block, Redundancy.WEIGHTS, 0.15) == {}
        plan[block.name] = redundant_heads(block, how, 1e-4, Dominating.PAPER, gram)
        assert plan[block.name] == {0: 2, 1: 2}
        absorb_heads_(block, plan[block.name], gram, ridge=1e-9)
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-5)
    shrink_(model, ShrinkPlan(merge_heads=plan))
    assert {b.num_heads for b in anatomy_of(model).attentions} == {HEADS - 2}
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_in_single_precision_with_the_default_damping(family: str) -> None:
    model = model_with_copies(family, {3: 0})
    moments = watched(model, family)
    inputs = make_inputs(family, seed=5)
    expected = logits(model, inputs)
    plan = {}
    for block in anatomy_of(model).attentions:
        gram = moments.gram(block.o_proj)
        plan[block.name] = redundant_heads(block, Redundancy.CIRCUIT, 1e-4)
        absorb_heads_(block, plan[block.name], gram)
    shrink_(model, ShrinkPlan(merge_heads=plan))
    assert {b.num_heads for b in anatomy_of(model).attentions} == {HEADS - 1}
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-4)


def test_after_absorption_outright_removal_is_as_good_as_merging() -> None:
    model = model_with_copies("bert", {3: 0})
    moments = watched(model, "bert")
    inputs = make_inputs("bert", seed=5)
    expected = logits(model, inputs)
    for block in anatomy_of(model).attentions:
        absorb_heads_(block, {3: 0}, moments.gram(block.o_proj))
        assert not block.o_proj.weight[:, rows_of(3)].any()
    names = [b.name for b in anatomy_of(model).attentions]
    shrink_(model, ShrinkPlan(remove_heads={name: [3] for name in names}))
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-4)


def test_the_papers_merge_of_another_basis_does_harm() -> None:
    """What absorption is for: adding the columns as they are changes the outputs."""
    model = model_with_copies("bert", {3: 0})
    inputs = make_inputs("bert", seed=5)
    expected = logits(model, inputs)
    names = [b.name for b in anatomy_of(model).attentions]
    shrink_(model, ShrinkPlan(merge_heads={name: {3: 0} for name in names}))
    assert (logits(model, inputs) - expected).abs().max() > 1e-2


# --- which heads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "t5", "bert-cross"])
@given(theta=st.floats(0, 1))
def test_by_weights_it_is_the_papers_rule(family: str, theta: float) -> None:
    for block in anatomy_of(make_model(family)).attentions:
        expected = merge_map(find_dominating(similarity_matrix(block.heads(), theta)))
        assert redundant_heads(block, Redundancy.WEIGHTS, theta) == expected
        similar, strength = similar_heads(block, Redundancy.WEIGHTS, theta)
        assert torch.equal(similar, similarity_matrix(block.heads(), theta))
        assert float(strength.diagonal().min()) == 1


@pytest.mark.parametrize("how", Redundancy, ids=str)
@pytest.mark.parametrize("dominating", Dominating, ids=str)
def test_from_no_merge_to_one_head_left(how: Redundancy, dominating: Dominating) -> None:
    model = make_model("bert")
    block = anatomy_of(model).attentions[0]
    gram = watched(model, "bert").gram(block.o_proj)
    assert redundant_heads(block, how, 0.0, dominating, gram) == {}
    assert len(redundant_heads(block, how, 100.0, dominating, gram)) == HEADS - 1
    for theta in (0.3, 0.6, 0.9):
        similar, strength = similar_heads(block, how, theta, gram)
        assert torch.equal(similar, similar.T)
        assert similar.diagonal().all()
        assert strength.shape == (HEADS, HEADS)
        for i, j in redundant_heads(block, how, theta, dominating, gram).items():
            assert similar[i, j]


@pytest.mark.parametrize("dominating", [Dominating.GREEDY, Dominating.EXACT], ids=str)
def test_the_important_one_of_equals_stays(dominating: Dominating) -> None:
    block = anatomy_of(model_with_copies("bert", {1: 0, 2: 0})).attentions[0]
    importance = torch.tensor([1.0, 3.0, 2.0, 0.0])
    got = redundant_heads(block, Redundancy.CIRCUIT, 1e-3, dominating, importance=importance)
    assert got == {0: 1, 2: 1}


def test_half_precision_copies_are_found() -> None:
    model = make_model("bert")
    block = anatomy_of(model).attentions[0]
    with torch.no_grad():
        for layer in block.linears()[:3]:
            layer.weight[rows_of(1)] = layer.weight[rows_of(0)]
        block.o_proj.weight[:, rows_of(1)] = block.o_proj.weight[:, rows_of(0)]
    block = anatomy_of(model.bfloat16()).attentions[0]
    for how in (Redundancy.WEIGHTS, Redundancy.CIRCUIT):
        assert redundant_heads(block, how, 0.0) == {0: 1}


def test_one_head_has_nothing_to_merge() -> None:
    for how in Redundancy:
        assert redundant_heads(toy_block(1, 1), how, 100.0) == {}
    model = make_model("bert")
    name = anatomy_of(model).attentions[0].name
    shrink_(model, ShrinkPlan(remove_heads={name: range(HEADS)}))
    block = anatomy_of(model).attentions[0]
    for how in Redundancy:
        assert redundant_heads(block, how, 100.0) == {}


# --- shared keys and values ----------------------------------------------------------------------


def test_only_whole_groups_are_merged() -> None:
    """Two groups of two: when both heads of a group have a twin they go, and not before."""
    block = toy_block(4, 2)
    r, s = basis(1, 2), basis(2, 2)
    rewrite_(block.k_proj, 1, 0, torch.linalg.inv(r).T, 2)
    rewrite_(block.v_proj, 1, 0, s, 2)
    with torch.no_grad():
        for to, source in ((2, 0), (3, 1)):
            columns = block.o_proj.weight[:, rows_of(source, 2)].double()
            block.o_proj.weight[:, rows_of(to, 2)] = (columns @ torch.linalg.inv(s)).float()
    rewrite_(block.q_proj, 2, 0, r, 2)
    similar, _ = similar_heads(block, Redundancy.CIRCUIT, 1e-4)
    assert similar[0, 2]
    assert not similar[1, 3]
    assert redundant_heads(block, Redundancy.CIRCUIT, 1e-4) == {}
    with pytest.raises(ConfigError, match=r"heads \[0\] would split a group"):
        absorb_heads_(block, {0: 2}, torch.eye(8))
    rewrite_(block.q_proj, 3, 1, r, 2)
    assert redundant_heads(block, Redundancy.CIRCUIT, 1e-4) == {0: 2, 1: 3}
    absorb_heads_(block, {0: 2, 1: 3}, torch.eye(8))
    assert not block.o_proj.weight[:, :4].any()


# --- absorption ----------------------------------------------------------------------------------


def test_the_order_of_the_merges_does_not_matter() -> None:
    gram = torch.randn(8, 30)
    gram = gram @ gram.T
    one, two = toy_block(), toy_block()
    absorb_heads_(one, {0: 3, 1: 3, 2: 3}, gram)
    absorb_heads_(two, {2: 3, 1: 3, 0: 3}, gram)
    torch.testing.assert_close(one.o_proj.weight, two.o_proj.weight)
    before = one.o_proj.weight.clone()
    absorb_heads_(one, {}, gram)
    assert torch.equal(one.o_proj.weight, before)


@pytest.mark.parametrize("merges", [{0: 1, 1: 2}, {0: 0}, {0: 4}, {-1: 0}])
def test_merges_that_do_not_fit_change_nothing(merges: dict[int, int]) -> None:
    block = toy_block()
    before = block.o_proj.weight.clone()
    with pytest.raises(ConfigError, match="into heads that stay"):
        absorb_heads_(block, merges, torch.eye(8))
    assert torch.equal(block.o_proj.weight, before)


def test_missing_and_outdated_moments_are_refused_with_the_remedy() -> None:
    block = toy_block()
    with pytest.raises(ConfigError, match=r"FeatureMoments\(\).attach"):
        redundant_heads(block, Redundancy.OUTPUT, 0.1)
    with pytest.raises(ConfigError, match=r"8 features, .*\(6, 6\).*forget"):
        absorb_heads_(block, {0: 1}, torch.eye(6))


# --- moments -------------------------------------------------------------------------------------


def test_moments_are_the_running_mean_of_one_batch_in_every() -> None:
    layer = nn.Linear(3, 2).train()
    moments = FeatureMoments(every=2, batches=2)
    moments.watch([layer, layer])
    assert moments.gram(layer) is None
    batches = [torch.randn(4, 5, 3) for _ in range(6)]
    for x in batches:
        layer(x)
    first, second, third = (
        x.reshape(-1, 3).T @ x.reshape(-1, 3) / 20 for x in (batches[0], batches[2], batches[4])
    )
    torch.testing.assert_close(moments.gram(layer), ((first + second) / 2 + third) / 2)


def test_of_a_large_batch_some_positions_are_drawn_without_touching_the_training() -> None:
    layer = nn.Linear(4, 2).train()
    moments = FeatureMoments(every=1, rows=100)
    moments.watch([layer])
    x = torch.zeros(400, 4)
    x[torch.arange(400), torch.arange(400) % 4] = 1  # at stride 4 there would be one feature
    state = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    gram = moments.gram(layer)
    assert gram is not None
    assert float(gram.trace()) == pytest.approx(1.0)
    torch.testing.assert_close(gram.diagonal(), torch.full((4,), 0.25), rtol=0, atol=0.1)


def test_only_training_passes_count() -> None:
    layer = nn.Linear(3, 2)
    moments = FeatureMoments(every=1)
    moments.watch([layer])
    layer.eval()(torch.ones(1, 3))
    with torch.no_grad():
        layer.train()(torch.ones(1, 3))
    layer(torch.ones(0, 3))
    layer(torch.full((1, 3), float("inf")))
    assert moments.gram(layer) is None
    layer(torch.ones(1, 3))
    torch.testing.assert_close(moments.gram(layer), torch.ones(3, 3))
    layer(torch.full((1, 3), float("nan")))
    assert moments.gram(layer).isfinite().all()


def test_under_autocast_sums_are_float32() -> None:
    layer = nn.Linear(3, 2).train()
    moments = FeatureMoments(every=1)
    moments.watch([layer])
    x = torch.randn(1000, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    gram = moments.gram(layer)
    assert gram is not None and gram.dtype == torch.float32
    torch.testing.assert_close(gram, x.float().T @ x.float() / 1000)


def test_moments_follow_a_cut_after_forgetting_and_end_with_remove() -> None:
    model = make_model("opt")
    moments = watched(model, "opt")
    blocks = anatomy_of(model).attentions
    first, second = blocks[0], blocks[1]
    plan = ShrinkPlan(remove_heads={first.name: [1], second.name: list(range(HEADS))})
    shrink_(model, plan)
    assert moments.gram(first.o_proj) is None
    moments.forget()
    model.train()
    loss = model(**make_inputs("opt")).loss
    loss.backward()
    gram = moments.gram(anatomy_of(model).attentions[0].o_proj)
    assert gram is not None and gram.shape == ((HEADS - 1) * HEAD_DIM,) * 2
    assert moments.gram(anatomy_of(model).attentions[1].o_proj) is None
    moments.remove()
    model(**make_inputs("opt"))
    assert moments.gram(anatomy_of(model).attentions[0].o_proj) is None


def test_attention_alone_can_be_watched() -> None:
    model = make_model("bert").train()
    anatomy = anatomy_of(model)
    moments = FeatureMoments()
    moments.attach(anatomy, mlps=False)
    model(**make_inputs("bert"))
    assert moments.gram(anatomy.attentions[0].o_proj) is not None
    assert moments.gram(anatomy.mlps[0].down_proj) is None


@pytest.mark.parametrize("value", [0, -1, True])
def test_bad_intervals_are_refused(value: int) -> None:
    with pytest.raises(ConfigError, match="every must be a positive integer"):
        FeatureMoments(every=value)
    with pytest.raises(ConfigError, match="batches must be a positive integer"):
        FeatureMoments(batches=value)
    with pytest.raises(ConfigError, match="rows must be a positive integer"):
        FeatureMoments(rows=value)


def test_a_missing_solver_shows_when_attaching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ImportError, match=r"pip install .*or choose dominating=.greedy"):
        attach(model, optimizer, NeuroPrune(alpha=1e-4, dominating="exact"))
    attach(model, optimizer, NeuroPrune(alpha=1e-4, dominating="greedy")).detach()
