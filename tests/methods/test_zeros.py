"""A target of single weights: met exactly, by what the loss says or by size, gathering in rows."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, Config, ConfigError, Magnitude, Movement, NeuroPrune
from neuroprune.methods import method_for
from neuroprune.pruner import Pruner, attach
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, run, started
from tests.zoo import FAMILIES, inputs_for, make_model

KINDS = ["fisher", "strength"]


def still(model: Any, **settings: Any) -> Pruner:
    """A pruner on a model that only the mask changes."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return attach(model.train(), optimizer, NeuroPrune(**settings), 10)


def zeros(model: Any) -> torch.Tensor:
    return torch.cat([(w == 0).flatten() for w in anatomy_of(model).matrices()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("goal", [0.0, 0.5, 0.9])
def test_a_weight_sparsity_is_met(family: str, goal: float, kind: str) -> None:
    """To the weight; units that zeros have made idle may go on top of it when training ends."""
    config = NeuroPrune(target=f"weights:{goal}", connectivity=kind)
    pruner = started(family, config, 20)
    run(pruner, family, range(20))
    anatomy = anatomy_of(pruner.model)
    found = sparsity(anatomy).weight_sparsity
    assert goal <= found < goal + 1.5 / anatomy.dense_weights
    pruner.finish()
    (reached,) = pruner.reached.values()
    assert goal - 1e-9 <= reached <= goal + 2 * GRANULARITY


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_gather_in_rows_that_have_lost_before(kind: str) -> None:
    """Preferential attachment of single weights: the rich rows stay richer than by magnitude."""
    model = make_model("bert")
    weight = anatomy_of(model).mlps[0].up_proj.weight
    with torch.no_grad():
        weight[:4, : weight.shape[1] // 2] = 0.0
    pruner = still(model, target="weights:0.4", connectivity=kind)
    run(pruner, "bert", range(10))
    left = (weight != 0).float()[:, weight.shape[1] // 2 :].mean(dim=1)
    assert left[:4].mean() < 0.75 * left[4:].mean()


def test_weights_that_the_loss_does_not_feel_go_first() -> None:
    """Large weights behind no gradient go by what the loss says, and stay by their size."""
    gone = {}
    for kind in KINDS:
        model = make_model("bert")
        weight = anatomy_of(model).mlps[0].up_proj.weight
        with torch.no_grad():
            weight[:4].mul_(10.0)
        weight.register_hook(lambda g: torch.cat([torch.zeros_like(g[:4]), g[4:]]))
        pruner = still(model, target="weights:0.3", connectivity=kind)
        run(pruner, "bert", range(10))
        gone[kind] = float((weight[:4] == 0).float().mean())
    assert gone["fisher"] == 1.0
    assert gone["strength"] < 0.1


def test_no_more_goes_than_asked_where_many_weights_have_no_gradient() -> None:
    model = make_model("bert")
    for block in anatomy_of(model).mlps:
        for matrix in block.matrices():
            matrix.register_hook(torch.zeros_like)
    with torch.no_grad():
        anatomy_of(model).mlps[-1].down_proj.weight[:, ::2] = 0.0
    pruner = still(model, target="weights:0.3")
    run(pruner, "bert", range(10))
    found = zeros(model)
    assert float(found.float().mean()) == pytest.approx(0.3, abs=1 / len(found))


def test_the_scale_of_the_loss_is_of_no_matter() -> None:
    found = []
    for scale in (1.0, 1024.0):
        model = make_model("bert")
        pruner = still(model, target="weights:0.5")
        for step in range(10):
            pruner.optimizer.zero_grad()
            (model(**inputs_for(model, "bert", step)).loss * scale).backward()
            pruner.optimizer.step()
        found.append(zeros(model))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("target", ["weights:0.5", 0.5])
def test_a_batch_of_which_the_loss_says_nothing_changes_nothing(target: Any) -> None:
    """Its gradients are all zero; the weights do not move, so that the choice can be compared."""
    found = []
    for mute in ((), (0,), (2, 3), (0, 1, 2)):
        model = make_model("bert")
        pruner = attach(
            model.train(),
            torch.optim.SGD(model.parameters(), lr=0.0),
            NeuroPrune(target=target),
            40,
        )
        for step in range(40):
            pruner.optimizer.zero_grad()
            loss = model(**inputs_for(model, "bert", 0)).loss
            (loss * (0.0 if step in mute else 1.0)).backward()
            pruner.optimizer.step()
        pruner.finish()
        (reached,) = pruner.reached.values()
        assert 0.5 <= reached <= 0.5 + 2 * GRANULARITY
        found.append(sum(b.up_proj.out_features for b in anatomy_of(model).mlps))
    assert found == pytest.approx(found[:1] * 4, abs=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_resumes_in_the_middle_of_its_ramp(dtype: torch.dtype) -> None:
    """With weights that move, and two batches a step."""

    def go(pruner: Pruner, steps: range) -> None:
        for step in steps:
            pruner.optimizer.zero_grad()
            for half in (0, 100):
                loss = pruner.model(**inputs_for(pruner.model, "t5", step + half)).loss
                (loss / 2).backward()
            pruner.optimizer.step()

    config = NeuroPrune(target="weights:0.5", begin=0.1, end=0.8)
    whole = started("t5", config, 10, dtype=dtype)
    go(whole, range(5))
    state = json.loads(json.dumps(whole.state_dict()))
    weights = copy.deepcopy(whole.model.state_dict())
    moments = copy.deepcopy(whole.optimizer.state_dict())
    go(whole, range(5, 10))
    model = make_model("t5").to(dtype).train()
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(moments)
    again = attach(model, optimizer, config, 10)
    again.load_state_dict(state)
    go(again, range(5, 10))
    assert float(zeros(again.model).float().mean()) == pytest.approx(0.5, abs=0.001)
    assert torch.equal(zeros(again.model), zeros(whole.model))


def test_a_state_from_before_gradients_were_followed_is_refused_until_the_ramp_ends() -> None:
    config = NeuroPrune(target="weights:0.5", begin=0.1, end=0.6)
    for steps, refused in ((4, True), (6, False)):
        pruner = started("bert", config, 10)
        run(pruner, "bert", range(steps))
        state = pruner.state_dict()
        del state["method_state"]["by_loss"]
        again = started("bert", config, 10)
        if refused:
            with pytest.raises(ConfigError, match="chose weights by their size alone"):
                again.load_state_dict(state)
        else:
            again.load_state_dict(state)


@pytest.mark.parametrize(
    "config",
    [
        NeuroPrune(target="weights:0.99"),
        L1(target="weights:0.99"),
        Movement(target=0.99, structure="weights"),
        Magnitude(target=0.99, structure="weights"),
    ],
    ids=lambda config: type(config).__name__,
)
def test_weights_of_frozen_layers_are_no_part_of_what_can_be_reached(config: Config) -> None:
    model = make_model("bert").train()
    layer = anatomy_of(model).mlps[0]
    for matrix in layer.matrices():
        matrix.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with pytest.raises(ConfigError, match="the optimizer does not train: reachable is 0 to 0"):
        attach(model, optimizer, config, 10)
    reached = attach(model, optimizer, NeuroPrune(target="weights:0.5"), 10)
    run(reached, "bert", range(10))
    assert float(zeros(model).float().mean()) == pytest.approx(0.5, abs=0.001)
    assert bool(layer.matrices()[0].all())


def test_finishing_without_a_step_needs_the_strength_alone() -> None:
    pruner = still(make_model("bert"), target="weights:0.5")
    with pytest.raises(ConfigError, match="no optimizer step was taken"):
        pruner.finish()
    pruner.detach()
    pruner = still(make_model("bert"), target="weights:0.5", connectivity="strength")
    pruner.finish()
    assert pruner.reached["weights:0.5"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"repair": True},
        {"uniform": True},
        {"connectivity": "activity"},
        {"connectivity": "mixed"},
        {"lr_growth": 0.9},
    ],
)
def test_unit_settings_are_refused_for_weights(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="whole heads and neurons"):
        method_for(NeuroPrune(target="weights:0.5", **settings), 10)
