"""Target mode: what was asked is what you get, by cutting while training."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.inputs import sample_inputs
from neuroprune.config import ConfigError, Flops, Heads, NeuroPrune, Parameters
from neuroprune.evaluation.size import count_flops, size_report
from neuroprune.methods import method_for
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import attach
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, OPTIMIZERS, run, train
from tests.zoo import FAMILIES, inputs_for, logits, make_inputs, make_model, silence_


@settings(max_examples=15)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.9),
    steps=st.integers(1, 40),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    lr=st.sampled_from([1e-5, 1e-3, 1e-2]),
    connectivity=st.sampled_from(["fisher", "strength", "activity", "mixed"]),
    begin=st.floats(0.0, 0.4),
    length=st.floats(0.01, 0.6),
)
def test_the_target_is_met(
    family: str,
    target: float,
    steps: int,
    optimizer: str,
    lr: float,
    connectivity: str,
    begin: float,
    length: float,
) -> None:
    config = NeuroPrune(target=target, connectivity=connectivity, begin=begin, end=begin + length)
    model = train(family, config, steps, optimizer=optimizer, lr=lr).model
    reached = sparsity(anatomy_of(model)).structural_sparsity
    assert target - 1e-9 <= reached <= target + GRANULARITY
    assert torch.isfinite(logits(model, make_inputs(family))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_removed_after_the_ramp_or_before_it(family: str) -> None:
    model = make_model(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.6, begin=0.2, end=0.6), 40)
    counts = []
    for step in range(40):
        model(**inputs_for(model, family, step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(sparsity(anatomy_of(model)).structural_sparsity)
    assert counts[:8] == [0.0] * 8 and counts[8] >= 0.0
    assert counts == sorted(counts)
    assert len(set(counts)) > 4, "the model must shrink in several cuts"
    assert len(set(counts[23:])) == 1 and counts[23] == pytest.approx(0.6, abs=GRANULARITY)
    assert pruner.finish() == pruner.removed


@pytest.mark.parametrize(("optimizer_name", "lr"), [("sgd", 1e-2), ("adamw", 1e-3)])
@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
def test_cutting_while_training_equals_masked_training(
    family: str, optimizer_name: str, lr: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same units, silenced for good instead of cut, give the same losses: no jump.

    With the same learning rates; without pressure, which a replay could not apply to units that
    are gone.
    """
    monkeypatch.setattr("neuroprune.methods.pressure.Pressure.condemn", lambda *a, **k: None)
    gone: list[ShrinkPlan] = []
    scales: list[float] = []

    def losses(cut: bool) -> list[float]:
        model = make_model(family).double().train()
        optimizer = OPTIMIZERS[optimizer_name](model.parameters(), lr=lr)
        pruner = attach(model, optimizer, NeuroPrune(target=0.6), 30) if cut else None
        out = []
        for step in range(30):
            loss = model(**inputs_for(model, family, step)).loss
            out.append(float(loss.detach()))
            loss.backward()
            if pruner is not None:
                scales.append(pruner.method.rate_scale(pruner.anatomy))
            else:
                optimizer.param_groups[0]["lr"] = lr * scales[step]
            optimizer.step()
            optimizer.zero_grad()
            if pruner is not None:
                gone.append(pruner.removed)
            else:
                silence_(
                    anatomy_of(model),
                    {b: list(v) for b, v in gone[step].remove_heads.items()},
                    {b: list(v) for b, v in gone[step].remove_neurons.items()},
                )
        return out

    cut = losses(True)
    masked = losses(False)
    assert gone[-1].num_neurons > 0 and gone[-1].num_heads > 0
    assert len({plan.num_neurons for plan in gone}) >= 3
    assert scales[0] == 1.0 < scales[-1]
    assert cut == pytest.approx(masked, abs=1e-10)


