"""Input dimensions that die: dropped when training ends, and no obstacle to what comes next."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import (
    DSP,
    L1,
    CoFi,
    Config,
    Fisher,
    Flops,
    Magnitude,
    Movement,
    NeuroPrune,
    ProximalGroup,
    Weights,
)
from neuroprune.evaluation.size import size_report
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import attach
from neuroprune.surgery import shrink_
from neuroprune.surgery.inputs import GatheredLinear
from tests.methods.loops import run, started
from tests.zoo import (
    D_MODEL,
    FAMILIES,
    Inputs,
    lineage_of,
    logits,
    make_inputs,
    make_model,
    silence_inputs_,
)

PAPER = (NeuroPrune(alpha=0.0, beta=0.0, theta=0.0, eps=0.0), L1(strength=0.0, eps=0.0))


def halves(model: Any) -> Inputs:
    """Half of the inputs of every group."""
    return {
        b.name: {group: range(0, layers[0].weight.shape[1], 2) for group, layers in groups.items()}
        for b in anatomy_of(model).blocks()
        for groups in [b.readers()]
    }


@pytest.mark.parametrize("config", PAPER, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_finish_drops_dead_inputs_and_changes_no_output(family: str, config: Config) -> None:
    model = make_model(family)
    start = copy.deepcopy(model)
    silence_inputs_(anatomy_of(model), halves(model))
    before, whole = logits(model, make_inputs(family)), size_report(model)
    pruner = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), config)
    assert not pruner.prune().num_inputs, "only when training ends"
    removed = pruner.finish()
    assert removed.remove_inputs == ShrinkPlan(remove_inputs=halves(start)).remove_inputs
    torch.testing.assert_close(logits(model, make_inputs(family)), before, rtol=0, atol=1e-5)
    after = size_report(model, make_inputs(family))
    assert after.dense_parameters == whole.dense_parameters
    assert after.dense_weights == whole.dense_weights
    assert after.structural_sparsity == whole.weight_sparsity == after.weight_sparsity
    assert after.flops is not None and after.flops < size_report(start, make_inputs(family)).flops
    shrink_(start, removed)
    assert [p.shape for p in start.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize(
    "config",
    [
        NeuroPrune(alpha=0.0, beta=3.0, theta=0.0, eps=1e-2, apply="prox"),
        L1(strength=1.0, eps=1e-2, apply="prox"),
    ],
    ids=lambda c: type(c).__name__,
)
def test_a_penalty_that_kills_inputs_makes_smaller_layers(config: Config) -> None:
    """The paper's row penalty, and l1, with a strength that kills part of the inputs."""
    pruner = started("t5-gated", config, 6, optimizer="sgd", lr=1e-2)
    with torch.no_grad():  # some inputs are weak from the start
        for block in pruner.anatomy.blocks():
            for layers in block.readers().values():
                for layer in layers:
                    layer.weight[:, :12] *= 1e-3
    run(pruner, "t5-gated", range(6))
    removed = pruner.finish()
    assert removed.num_inputs > 0
    gathered = [m for m in pruner.model.modules() if isinstance(m, GatheredLinear)]
    assert sum(layer.weight.numel() for layer in gathered) < 20 * 32 * len(gathered)
    assert lineage_of(pruner.model).plan == removed


CONFIGS: list[Config] = [
    NeuroPrune(alpha=1e-2, beta=1e-2),
    NeuroPrune(alpha=1e-2, beta=1e-2, apply="prox", redundancy="output", dominating="greedy"),
    NeuroPrune(target=0.8, redundancy="circuit", repair=True, connectivity="strength"),
    NeuroPrune(target=0.85, uniform=True),
    NeuroPrune(target=Flops(0.4, length=16)),
    NeuroPrune(target=Weights(0.8)),
    NeuroPrune(target=0.8, teacher="dense"),
    L1(target=0.8),
    L1(target=Weights(0.8)),
    Magnitude(target=0.8),
    Magnitude(target=0.8, structure="units"),
    Movement(target=0.8),
    CoFi(target=0.8, begin=0.0, warm=0.5, end=1.0),
    DSP(heads=6, begin=0.0, end=1.0),
    Fisher(target=0.8),
    ProximalGroup(target=0.8),
    ProximalGroup(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{type(c).__name__}-{c.to_dict()}"[:60])
def test_every_method_prunes_on_where_inputs_were_removed(config: Config) -> None:
    """Groups that lost one, half and all of their inputs."""
    model = make_model("bert").train()
    lost = {
        "encoder.layer.0.attention": {"qkv": range(D_MODEL)},
        "encoder.layer.1.attention": {"qkv": range(D_MODEL // 2)},
        "encoder.layer.0.mlp": {"up": [5]},
        "encoder.layer.1.mlp": {"up": range(D_MODEL)},
    }
    shrink_(model, ShrinkPlan(remove_inputs=lost))
    before = anatomy_of(model).structural_sparsity
    inputs = lineage_of(model).plan.remove_inputs
    pruner = attach(model, torch.optim.AdamW(model.parameters(), lr=1e-3), config, 10)
    run(pruner, "bert", range(5))
    pruner.prune()
    run(pruner, "bert", range(5, 10))
    pruner.finish()
    assert torch.isfinite(logits(model, make_inputs("bert"))).all()
    assert anatomy_of(model).structural_sparsity >= before
    now = lineage_of(model).plan.remove_inputs
    assert all(set(v) <= set(now[b][g]) for b, groups in inputs.items() for g, v in groups.items())
