"""A target of single weights: met exactly, by what the loss says or by size, gathering in rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.methods import method_for
from neuroprune.pruner import Pruner, attach
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, run, train
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
    pruner = train(family, NeuroPrune(target=f"weights:{goal}", connectivity=kind), 20)
    found = sparsity(anatomy_of(pruner.model))
    assert found.weight_sparsity >= goal - 1e-9
    gone_with_units = found.structural_sparsity
    assert found.weight_sparsity <= goal + max(GRANULARITY, gone_with_units)


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


def test_a_run_resumes_in_the_middle_of_its_ramp() -> None:
    settings = {"target": "weights:0.5", "begin": 0.1, "end": 0.9}
    whole = still(make_model("t5"), **settings)
    run(whole, "t5", range(5))
    state = json.loads(json.dumps(whole.state_dict()))
    again = make_model("t5")
    again.load_state_dict(whole.model.state_dict())
    run(whole, "t5", range(5, 10))
    pruner = still(again, **settings)
    pruner.load_state_dict(state)
    run(pruner, "t5", range(5, 10))
    assert float(zeros(again).float().mean()) == pytest.approx(0.5, abs=0.001)
    torch.testing.assert_close(zeros(again), zeros(whole.model))


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