def test_the_condemned_are_nearly_gone_when_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pressure, what a cut changes in the outputs is a small part of what it would be."""

    def jumps() -> float:
        model = make_model("bert").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        pruner = attach(model, optimizer, NeuroPrune(target=0.6), 100)
        total = 0.0
        cut = pruner._cut

        def watched(plan: ShrinkPlan) -> ShrinkPlan:
            nonlocal total
            before = logits(model, make_inputs("bert"))
            done = cut(plan)
            total += float((logits(model, make_inputs("bert")) - before).square().sum())
            model.train()
            return done

        monkeypatch.setattr(pruner, "_cut", watched)
        for step in range(100):
            model(**make_inputs("bert", step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return total

    with_pressure = jumps()
    monkeypatch.setattr("neuroprune.methods.pressure.Pressure.condemn", lambda *a, **k: None)
    assert with_pressure < 0.2 * jumps()


def test_scores_see_the_loss_and_not_its_scale() -> None:
    """Fisher connectivity ranks the same units poorest whatever the loss is multiplied with."""
    found = []
    for scale in (1.0, 1e4):
        model = make_model("bert").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        pruner = attach(model, optimizer, NeuroPrune(target=0.5), 20)
        for step in range(10):
            (scale * model(**make_inputs("bert", step)).loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(pruner.removed.to_dict())
    assert found[0] == found[1] and any(found[0].values())


def test_the_poor_go_and_the_rich_stay() -> None:
    """Units whose outgoing weights are tiny are the first to go; no rich unit is touched."""
    model = make_model("bert").train()
    anatomy = anatomy_of(model)
    poor = {b.name: [1, 5, 7] for b in anatomy.mlps}
    with torch.no_grad():
        for block in anatomy.mlps:
            block.down_proj.weight[:, poor[block.name]] *= 1e-3
    share = 6 * anatomy.mlps[0].weights_per_neuron / anatomy.dense_weights
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=share), 20)
    for step in range(20):
        model(**make_inputs("bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    removed = pruner.finish()
    assert {k: sorted(v) for k, v in removed.remove_neurons.items()} == poor
    assert not removed.remove_heads


def test_a_run_continues_from_its_state() -> None:
    """Stop in the middle of the ramp, and go on in a new pruner: the same trajectory."""
    whole = train("bert", NeuroPrune(target=0.6), 30).model
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.6), 30)
    for step in range(30):
        optimizer.zero_grad()
        model(**inputs_for(model, "bert", step)).loss.backward()
        optimizer.step()
        if step == 14:
            pruner.prune()
        if step == 10:
            state = json.loads(json.dumps(pruner.state_dict()))
            pruner.detach()
            pruner = attach(model, optimizer, NeuroPrune(target=0.6), 30)
            pruner.load_state_dict(state)
    pruner.finish()
    assert [p.shape for p in whole.parameters()] == [p.shape for p in model.parameters()]
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


_OUTPUT = {"target": 0.6, "end": 0.9, "redundancy": "output", "theta": 0.9}
RESUMED: list[tuple[dict[str, Any], int]] = [
    (_OUTPUT, 9),
    ({**_OUTPUT, "connectivity": "mixed"}, 9),
    ({**_OUTPUT, "redundancy": "circuit", "theta": 1.05}, 15),
    ({"target": 0.6, "end": 0.9, "repair": True}, 12),
    ({"target": 0.6, "end": 0.9, "repair": True}, 29),
    ({**_OUTPUT, "repair": True}, 35),
    ({"target": 0.6, "end": 0.6, "repair": True}, 30),  # it is over
    ({"alpha": 1e-3, "redundancy": "output", "theta": 1.05, "dominating": "greedy"}, 15),
    ({"alpha": 1e-3, "redundancy": "circuit", "theta": 1.05, "dominating": "greedy"}, 15),
]


@pytest.mark.filterwarnings("ignore:repair=True")
@pytest.mark.parametrize(("settings", "at"), RESUMED, ids=str)
def test_what_was_seen_of_activations_is_in_the_state(settings: dict[str, Any], at: int) -> None:
    """Stop, write JSON, go on in a new pruner: not a weight differs."""
    models = []
    for stop in (None, at):
        model = make_model("bert").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        pruner = attach(model, optimizer, NeuroPrune(**settings), 40)
        for step in range(40):
            optimizer.zero_grad()
            model(**inputs_for(model, "bert", step)).loss.backward()
            optimizer.step()
            if step % 20 == 19:
                pruner.prune()
            if step + 1 == stop:
                state = json.loads(json.dumps(pruner.state_dict()))
                pruner.detach()
                pruner = attach(model, optimizer, NeuroPrune(**settings), 40)
                pruner.load_state_dict(state)
        assert pruner.finish().num_heads
        models.append(model)
    whole, resumed = models
    assert [p.shape for p in whole.parameters()] == [p.shape for p in resumed.parameters()]
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_hooks_are_gone_at_the_end() -> None:
    model = train("bert", NeuroPrune(target=0.3, connectivity="mixed"), 10).model
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("steps", [None, 0])
def test_the_number_of_steps_is_needed(steps: int | None) -> None:
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(NeuroPrune(target=0.5), steps)


def test_frozen_output_layers_are_refused() -> None:
    model = make_model("bert")
    block = anatomy_of(model).mlps[0]
    block.down_proj.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"does not train those of .*layer\.0"):
        attach(model, optimizer, NeuroPrune(target=0.5), 10)


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target": "parameters:*0.9"},
        {"target": "flops:0.5@2x16"},
        {"target": "heads:3"},
        {"target": ["few", "heads:3"]},
        {"target": ["many", "heads:6"]},
    ],
    ids=str,
)
def test_every_kind_of_target_is_met(family: str, settings: dict[str, Any]) -> None:
    dense = size_report(make_model(family)).dense_parameters
    if settings["target"] == "parameters:*0.9":
        settings = {"target": f"parameters:{int(0.9 * dense)}"}
    sparsities = {"few": 0.8, "many": 0.7} if family == "t5" else {"few": 0.6, "many": 0.3}
    if isinstance(settings["target"], list):
        size, heads = settings["target"]
        settings = {"target": [sparsities[size], heads]}
    config = NeuroPrune(**settings)
    before = make_model(family)
    inputs = sample_inputs(before, 2, 16)
    flops = count_flops(before, inputs)
    model = train(family, config, 20).model
    anatomy = anatomy_of(model)
    for target in config.target:
        if isinstance(target, Heads):
            assert sum(b.num_heads for b in anatomy.attentions) == target.count
        elif isinstance(target, Parameters):
            parameters = sum(p.numel() for p in model.parameters())
            assert target.count - 0.005 * dense <= parameters <= target.count
        elif isinstance(target, Flops):
            share = count_flops(model, inputs) / flops
            assert target.kept - GRANULARITY <= share <= target.kept + 0.005
        else:
            reached = sparsity(anatomy).structural_sparsity
            assert target.sparsity <= reached <= target.sparsity + GRANULARITY


@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
@pytest.mark.parametrize("redundancy", ["weights", "circuit", "output"])
def test_targets_are_met_with_redundancy_and_repair(family: str, redundancy: str) -> None:
    config = NeuroPrune(target=0.6, redundancy=redundancy, theta=0.5, repair=True)
    model = train(family, config, 20).model
    reached = sparsity(anatomy_of(model)).structural_sparsity
    assert 0.6 <= reached <= 0.6 + GRANULARITY
    if family == "t5-gated":
        return  # its shared position bias needs a hook of its own
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("parameters:10", "reachable"),
        ("parameters:99999999", "reachable"),
        ("flops:0.0002@1x16", "reachable"),
        ("flops:0.5", "cannot be run on 128 tokens"),
        ("latency:0.5", "cannot be run on 128 tokens"),
        ("heads:99", "reachable is 0 to 8"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_training(target: str, words: str) -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=words):
        attach(model, optimizer, NeuroPrune(target=target), 10)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_run_continues_after_the_ramp() -> None:
    """The model has met its target, by a little more than asked; resuming is not refused."""
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.6), 20)
    for step in range(15):
        model(**make_inputs("bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state = json.loads(json.dumps(pruner.state_dict()))
    pruner.detach()
    again = attach(model, optimizer, NeuroPrune(target=0.6), 20)
    again.load_state_dict(state)
    assert not again.finish().num_neurons - pruner.removed.num_neurons


@pytest.mark.parametrize("steps", [3, 12])
def test_a_run_that_stops_early_still_meets_its_target(steps: int) -> None:
    """total_steps was too large, and prune() came right before finish()."""
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.6), 100)
    for step in range(steps):
        model(**make_inputs("bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.prune()
    pruner.finish()
    assert pruner.reached["structural:0.6"] == pytest.approx(0.606, abs=0.006)
    assert pruner.reached["structural:0.6"] == sparsity(anatomy_of(model)).structural_sparsity


def test_what_is_measured_while_training_needs_a_step() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), 10)
    with pytest.raises(ConfigError, match="no optimizer step was taken"):
        pruner.finish()
    pruner.detach()
    attach(model, optimizer, NeuroPrune(target=0.5, connectivity="strength"), 10).finish()
    assert anatomy_of(model).structural_sparsity == pytest.approx(0.5, abs=0.05)


def test_where_no_unit_is_left_there_is_nothing_to_choose() -> None:
    pruner = train("bert", NeuroPrune(target="heads:0"), 10)
    again = attach(pruner.model, pruner.optimizer, NeuroPrune(target="heads:0"), 10)
    run(again, "bert", range(10))
    again.finish()
    assert again.reached == {"heads:0": 0.0}
