"""Who takes over from whom: likeness joined with importance, absorption, folding, repair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.anatomy import anatomy_of
from neuroprune.choices import Redundancy
from neuroprune.config import NeuroPrune
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.takeover import Repair, Takeover, fold_neurons_, repair_
from neuroprune.methods.units import fan_out
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import attach
from neuroprune.surgery import shrink_
from tests.methods.loops import run, started, train
from tests.zoo import ZOO, inputs_for, logits, make_inputs, make_model


def twin_heads_(model: nn.Module, source: int = 0, copy: int = 2) -> None:
    """Make one head of every attention a copy of another in q, k and v; W_O stays its own."""
    with torch.no_grad():
        for block in anatomy_of(model).attentions:
            for layer in (block.q_proj, block.k_proj, block.v_proj):
                width = block.head_dim
                to, of = slice(copy * width, copy * width + width), slice(source * width, None)
                layer.weight[to] = layer.weight[of][:width]
                if layer.bias is not None:
                    layer.bias[to] = layer.bias[of][:width]


def seen(model: nn.Module, takeover: Takeover, family: str) -> None:
    takeover.attach(anatomy_of(model))
    model.train()
    for seed in range(4):
        model(**inputs_for(model, family, seed))
    model.eval()


@pytest.mark.parametrize("how", ["weights", "output"])
def test_of_two_that_do_the_same_the_poorer_is_discounted(how: str) -> None:
    model = make_model("bert")
    twin_heads_(model)
    for block in anatomy_of(model).attentions:  # outputs alike, too
        with torch.no_grad():
            width = block.head_dim
            block.o_proj.weight[:, 2 * width : 3 * width] = block.o_proj.weight[:, :width]
    takeover = Takeover(Redundancy(how), 0.1, 1)
    seen(model, takeover, "bert")
    block = anatomy_of(model).attentions[0]
    joined = takeover.joined(block, torch.tensor([3.0, 2.0, 1.0, 4.0]).double())
    assert float(joined[2]) == pytest.approx(0.0, abs=1e-4)
    assert float(joined[0]) > 0.5 and float(joined[3]) == 4.0
    takeover.detach()


@pytest.mark.parametrize("family", ["bert", "opt"])
@pytest.mark.parametrize("how", ["weights", "circuit", "output"])
def test_a_twin_takes_over_exactly(family: str, how: str) -> None:
    """A copy of a head goes: the outputs do not change, whatever its W_O was."""
    model = make_model(family)
    twin_heads_(model)
    takeover = Takeover(Redundancy(how), 0.9, 1)
    seen(model, takeover, family)
    anatomy = anatomy_of(model)
    gone = {b.name: torch.zeros(b.num_heads, dtype=torch.bool) for b in anatomy.attentions}
    gone |= {b.name: torch.zeros(b.d_ff, dtype=torch.bool) for b in anatomy.mlps}
    if how == "output":  # like heads in output have like W_O
        with torch.no_grad():
            for block in anatomy.attentions:
                w, width = block.o_proj.weight, block.head_dim
                w[:, 2 * width : 3 * width] = w[:, :width]
    before = logits(model, make_inputs(family))
    for block in anatomy.attentions:
        gone[block.name][2] = True
    takeover.absorb_(anatomy, gone)
    for block in anatomy.attentions:
        assert not block.o_proj.weight[:, 2 * block.head_dim : 3 * block.head_dim].any()
    torch.testing.assert_close(logits(model, make_inputs(family)), before, rtol=0, atol=2e-3)


def test_parallel_relu_neurons_fold_exactly_whoever_goes() -> None:
    model = make_model("opt")
    block = anatomy_of(model).mlps[0]
    with torch.no_grad():
        for layer in block.fan_in():
            layer.weight[5] = 3.0 * layer.weight[9]
            layer.bias[5] = 3.0 * layer.bias[9]
    for leaving in (5, 9):
        twin = make_model("opt")
        twin.load_state_dict(model.state_dict())
        mlp = anatomy_of(twin).mlps[0]
        gone = torch.zeros(mlp.d_ff, dtype=torch.bool)
        gone[leaving] = True
        before = logits(twin, make_inputs("opt"))
        fold_neurons_(mlp, gone, 0.99)
        assert not mlp.down_proj.weight[:, leaving].any()
        torch.testing.assert_close(logits(twin, make_inputs("opt")), before, rtol=0, atol=1e-4)


def halves_of(model: nn.Module) -> tuple[FeatureMoments, FeatureMoments]:
    """Both watch the first MLP, in turns."""
    first, second = FeatureMoments(every=1), FeatureMoments(every=1)
    second.paused = True
    layer = anatomy_of(model).mlps[0].down_proj
    for half in (first, second):
        half.watch([layer])

    def swap(*_: Any) -> None:
        first.paused, second.paused = second.paused, first.paused

    layer.register_forward_hook(swap)
    return first, second


def neurons_gone(model: nn.Module, which: slice) -> dict[str, torch.Tensor]:
    """Masks: these neurons of the first MLP, and no others."""
    anatomy = anatomy_of(model)
    gone = {b.name: torch.zeros(b.num_heads, dtype=torch.bool) for b in anatomy.attentions}
    gone |= {b.name: torch.zeros(b.d_ff, dtype=torch.bool) for b in anatomy.mlps}
    gone[anatomy.mlps[0].name][which] = True
    return gone


def test_repair_beats_plain_removal() -> None:
    """On the data it was fitted to, the repaired layer is nearer to the dense one."""
    model = make_model("bert").train()
    anatomy = anatomy_of(model)
    block = anatomy.mlps[0]
    halves = halves_of(model)
    inputs: list[torch.Tensor] = []
    hook = block.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for seed in range(12):
        model(**make_inputs("bert", seed))
    hook.remove()
    x = torch.cat([i.detach().reshape(-1, i.shape[-1]) for i in inputs])
    dense = x @ block.down_proj.weight.detach().T
    gone = neurons_gone(model, slice(None, None, 3))
    kept = (~gone[block.name]).float()
    plain = ((x * kept) @ block.down_proj.weight.detach().T - dense).square().sum()
    assert repair_(anatomy, gone, halves) == []
    repaired = (x @ block.down_proj.weight.detach().T - dense).square().sum()
    assert not block.down_proj.weight[:, ::3].any()
    assert repaired < 0.7 * plain


WIDE = 768


def wide_features(seed: int, positions: int) -> torch.Tensor:
    """GELU features of inputs that vary more in some directions than in others."""
    weights = torch.Generator().manual_seed(0)
    width = WIDE // 3
    mix = torch.randn(width, WIDE, generator=weights) * (2.0 / width**0.5)
    scale = torch.linspace(1.5, 0.05, width).unsqueeze(1)
    draw = torch.Generator().manual_seed(seed)
    return nn.functional.gelu(torch.randn(positions, width, generator=draw) @ (scale * mix) - 0.5)


@pytest.mark.parametrize(
    ("passes", "positions", "bound"), [(2, 64, 1.0), (2, 256, 0.9), (4, 512, 0.75), (8, 1024, 0.6)]
)
def test_repair_lowers_the_error_on_activations_it_has_not_seen(
    passes: int, positions: int, bound: float
) -> None:
    """A wide layer, of which a tenth goes: with few positions it is damped, not made worse."""
    torch.manual_seed(0)
    model = ZOO["bert"](intermediate_size=WIDE).train()
    layer = anatomy_of(model).mlps[0].down_proj
    halves = halves_of(model)
    for seed in range(passes):
        layer(wide_features(1 + seed, positions))
    x = wide_features(0, 2048)
    gone = neurons_gone(model, slice(None, None, 10))
    kept = (~gone[anatomy_of(model).mlps[0].name]).float()
    weight = layer.weight.detach().clone()
    plain = ((x * kept) @ weight.T - x @ weight.T).square().sum()
    left = repair_(anatomy_of(model), gone, halves)
    repaired = ((x * kept) @ layer.weight.detach().T - x @ weight.T).square().sum()
    assert repaired <= bound * plain
    if left:
        assert torch.equal(layer.weight, weight)


def test_where_there_is_too_little_to_fit_repair_leaves_the_layer_as_it_is() -> None:
    """One pass is one half; and independent features cannot stand for each other."""
    model = make_model("bert").train()
    anatomy = anatomy_of(model)
    block = anatomy.mlps[0]
    before = block.down_proj.weight.clone()
    gone = neurons_gone(model, slice(0, 8))
    halves = halves_of(model)
    model(**make_inputs("bert"))
    assert repair_(anatomy, gone, halves) == [block.name]
    for half in halves:
        half.forget()
    torch.manual_seed(0)
    for _ in range(2):
        block.down_proj(torch.randn(12, block.d_ff))
    assert repair_(anatomy, gone, halves, (1e-4, 1e-2)) == [block.name]
    assert torch.equal(block.down_proj.weight, before)


@pytest.mark.parametrize("steps", [5, 15, 40])
def test_repair_acts_in_short_runs(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block that loses units at the last cut has been seen in both halves by then."""
    seen: list[bool] = []

    def watched(anatomy: Any, gone: Any, halves: Any) -> list[str]:
        for block in anatomy.blocks():
            if bool(gone[block.name].any()) and not bool(gone[block.name].all()):
                seen.append(all(h.gram(fan_out(block)) is not None for h in halves))
        return []

    monkeypatch.setattr("neuroprune.methods.takeover.repair_", watched)
    train("bert", NeuroPrune(target=0.6, repair=True), steps)
    assert seen and all(seen)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
