"""Fisher: one cut that meets its target at its step, tuned, with or without training after it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neuroprune
from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.checkpoint import from_pretrained, save_pretrained
from neuroprune.config import METHODS, ConfigError, Fisher, Structural, method_config
from neuroprune.control.cost import CostModel, Curve
from neuroprune.core.fisher import fisher_block, removal_loss
from neuroprune.methods import goals, method_for
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.fisher import FisherMethod, tune_
from neuroprune.methods.gate_hooks import GateHooks
from neuroprune.methods.units import fan_out, plan_of, unit_number
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, run, started, train
from tests.zoo import D_MODEL, FAMILIES, inputs_for, logits, make_inputs, make_model

QUICK = Fisher(target=0.5, batches=4)


def method_of(pruner: Pruner) -> FisherMethod:
    assert isinstance(pruner.method, FisherMethod)
    return pruner.method


def watched(model: nn.Module) -> int:
    return sum(len(fan_out(b)._forward_pre_hooks) for b in anatomy_of(model).blocks())


def shared_keys(model: Any, blocks: int = 2) -> Any:
    """Two query heads share one key/value head, in the first blocks."""
    for block in anatomy_of(model).attentions[:blocks]:
        for layer in (block.k_proj, block.v_proj):
            layer.weight = nn.Parameter(layer.weight[: D_MODEL // 2].detach())
            layer.bias = nn.Parameter(layer.bias[: D_MODEL // 2].detach())
    return model


# --- the target and the cut ----------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("target", "at"), [(0.0, 0.4), (0.5, 0.4), (0.8, 1.0), (0.95, 0.4)])
def test_the_target_is_met_in_one_cut_at_its_step(family: str, target: float, at: float) -> None:
    pruner = started(family, Fisher(target=target, at=at, batches=3), 10)
    reached, hooks = [], []

    def watch() -> None:
        reached.append(pruner.anatomy.structural_sparsity)
        hooks.append(watched(pruner.model))

    run(pruner, family, range(10), watch)
    cut, blocks = round(10 * at), len(list(anatomy_of(pruner.model).blocks()))
    assert reached[: cut - 1] == [0.0] * (cut - 1) and len(set(reached[cut - 1 :])) == 1
    assert target - 1e-9 <= reached[-1] <= target + GRANULARITY
    assert hooks == [0] * (cut - 4) + [blocks] * 3 + [0] * (11 - cut)
    assert not pruner.prune()
    assert pruner.finish() == pruner.removed
    assert pruner.reached == {f"structural:{target:g}": reached[-1]}
    assert logits(pruner.model, make_inputs(family)).isfinite().all()


@settings(max_examples=10)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.97),
    steps=st.integers(2, 8),
    at=st.floats(0.01, 1.0),
    batches=st.integers(1, 20),
    optimizer=st.sampled_from(["adamw", "sgd", "adafactor"]),
)
def test_the_target_is_met_whatever_the_settings(
    family: str, target: float, steps: int, at: float, batches: int, optimizer: str
) -> None:
    config = Fisher(target=target, at=at, batches=batches)
    pruner = train(family, config, steps, optimizer=optimizer)
    found = sparsity(anatomy_of(pruner.model)).structural_sparsity
    assert target - 1e-9 <= found <= target + GRANULARITY
    assert watched(pruner.model) == 0


@pytest.mark.parametrize(
    ("target", "low", "high"),
    [
        ("parameters:7000", 6900, 7000),
        ("flops:0.5@2x8", 0.47, 0.5),
        ("heads:3", 3, 3),
    ],
)
def test_other_targets_are_met(target: str, low: float, high: float) -> None:
    pruner = started("opt", Fisher(target=target, batches=3), 8)
    run(pruner, "opt", range(8))
    pruner.finish()
    (reached,) = pruner.reached.values()
    assert low <= reached <= high


def test_a_size_and_a_number_of_heads_are_met_together() -> None:
    pruner = started("bert", Fisher(target=[0.6, "heads:3"], batches=3), 8)
    run(pruner, "bert", range(8))
    assert pruner.finish().num_heads == 5
    assert pruner.reached["heads:3"] == 3
    assert 0.6 <= pruner.reached["structural:0.6"] <= 0.6 + GRANULARITY


def test_a_latency_is_met_along_its_measured_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stairs, as a clock finds them: a block costs nothing more until the next step."""

    def stairs(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> CostModel:
        heads = {b.name: Curve((0, 1, 2, 4), (0.5, 2.0, 2.0, 4.0)) for b in anatomy.attentions}
        neurons = {b.name: Curve((0, 8, 16, 24), (0.2, 1.0, 3.0, 3.0)) for b in anatomy.mlps}
        return CostModel("seconds", 1.0, heads | neurons)

    monkeypatch.setattr(goals, "measure_latency", stairs)
    for kept in (0.4, 0.6, 0.8):
        pruner = started("bert", Fisher(target=f"latency:{kept}@2x8", batches=3), 8)
        run(pruner, "bert", range(8))
        pruner.finish()
        (reached,) = pruner.reached.values()
        assert kept - 0.1 < reached <= kept + 1e-9


def test_heads_that_share_keys_go_together() -> None:
    """(Stock BERT has no such heads, so the gradients are given.)"""
    model = shared_keys(make_model("bert"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, Fisher(target=[0.5, "heads:4"], batches=3), 8)
    method = method_of(pruner)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        method.gradients.append(
            {
                b.name: torch.randn(unit_number(b), generator=generator)
                for b in pruner.anatomy.blocks()
            }
        )
    plan = plan_of(pruner.anatomy, method.chosen(pruner.anatomy))
    pruner.detach()
    assert plan.num_heads == 4
    for heads in plan.remove_heads.values():
        assert all(h ^ 1 in heads for h in heads)
    shrink_(model, plan)
    cost = method.goals[0].cost.kept(unit_counts(anatomy_of(model)))
    assert 0.5 <= method.goals[0].value(cost) <= 0.5 + GRANULARITY
    uneven = shared_keys(make_model("bert"), blocks=1)
    optimizer = torch.optim.AdamW(uneven.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"equally large.*got \[1, 2\]"):
        attach(uneven, optimizer, Fisher(target="heads:4"), 8)


# --- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_gradients_are_those_of_masks_in_the_graph(family: str) -> None:
    """Two micro-batches a step: the gradient is that of their sum."""
    model = make_model(family).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = attach(model, optimizer, QUICK, 10)
    blocks = list(anatomy_of(model).blocks())
    units = sum(map(unit_number, blocks))
    gates = GateHooks()
    gates.set_(blocks, torch.ones(units), torch.ones(units))
    for seed in (0, 1):
        model(**inputs_for(model, family, seed)).loss.backward()
    optimizer.step()
    (found,) = method_of(pruner).gradients
    joined = torch.cat([found[b.name] for b in blocks])
    torch.testing.assert_close(joined, gates.gradient(), rtol=1e-3, atol=1e-6)
    gates.detach()


def chosen(config: Fisher, family: str = "bert") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks that go, and the gradients they were chosen by, block by block."""
    pruner = started(family, config, 20, lr=1e-2)
    run(pruner, family, range(7))
    method = method_of(pruner)
    seen = {n: torch.stack([g[n] for g in method.gradients]) for n in method.gradients[0]}
    gone = method.chosen(pruner.anatomy)
    pruner.detach()
    return gone, seen


def test_the_search_takes_the_least_fisher_information() -> None:
    gone, seen = chosen(Fisher(target=0.5, batches=8, rearrange=False))
    for kind in ("attention", "mlp"):
        names = [n for n in gone if kind in n]
        scores = torch.cat([seen[n].double().square().sum(dim=0) for n in names])
        mask = torch.cat([gone[n] for n in names])
        assert 0 < int(mask.sum()) < len(mask)
        assert float(scores[mask].max()) <= float(scores[~mask].min())


def test_rearrangement_lowers_the_loss_of_every_layer() -> None:
    plain, seen = chosen(Fisher(target=0.5, batches=8, rearrange=False))
    better, again = chosen(Fisher(target=0.5, batches=8))
    lower = 0
    for name, gone in plain.items():
        torch.testing.assert_close(seen[name], again[name])
        fisher = fisher_block(seen[name])
        assert int(better[name].sum()) == int(gone.sum())
        before, after = removal_loss(fisher, gone), removal_loss(fisher, better[name])
        assert float(after) <= float(before) * (1 + 1e-9)
        lower += float(after) < 0.99 * float(before)
    assert lower > 0


def test_only_the_last_batches_count() -> None:
    pruner = started("bert", Fisher(target=0.5, at=1.0, batches=3), 10)
    run(pruner, "bert", range(7))
    method = method_of(pruner)
    assert len(method.gradients) == 3
    last = [{n: g.clone() for n, g in found.items()} for found in method.gradients]
    run(pruner, "bert", range(7, 8))
    for old, new in zip(last[1:], list(method.gradients)[:2], strict=True):
        assert all(torch.equal(old[n], new[n]) for n in old)
    pruner.detach()
    assert watched(pruner.model) == 0


def test_scores_do_not_depend_on_the_loss_scale() -> None:
    found = []
    for scale in (1.0, 512.0):
        model = make_model("bert").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        pruner = attach(model, optimizer, QUICK, 20)
        (model(**make_inputs("bert")).loss * scale).backward()
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
        optimizer.step()
        found.append(method_of(pruner).gradients[0])
    for name, one in found[0].items():
        torch.testing.assert_close(one, found[1][name], rtol=1e-3, atol=1e-7)


def test_half_precision_is_scored_and_tuned() -> None:
    pruner = started("t5-gated", QUICK, 10, dtype=torch.bfloat16)
    run(pruner, "t5-gated", range(3))
    assert all(g.dtype == torch.float32 for g in method_of(pruner).gradients[0].values())
    run(pruner, "t5-gated", range(3, 10))
    pruner.finish()
    assert next(iter(pruner.reached.values())) >= 0.5
    assert all(p.dtype == torch.bfloat16 for p in pruner.model.parameters())


# --- tuning --------------------------------------------------------------------------------------


def outputs_of(model: nn.Module, family: str) -> dict[str, Tensor]:
    """What every block's output layer sends out, for one batch."""
    found: dict[str, Tensor] = {}
    hooks = []
    for block in anatomy_of(model).blocks():

        def keep(layer: nn.Module, args: Any, out: Tensor, name: str = block.name) -> None:
            found[name] = out.detach()

        hooks.append(fan_out(block).register_forward_hook(keep))
    logits(model, inputs_for(model, family, 0))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
def test_tuning_brings_the_first_blocks_output_nearer(family: str) -> None:
    model = make_model(family).train()
    moments = FeatureMoments(every=1)
    moments.attach(anatomy_of(model))
    model(**inputs_for(model, family, 0))
    whole = outputs_of(model, family)
    generator = torch.Generator().manual_seed(0)
    for kind in ("attentions", "mlps"):
        plain, tuned = copy.deepcopy(model), copy.deepcopy(model)
        first = getattr(anatomy_of(model), kind)[0]
        gone = {
            b.name: torch.zeros(unit_number(b), dtype=torch.bool)
            for b in anatomy_of(model).blocks()
        }
        cut = torch.randperm(unit_number(first), generator=generator)[: unit_number(first) // 2]
        gone[first.name][cut] = True
        errors = []
        for other in (plain, tuned):
            block = next(b for b in anatomy_of(other).blocks() if b.name == first.name)
            if other is tuned:
                assert tune_(anatomy_of(model), gone, moments) == []
                fan_out(block).weight.data.copy_(fan_out(first).weight.data)
            columns = gone[first.name].repeat_interleave(
                fan_out(block).in_features // unit_number(block)
            )
            fan_out(block).weight.data[:, columns] = 0
            found = outputs_of(other, family)[first.name]
            errors.append(float((found - whole[first.name]).square().sum()))
        assert errors[1] < errors[0]


@torch.no_grad()
def twin_neurons_(model: nn.Module, strength: float) -> None:
    """Every second neuron is the one before it again, read less strongly."""
    for mlp in anatomy_of(model).mlps:
        for layer in mlp.fan_in():
            for p in layer.parameters():
                p[1::2] = p[::2]
        mlp.down_proj.weight[:, 1::2] = strength * mlp.down_proj.weight[:, ::2]


@pytest.mark.parametrize("family", ["bert", "roberta", "t5-gated"])
def test_after_training_twins_take_over_exactly(family: str) -> None:
    """Nothing is trained: the learning rate is 0, as for pruning a finished model."""
    distance = []
    for tune in (False, True):
        model = make_model(family)
        twin_neurons_(model, 0.02)
        heads = sum(b.num_heads for b in anatomy_of(model).attentions)
        size = [0.05, f"heads:{heads}"]
        config = Fisher(target=size, at=1.0, batches=8, rearrange=False, tune=tune)
        pruner = attach(model, torch.optim.SGD(model.parameters(), lr=0.0), config, 8)
        dense = logits(model, make_inputs(family, 3))
        run(pruner, family, range(8))
        assert pruner.finish().num_neurons > 0
        distance.append(float((logits(model, make_inputs(family, 3)) - dense).square().sum()))
    assert distance[1] < 1e-3 * distance[0]


def test_without_tuning_the_weights_that_stay_are_as_they_were() -> None:
    for tune in (False, True):
        pruner = started("bert", Fisher(target=0.5, at=1.0, batches=4, tune=tune), 4, lr=0.0)
        before = {n: p.detach().clone() for n, p in pruner.model.named_parameters()}
        run(pruner, "bert", range(4))
        pruner.finish()
        found = dict(pruner.model.named_parameters())
        kept = [bool(torch.isin(p, before[n]).all()) for n, p in found.items()]
        assert all(kept) is not tune


def test_a_training_that_stops_early_is_cut_and_says_that_it_is_not_tuned() -> None:
    pruner = started("bert", Fisher(target=0.5, at=1.0, batches=4), 20)
    run(pruner, "bert", range(10))
    with pytest.warns(UserWarning, match=r"not tuned.*from step 16 to 20"):
        pruner.finish()
    assert pruner.reached["structural:0.5"] == pytest.approx(0.505, abs=0.006)
    untuned = started("bert", Fisher(target=0.5, at=1.0, batches=4, tune=False), 20)
    run(untuned, "bert", range(10))
    untuned.finish()
    assert untuned.reached == pruner.reached


def test_a_cut_without_a_step_is_refused() -> None:
    pruner = started("bert", QUICK, 10)
    with pytest.raises(ConfigError, match="at least one step"):
        pruner.finish()
    pruner.detach()


# --- saving, settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 4, 8, 15])
def test_before_and_after_the_gathering_a_run_continues(stop: int, tmp_path: Any) -> None:
    config = Fisher(target=0.5, at=0.4, batches=4)
    whole = started("bert", config, 20)
    run(whole, "bert", range(20))
    first = started("bert", config, 20)
    run(first, "bert", range(stop))
    state = json.loads(json.dumps(first.state_dict()))
    assert len(json.dumps(state)) < 10_000
    first.detach()
    second = attach(first.model, first.optimizer, config, 20)
    second.load_state_dict(state)
    run(second, "bert", range(stop, 20))
    whole.finish()
    second.finish()
    assert second.reached == whole.reached
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    save_pretrained(second.model, tmp_path / "out")
    again = from_pretrained(tmp_path / "out")
    torch.testing.assert_close(
        logits(again, make_inputs("bert")), logits(second.model, make_inputs("bert"))
    )


def test_a_run_cannot_be_resumed_while_gradients_are_gathered() -> None:
    config = Fisher(target=0.5, at=0.4, batches=4)
    pruner = started("bert", config, 20)
    run(pruner, "bert", range(6))
    state = json.loads(json.dumps(pruner.state_dict()))
    pruner.detach()
    other = attach(pruner.model, pruner.optimizer, config, 20)
    with pytest.raises(ConfigError, match=r"of step 6,.* steps 5 to 8.*step 4 or before"):
        other.load_state_dict(state)


def test_what_the_optimizer_does_not_train_is_refused() -> None:
    model = make_model("bert").train()
    anatomy_of(model).mlps[1].down_proj.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"does not train the output layers of .*layer\.1\.mlp"):
        attach(model, torch.optim.AdamW(model.parameters(), lr=1e-2), QUICK, 10)


def test_the_configuration() -> None:
    assert METHODS["fisher"] is Fisher is neuroprune.Fisher
    for config in (Fisher(), Fisher(target=0.8, at=1, batches=7, rearrange=False, tune=False)):
        data = json.loads(json.dumps(config.to_dict()))
        assert method_config("fisher", data) == config
    assert Fisher(target=0.8).target == (Structural(0.8),)
    assert type(method_for(Fisher(), 9)) is FisherMethod
    for settings_, words in (
        ({"target": None}, "needs a target"),
        ({"target": "weights:0.5"}, "whole heads and neurons"),
        ({"target": 1.0}, "sparsity must be"),
        ({"at": 0.0}, "at must be above 0"),
        ({"at": 1.1}, r"at must be a finite number in \[0, 1\]"),
        ({"batches": 0}, "batches must be"),
        ({"batches": 1e20}, r"batches must be a finite number in \[1, 1e\+06\]"),
        ({"batches": 2.5}, "whole number"),
        ({"tune": 1}, "tune must be true or false"),
        ({"rearrange": "no"}, "rearrange must be true or false"),
    ):
        with pytest.raises(ConfigError, match=words):
            Fisher(**settings_)
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(Fisher())
    pruner = started("bert", QUICK, 10)
    with pytest.raises(ConfigError, match="makes one cut"):
        pruner.method.select(pruner.anatomy, 0.3)
    pruner.detach()
