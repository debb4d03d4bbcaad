"""The optimizer's memory survives a cut: shrink-then-train == train-with-zeros."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.anatomy import anatomy_of
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import OptimizerStateError, shrink_
from tests.surgery.test_shrink import random_units
from tests.zoo import FAMILIES, HEAD_DIM, inputs_for, make_inputs, make_model

Make = Callable[[list[Any]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda g: torch.optim.AdamW(g, lr=1e-3, foreach=False),
    "adamw-foreach": lambda g: torch.optim.AdamW(g, lr=1e-3, foreach=True),
    "adamw-fused": lambda g: torch.optim.AdamW(g, lr=1e-3, fused=True),
    "adamw-amsgrad": lambda g: torch.optim.AdamW(g, lr=1e-3, amsgrad=True),
    "sgd": lambda g: torch.optim.SGD(g, lr=1e-2, momentum=0.9, weight_decay=0.01),
}


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two param groups, as every fine-tuning script makes them."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]


def state_shapes(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The shape of every entry of the state, parameter by parameter; None for plain numbers."""
    return [
        {k: getattr(v, "shape", None) for k, v in optimizer.state[p].items()}
        for group in optimizer.param_groups
        for p in group["params"]
    ]


@torch.no_grad()
def kill_(model: nn.Module, heads: dict[str, list[int]], neurons: dict[str, list[int]]) -> None:
    """Zero every weight and bias of the units."""
    anatomy = anatomy_of(model)
    for block in anatomy.attentions:
        for head in heads[block.name]:
            rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            for layer in (block.q_proj, block.k_proj, block.v_proj):
                layer.weight[rows] = 0
                if layer.bias is not None:
                    layer.bias[rows] = 0
            block.o_proj.weight[:, rows] = 0
    for mlp in anatomy.mlps:
        index = neurons[mlp.name]
        for layer in mlp.fan_in():
            layer.weight[index] = 0
            if layer.bias is not None:
                layer.bias[index] = 0
        mlp.down_proj.weight[:, index] = 0


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, family: str) -> float:
    """One training step in the model's own precision; returns the loss."""
    loss = model(**inputs_for(model, family, seed)).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_trajectory_is_that_of_the_masked_model(family: str, name: str) -> None:
    """20 steps after the cut, in float64, losses agree with those of the zeroed model."""
    torch.manual_seed(0)
    masked = make_model(family).double().train()
    optimizer = OPTIMIZERS[name](groups(masked))
    for seed in range(3):
        step(masked, optimizer, seed, family)
    heads, neurons = random_units(masked, 5)
    kill_(masked, heads, neurons)
    for group in optimizer.param_groups:  # moments of dead units are dead in both
        for p in group["params"]:
            for value in optimizer.state[p].values():
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    value[p == 0] = 0
    shrunk = copy.deepcopy(masked)
    other = OPTIMIZERS[name](groups(shrunk))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    shrink_(shrunk, ShrinkPlan(heads, neurons), other)
    for seed in range(10, 30):
        expected = step(masked, optimizer, seed, family)
        assert step(shrunk, other, seed, family) == pytest.approx(expected, abs=1e-9, rel=0)


def _adafactors() -> dict[str, Make]:
    from transformers.optimization import Adafactor

    return {
        "torch": lambda g: torch.optim.Adafactor(g, lr=1e-3),
        "transformers": lambda g: Adafactor(g, lr=1e-3, relative_step=False),
        "transformers-momentum": lambda g: Adafactor(
            g, lr=1e-3, relative_step=False, beta1=0.9, scale_parameter=False
        ),
    }


@pytest.mark.parametrize("name", ["torch", "transformers", "transformers-momentum"])
@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
def test_adafactor_state_is_sliced_and_runs(family: str, name: str) -> None:
    model = make_model(family).train()
    optimizer = _adafactors()[name](groups(model))
    for seed in range(2):
        step(model, optimizer, seed, family)
    shrink_(
        model,
        ShrinkPlan(
            {b.name: [0, 3] for b in anatomy_of(model).attentions},
            {b.name: [1, 2, 3] for b in anatomy_of(model).mlps},
        ),
        optimizer,
    )
    fresh_model = copy.deepcopy(model)
    fresh = _adafactors()[name](groups(fresh_model))
    step(fresh_model, fresh, 7, family)
    assert state_shapes(optimizer) == state_shapes(fresh)
    before = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer, 8, family)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_that_is_left_still_moves(family: str, name: str) -> None:
    model = make_model(family).train()
    optimizer = OPTIMIZERS[name](groups(model))
    step(model, optimizer, 0, family)
    names = anatomy_of(model)
    plan = ShrinkPlan({b.name: [1] for b in names.attentions}, {b.name: [0, 7] for b in names.mlps})
    shrink_(model, plan, optimizer)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert set(map(id, optimizer.state)) <= held
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(model, optimizer, 1, family)
    for block in anatomy_of(model).blocks():
        for matrix in block.matrices():
            name_of = next(n for n, p in model.named_parameters() if p is matrix)
            changed = (matrix != before[name_of]).float().mean()
            assert changed > 0.9, f"{name_of}: only {changed:.0%} of the weights moved"


