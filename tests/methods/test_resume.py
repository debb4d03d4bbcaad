"""A training that is resumed after its last cut goes on, whatever was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import neuroprune
from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.config import Config, ConfigError, Fisher, NeuroPrune, ProximalGroup
from neuroprune.control.cost import CostModel, Curve
from neuroprune.methods import goals
from neuroprune.pruner import attach
from tests.methods.loops import run, started
from tests.zoo import lineage_of, make_model

STEPS, STOP = 20, 15
TARGETS = [
    0.6,
    "weights:0.5",
    "parameters:*0.8",
    "flops:0.3@1x32",
    "flops:0.55@2x8",
    "latency:0.4@2x8",
    "heads:3",
    "size and heads",
    "speed and heads",
    ["latency:0.6@2x8", "heads:5"],
]


def clock(model: Any, anatomy: Anatomy, batch: int, length: int) -> CostModel:
    """A machine that is asked once, before anything was cut."""
    assert not anatomy.lineage.plan, "a resumed training must not measure again"
    heads = {b.name: Curve((0, 1, 2, 4), (0.5, 2.0, 2.0, 4.0)) for b in anatomy.attentions}
    neurons = {b.name: Curve((0, 8, 16, 24), (0.2, 1.0, 3.0, 3.0)) for b in anatomy.mlps}
    return CostModel("seconds", 1.0, heads | neurons)


PAIRS: dict[tuple[str, str], Any] = {
    ("size and heads", "bert"): [0.6, "heads:4"],
    ("size and heads", "t5"): [0.7, "heads:4"],
    ("speed and heads", "bert"): ["flops:0.7@1x32", "heads:6"],
    ("speed and heads", "t5"): ["flops:0.5@1x32", "heads:12"],
}


def asked(target: Any, family: str) -> Any:
    if (str(target), family) in PAIRS:
        return PAIRS[target, family]
    if target != "parameters:*0.8":
        return target
    return f"parameters:{int(0.8 * sum(p.numel() for p in make_model(family).parameters()))}"


def configs(target: Any, family: str) -> list[Config]:
    goal = asked(target, family)
    if target == "weights:0.5":
        return [NeuroPrune(target=goal)]
    return [
        NeuroPrune(target=goal),
        ProximalGroup(target=goal),
        Fisher(target=goal, batches=4, at=0.5),
    ]


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_target_after_the_ramp(
    target: Any, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(goals, "measure_latency", clock)
    for number, config in enumerate(configs(target, family)):
        pruner = started(family, config, STEPS)
        run(pruner, family, range(STOP))
        state = json.loads(json.dumps(pruner.state_dict()))
        folder = tmp_path / str(number)
        neuroprune.save_pretrained(pruner.model, folder)
        run(pruner, family, range(STOP, STEPS))
        pruner.finish()
        model = neuroprune.from_pretrained(folder).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        again = attach(model, optimizer, config, STEPS)
        again.load_state_dict(state)
        run(again, family, range(STOP, STEPS))
        again.finish()
        assert again.reached.keys() == pruner.reached.keys()
        if target == "weights:0.5":  # which weights are zero is up to the optimizer's state
            assert again.reached == pytest.approx(pruner.reached, abs=0.01)
        else:
            assert again.reached == pytest.approx(pruner.reached)
            assert lineage_of(model) == lineage_of(pruner.model)


@pytest.mark.parametrize("config", [NeuroPrune, Fisher, ProximalGroup])
def test_a_time_is_measured_before_the_first_step_where_nothing_was_saved(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of the dense model's time: of twice the time of the model as it is."""
    pruner = started("bert", NeuroPrune(target=0.5), 8)
    run(pruner, "bert", range(8))
    pruner.finish()
    model = pruner.model
    costs = {b.name: Curve.linear(b.num_heads, 1.0) for b in pruner.anatomy.attentions}
    costs |= {b.name: Curve.linear(b.d_ff, 0.5) for b in pruner.anatomy.mlps}
    monkeypatch.setattr(goals, "measure_latency", lambda *a: CostModel("seconds", 0.0, costs))
    monkeypatch.setattr(goals, "dense_times", lambda *a: 2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    refused = attach(model, optimizer, config(target="latency:0.9@2x8"), 8)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=r"reachable is 0 to 0\.5"):
        run(refused, "bert", range(1))
        refused.finish()  # a ranking looks at the model after its step
    if config is not ProximalGroup:
        assert all(map(torch.equal, before, model.parameters()))
    refused.detach()
    pruner = attach(model, optimizer, config(target="latency:0.3@2x8"), 8)
    run(pruner, "bert", range(8))
    pruner.finish()
    assert pruner.reached["latency:0.3@2x8"] == pytest.approx(0.28, abs=0.02)
    assert anatomy_of(model).structural_sparsity > 0.5


def test_a_target_that_was_met_can_be_asked_for_again() -> None:
    for target in (0.6, "flops:0.3@1x32", "parameters:15000", ["flops:0.6@1x32", "heads:5"]):
        pruner = started("bert", NeuroPrune(target=target), 8)
        run(pruner, "bert", range(8))
        pruner.finish()
        optimizer = torch.optim.AdamW(pruner.model.parameters(), lr=1e-3)
        again = attach(pruner.model, optimizer, NeuroPrune(target=target), 8)
        run(again, "bert", range(8))
        assert not again.finish()
        assert again.reached == pytest.approx(pruner.reached)
