from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuroprune import ShrinkPlan, anatomy_of, shrink_
from neuroprune.anatomy.inputs import count_flops, sample_inputs
from neuroprune.config import (
    ConfigError,
    Flops,
    Heads,
    Parameters,
    Structural,
    Target,
    Weights,
)
from neuroprune.evaluation.size import size_report
from neuroprune.methods.costs import (
    dense_flops,
    flops_cost,
    parameter_cost,
    unit_counts,
    weight_cost,
)
from neuroprune.methods.goals import (
    Goal,
    achieved,
    check_heads,
    check_weights,
    reachable_costs,
)
from tests.methods.goal import goal_of
from tests.strategies import plans
from tests.zoo import D_FF, D_MODEL, FAMILIES, HEADS, make_model, random_inputs

BATCH, LENGTH = 2, 6


def cut(model: nn.Module, data: Any) -> nn.Module:
    """A copy without randomly drawn units, whole blocks included."""
    anatomy = anatomy_of(model)
    sizes = {
        "heads": {b.name: b.num_heads for b in anatomy.attentions},
        "neurons": {b.name: b.d_ff for b in anatomy.mlps},
    }
    small = copy.deepcopy(model)
    shrink_(small, data.draw(plans(sizes)))
    return small


def without(model: nn.Module, heads: list[int], neurons: list[int]) -> nn.Module:
    anatomy = anatomy_of(model)
    small = copy.deepcopy(model)
    shrink_(
        small,
        ShrinkPlan(
            {b.name: heads for b in anatomy.attentions}, {b.name: neurons for b in anatomy.mlps}
        ),
    )
    return small


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(data=st.data())
def test_predicted_parameters_are_the_real_ones(family: str, data: st.DataObject) -> None:
    model = make_model(family)
    cost = parameter_cost(anatomy_of(model), model)
    small = cut(model, data)
    for stage in (model, small):
        real = sum(p.numel() for p in stage.parameters())
        assert cost.kept(unit_counts(anatomy_of(stage))) == real
    again = cut(small, data)  # measured on a model that was cut before
    cost = parameter_cost(anatomy_of(small), small)
    assert cost.kept(unit_counts(anatomy_of(again))) == sum(p.numel() for p in again.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(data=st.data())
def test_predicted_flops_are_the_counted_ones(family: str, data: st.DataObject) -> None:
    model = make_model(family)
    cost = flops_cost(model, anatomy_of(model), BATCH, LENGTH)
    small = cut(model, data)
    for stage in (model, small):
        counted = count_flops(stage, sample_inputs(stage, BATCH, LENGTH))
        assert cost.kept(unit_counts(anatomy_of(stage))) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_dense_models_flops_are_known_after_any_cut(
    family: str, data: st.DataObject, seed: int
) -> None:
    """Whole blocks and inputs included; and the cost of what is left is the counted one."""
    model = make_model(family)
    dense = count_flops(model, sample_inputs(model, BATCH, LENGTH))
    small = cut(model, data)
    shrink_(small, ShrinkPlan(remove_inputs=random_inputs(small, seed)))
    anatomy = anatomy_of(small)
    assert dense_flops(small, anatomy, BATCH, LENGTH) == dense
    cost = flops_cost(small, anatomy, BATCH, LENGTH)
    again = cut(small, data)
    for stage in (small, again):
        counted = count_flops(stage, sample_inputs(stage, BATCH, LENGTH))
        assert cost.kept(unit_counts(anatomy_of(stage))) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_dense_models_flops_are_known_after_a_cut_of_the_width(family: str) -> None:
    model = make_model(family)
    dense = count_flops(model, sample_inputs(model, BATCH, LENGTH))
    name = anatomy_of(model).attentions[0].name
    shrink_(model, ShrinkPlan({name: [0, 1]}, remove_hidden=[0, 5, 6]))
    assert dense_flops(model, anatomy_of(model), BATCH, LENGTH) == dense
    assert count_flops(model, sample_inputs(model, BATCH, LENGTH)) < dense


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_costs_flops_and_parameters(family: str) -> None:
    model = make_model(family)
    anatomy = anatomy_of(model)
    for cost in (
        flops_cost(model, anatomy, BATCH, LENGTH),
        parameter_cost(anatomy, model),
        weight_cost(anatomy),
    ):
        assert set(cost.curves) == {b.name for b in anatomy.blocks()}
        assert all(curve.per_unit > 0 for curve in cost.curves.values())


def test_parameters_by_hand() -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    cost = parameter_cost(anatomy, model)
    head_dim = D_MODEL // HEADS
    assert cost.curves[anatomy.attentions[0].name].per_unit == head_dim * (4 * D_MODEL + 3)
    assert cost.curves[anatomy.mlps[0].name].per_unit == 2 * D_MODEL + 1


def test_flops_by_hand() -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    cost = flops_cost(model, anatomy, BATCH, LENGTH)
    tokens, head_dim = BATCH * LENGTH, D_MODEL // HEADS
    products = 4 * BATCH * LENGTH * LENGTH * head_dim
    curve = cost.curves[anatomy.attentions[0].name]
    assert curve.at(1) == 2 * tokens * 4 * D_MODEL * head_dim + products
    assert curve.at(3) == 3 * curve.at(1)
    assert curve.at(0) == products  # the placeholder head
    assert cost.curves[anatomy.mlps[0].name].at(D_FF) == 2 * tokens * 2 * D_MODEL * D_FF


def test_goals_leave_the_model_as_it_was() -> None:
    model = make_model("t5").train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    anatomy = anatomy_of(model)
    for target in (Structural(0.5), Parameters(15_000), Flops(0.9, BATCH, LENGTH)):
        goal_of(target, anatomy, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("target", [Structural(0.6), Parameters(14_000), Flops(0.8, BATCH, LENGTH)])
def test_a_goal_says_what_is_achieved_in_the_targets_unit(target: Target) -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    goal = goal_of(target, anatomy, model)
    assert goal.value(goal.kept) == pytest.approx(
        getattr(target, "sparsity", None)
        or getattr(target, "count", None)
        or getattr(target, "kept", None)
    )
    assert goal.kept < goal.start == goal.cost.kept(unit_counts(anatomy))
    small = without(model, [0, 2], [1, 5, 7])
    report = size_report(small, sample_inputs(small, BATCH, LENGTH))
    value = achieved(target, goal, anatomy_of(small))
    if isinstance(target, Structural):
        assert value == pytest.approx(report.structural_sparsity)
    elif isinstance(target, Parameters):
        assert value == report.parameters
    else:
        dense = count_flops(model, sample_inputs(model, BATCH, LENGTH))
        assert report.flops is not None
        assert value == pytest.approx(report.flops / dense)
    stored = json.loads(json.dumps(goal.to_dict()))
    assert Goal.from_dict(target, stored) == goal


def test_achieved_heads_and_weight_sparsity() -> None:
    model = make_model("bert")
    with torch.no_grad():
        anatomy_of(model).mlps[0].up_proj.weight.zero_()
    small = without(model, [0], [])
    anatomy = anatomy_of(small)
    assert achieved(Heads(5), None, anatomy) == 6
    assert achieved(Weights(0.5), None, anatomy) == size_report(small).weight_sparsity
    with pytest.raises(TypeError, match="needs the goal"):
        achieved(Structural(0.5), None, anatomy)
    with pytest.raises(TypeError, match="the caller handles it"):
        goal_of(Heads(5), anatomy, small)


def offered(error: pytest.ExceptionInfo[ConfigError]) -> tuple[float, float]:
    match = re.search(r"reachable is ([\d.,]+) to ([\d.,]+)\.", str(error.value))
    assert match, str(error.value)
    low, high = (float(value.replace(",", "")) for value in match.groups())
    return low, high


@pytest.mark.parametrize("heads_kept", [None, 3])
@pytest.mark.parametrize(
    ("kind", "beyond"),
    [(Structural, 0.001), (Parameters, 1), (Parameters, 10**9), (Flops, 0.001)],
)
def test_the_range_of_a_refusal_is_what_can_be_reached(
    kind: Any, beyond: float, heads_kept: int | None
) -> None:
    small = without(make_model("opt"), [3], [0, 1])  # so that no range begins or ends at all
    anatomy = anatomy_of(small)
    shape = (BATCH, LENGTH) if kind is Flops else ()
    with pytest.raises(ConfigError, match="cannot be reached with this model") as error:
        goal_of(kind(beyond, *shape), anatomy, small, heads_kept=heads_kept)
    assert ("with 3 heads" in str(error.value)) is (heads_kept is not None)
    low, high = offered(error)
    assert low < high
    step = 1 if kind is Parameters else 1e-4
    for value, outside in ((low, low - step), (high, high + step)):
        goal_of(kind(value, *shape), anatomy, small, heads_kept=heads_kept)
        if 0 < outside < 1 or kind is Parameters:
            with pytest.raises(ConfigError):
                goal_of(kind(outside, *shape), anatomy, small, heads_kept=heads_kept)


def test_parameters_are_refused_with_the_range_in_thousands() -> None:
    model = make_model("bert")
    fewest = sum(p.numel() for p in without(model, [*range(HEADS)], [*range(D_FF)]).parameters())
    most = sum(p.numel() for p in model.parameters())
    with pytest.raises(ConfigError) as error:
        goal_of(Parameters(7), anatomy_of(model), model)
    assert str(error.value) == (
        f"Parameters(7) cannot be reached with this model: reachable is {fewest:,} to {most:,}."
    )
    for count in (fewest, most):
        assert goal_of(Parameters(count), anatomy_of(model), model).kept == count


def test_a_structural_sparsity_below_what_was_cut_is_refused() -> None:
    small = without(make_model("bert"), [0, 1], [])
    have = size_report(small).structural_sparsity
    with pytest.raises(ConfigError, match=r"Structural\(0\.1\) .* is 0\.3637 to 0\.9999\."):
        goal_of(Structural(0.1), anatomy_of(small), small)
    goal = goal_of(Structural(have), anatomy_of(small), small)
    assert goal.kept == pytest.approx(goal.start)


def test_heads_in_cheap_and_dear_blocks_are_told_apart() -> None:
    model = make_model("bert-cross")
    anatomy = anatomy_of(model)
    cost = parameter_cost(anatomy, model)
    name = anatomy.attentions[0].name
    dear = cost.curves[name]
    curves = {**cost.curves, name: type(dear)(dear.units, tuple(2 * c for c in dear.costs))}
    cost = type(cost)(cost.unit, cost.fixed, curves)
    low, high = reachable_costs(cost, anatomy, heads_kept=1)
    neurons = sum(b.d_ff * cost.curves[b.name].per_unit for b in anatomy.mlps)
    assert high - low == pytest.approx(neurons + dear.per_unit)


def test_heads_must_be_there() -> None:
    anatomy = anatomy_of(make_model("t5"))
    present = sum(b.num_heads for b in anatomy.attentions)
    for count in (0, 1, present):
        check_heads(Heads(count), anatomy)
    with pytest.raises(ConfigError, match=rf"reachable is 0 to {present}\."):
        check_heads(Heads(present + 1), anatomy)


def test_heads_that_share_keys_and_values_count_in_groups() -> None:
    model = make_model("opt")
    for block in anatomy_of(model).attentions:
        for layer in (block.k_proj, block.v_proj):  # two query heads share one key/value head
            layer.weight = nn.Parameter(layer.weight[: D_MODEL // 2].detach())
            layer.bias = nn.Parameter(layer.bias[: D_MODEL // 2].detach())
    anatomy = anatomy_of(model)
    assert {b.num_kv_heads for b in anatomy.attentions} == {HEADS // 2}
    check_heads(Heads(6), anatomy)
    with pytest.raises(ConfigError, match="is 0 to 8, in multiples of 2"):
        check_heads(Heads(5), anatomy)
    cost = parameter_cost(anatomy, model)
    small = without(model, [0, 1], [3])
    assert cost.kept(unit_counts(anatomy_of(small))) == sum(p.numel() for p in small.parameters())


def test_any_weight_sparsity_above_what_was_removed_can_be_reached() -> None:
    model = make_model("bert")
    everything = set(model.parameters())
    check_weights(Weights(0.999), anatomy_of(model), everything)
    check_weights(Weights(0.0), anatomy_of(model), everything)
    small = without(model, [0, 1], [])
    everything = set(small.parameters())
    removed = size_report(small).structural_sparsity
    check_weights(Weights(removed), anatomy_of(small), everything)
    with pytest.raises(ConfigError, match=r"Weights\(0\.1\) .* is 0\.\d+ up to, but not incl"):
        check_weights(Weights(0.1), anatomy_of(small), everything)


def test_weights_that_are_not_trained_stay() -> None:
    anatomy = anatomy_of(make_model("bert"))
    trained = {w for block in anatomy.mlps for w in block.matrices()}
    most = sum(w.numel() for w in trained) / anatomy.dense_weights
    check_weights(Weights(most - 1e-4), anatomy, trained)
    with pytest.raises(ConfigError, match=r"% are in layers that the optimizer does not train: re"):
        check_weights(Weights(most + 1e-3), anatomy, trained)