def test_a_graph_from_before_the_cut_can_still_be_used() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = model(**make_inputs("bert")).loss
    shrink_(model, ShrinkPlan(remove_neurons={"encoder.layer.0.mlp": [0]}), optimizer)
    loss.backward()
    optimizer.zero_grad()
    assert step(model, optimizer, 2, "bert") > 0


def test_a_graph_from_before_a_merge_can_still_be_used() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = anatomy_of(model).attentions[0].q_proj.weight
    loss = model(**make_inputs("bert")).loss
    shrink_(model, ShrinkPlan(merge_heads={"encoder.layer.0.attention": {0: 1}}), optimizer)
    loss.backward()
    assert before.grad is not None  # the graph reaches the weights it was made with
    assert anatomy_of(model).attentions[0].q_proj.weight.grad is None


def test_a_state_of_one_entry_is_sliced_with_its_parameter() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    name = anatomy_of(model).mlps[0].name
    for units, left in ((range(1, anatomy_of(model).mlps[0].d_ff), 1), ([0], 0)):
        shrink_(model, ShrinkPlan(remove_neurons={name: units}), optimizer)
        step(model, optimizer, 0, "bert")
        down = anatomy_of(model).mlps[0].down_proj.weight
        moments = optimizer.state[down]["exp_avg"] if left else torch.empty(down.shape)
        assert down.shape[1] == left and moments.shape == down.shape


def test_optimizers_that_cannot_follow_are_refused() -> None:
    model = make_model("bert")
    plan = ShrinkPlan({"encoder.layer.0.attention": [0]})
    with pytest.raises(OptimizerStateError, match="LBFGS"):
        shrink_(model, plan, torch.optim.LBFGS(model.parameters()))
    other = torch.optim.SGD(make_model("bert").parameters(), lr=0.1)
    with pytest.raises(OptimizerStateError, match="none of this model's parameters"):
        shrink_(model, plan, other)
    schedule = torch.optim.lr_scheduler.ConstantLR(other)
    with pytest.raises(TypeError, match="scheduler"):
        shrink_(model, plan, schedule)


def test_an_unknown_state_shape_is_refused_before_anything_changes() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, 0, "bert")
    block = anatomy_of(model).mlps[0]
    optimizer.state[block.up_proj.weight]["absmax"] = torch.zeros(13)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = ShrinkPlan({b.name: [0] for b in anatomy_of(model).attentions}, {block.name: [0]})
    with pytest.raises(OptimizerStateError, match=r"'absmax'.*make a new one afterwards"):
        shrink_(model, plan, optimizer)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("value", [[torch.zeros(3, 3)], {"gram": torch.zeros(3, 3)}])
def test_tensors_in_containers_are_refused(value: Any) -> None:
    """Such as the gram matrices of SOAP: to leave them as they are would break the next step."""
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, 0, "bert")
    block = anatomy_of(model).mlps[0]
    state = optimizer.state[block.up_proj.weight]
    state["numbers"] = [1, 2.0, torch.tensor(3.0)]
    state["note"] = "text"
    shrink_(model, ShrinkPlan({}, {block.name: [0]}), optimizer)
    optimizer.state[anatomy_of(model).mlps[0].up_proj.weight]["GG"] = value
    with pytest.raises(OptimizerStateError, match=r"'GG', a (list|dict) of tensors"):
        shrink_(model, ShrinkPlan({}, {block.name: [0]}), optimizer)


def test_schedulers_and_accelerate_wrappers_go_on() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(groups(model), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (1 + n))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for seed in range(2):
        accelerator.backward(model(**make_inputs("bert", seed)).loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    shrink_(
        accelerator.unwrap_model(model),
        ShrinkPlan({"encoder.layer.0.attention": [0]}),
        optimizer,
    )
    rate = optimizer.param_groups[0]["lr"]
    accelerator.backward(model(**make_inputs("bert", 3)).loss)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] < rate