def test_the_halves_share_no_pass_where_gradients_are_checkpointed() -> None:
    """Its passes run twice, so that every second one would be the same again."""
    pruner = started("bert", NeuroPrune(target=0.6, repair=True), 20)
    pruner.model.gradient_checkpointing_enable()
    repair = pruner.method.repair
    run(pruner, "bert", range(4))
    for block in pruner.anatomy.blocks():
        first, second = (half.gram(fan_out(block)) for half in repair.halves)
        assert first is not None and second is not None
        assert not torch.allclose(first, second)
    pruner.detach()


def test_a_repair_that_cannot_be_is_said() -> None:
    """One step: there is nothing to tell fitting from noise by."""
    with pytest.warns(UserWarning, match="repair=True leaves encoder.layer.0"):
        train("bert", NeuroPrune(target=0.6, repair=True), 1)


def test_what_was_seen_of_units_that_stay_outlives_a_cut() -> None:
    model = make_model("t5-gated").train()
    repair = Repair()
    repair.attach(anatomy_of(model))
    for seed in range(2):
        model(**make_inputs("t5-gated", seed))
    attention, mlp = anatomy_of(model).attentions[0], anatomy_of(model).mlps[1]
    heads, neurons = (repair.halves[0].gram(fan_out(b)) for b in (attention, mlp))
    assert heads is not None and neurons is not None
    plan = ShrinkPlan({attention.name: [1]}, {mlp.name: [0, 5]})
    shrink_(model, plan)
    repair.after_shrink_(plan, anatomy_of(model))
    attention, mlp = anatomy_of(model).attentions[0], anatomy_of(model).mlps[1]
    columns = [*range(8), *range(16, 32)]
    assert torch.equal(repair.halves[0].gram(attention.o_proj), heads[columns][:, columns])
    left = [i for i in range(24) if i not in (0, 5)]
    assert torch.equal(repair.halves[0].gram(mlp.down_proj), neurons[left][:, left])
    repair.detach()


def test_functional_redundancy_in_the_papers_mode() -> None:
    """NeuroPrune(redundancy="circuit") finds at the end of an epoch what weights do not show."""
    removed = {}
    for how in (None, "circuit"):
        model = make_model("bert").train()
        twin_heads_(model)
        with torch.no_grad():  # the same head in another basis
            for block in anatomy_of(model).attentions:
                rows = slice(2 * block.head_dim, 3 * block.head_dim)
                width = block.head_dim
                block.o_proj.weight[:, rows] = block.o_proj.weight[:, :width]
                block.q_proj.weight[rows] *= 2.0
                block.k_proj.weight[rows] *= 0.5
                block.q_proj.bias[rows] *= 2.0
                block.k_proj.bias[rows] *= 0.5
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        config = NeuroPrune(alpha=0.0, beta=0.0, theta=0.01, redundancy=how)
        pruner = attach(model, optimizer, config)
        model(**make_inputs("bert")).loss.backward()
        optimizer.step()
        before = logits(model, make_inputs("bert"))
        removed[how] = pruner.prune().num_heads
        torch.testing.assert_close(logits(model, make_inputs("bert")), before, rtol=0, atol=1e-3)
        pruner.finish()
        assert not any(m._forward_pre_hooks for m in model.modules())
    assert removed == {None: 0, "circuit": 2}
