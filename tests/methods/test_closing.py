"""The last cut: what was asked, to the unit, for fresh models and for models cut before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune import ShrinkPlan, anatomy_of, shrink_
from neuroprune.anatomy import Anatomy
from neuroprune.anatomy.inputs import count_flops, sample_inputs
from neuroprune.config import ConfigError, Structural
from neuroprune.control.cost import CostModel, Curve
from neuroprune.methods import goals as goals_module
from neuroprune.methods.closing import Queue, close_
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.fisher import searched_units
from neuroprune.methods.goals import Goal
from neuroprune.methods.poorest import goals_of, poorest_units
from neuroprune.methods.uniform import check_uniform, uniform_units
from neuroprune.methods.units import heads_per_unit, plan_of, unit_number, units_left
from neuroprune.targets import parse_targets
from tests.zoo import FAMILIES, make_model

BATCH, LENGTH = 1, 32


def draw(anatomy: Anatomy, seed: int) -> dict[str, torch.Tensor]:
    """Scores of any size, some blocks much poorer than others."""
    generator = torch.Generator().manual_seed(seed)
    return {
        b.name: torch.rand(unit_number(b), generator=generator).double()
        * 10.0 ** float(2 * torch.rand((), generator=generator))
        for b in anatomy.blocks()
    }


def cut_before_(model: Any, share: float, seed: int) -> None:
    """What another training or method left: blocks of any size, some of them empty."""
    generator = torch.Generator().manual_seed(seed)

    def some(units: int) -> list[int]:
        return (torch.rand(units, generator=generator) < share).nonzero().squeeze(1).tolist()

    anatomy = anatomy_of(model)
    shrink_(
        model,
        ShrinkPlan(
            {b.name: some(b.num_heads) for b in anatomy.attentions},
            {b.name: some(b.d_ff) for b in anatomy.mlps},
        ),
    )


def stairs(model: Any, anatomy: Anatomy, batch: int, length: int) -> CostModel:
    """A machine on which some units cost nothing and others much."""
    heads = {b.name: Curve((0, 1, 2, 4), (0.5, 2.0, 2.0, 4.0)) for b in anatomy.attentions}
    neurons = {b.name: Curve((0, 8, 16, 24), (0.2, 1.0, 3.0, 3.0)) for b in anatomy.mlps}
    return CostModel("seconds", 1.0, heads | neurons)


def assert_met_to_the_unit(goal: Goal, anatomy: Anatomy, gone: dict[str, torch.Tensor]) -> None:
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    left = units_left(unit_counts(anatomy), gone, sizes)
    assert goal.cost.kept(left) <= goal.allowed
    for name, mask in gone.items():
        if mask.any():
            more = left | {name: left[name] + sizes[name]}
            assert goal.cost.kept(more) > goal.kept, f"a unit of {name} could be given back"


@settings(max_examples=60)
@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(["structural", "parameters", "flops", "latency"]),
    before=st.sampled_from([0.0, 0.2, 0.5, 0.8]),
    way=st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
    search=st.booleans(),
)
def test_the_last_cut_meets_every_goal_to_the_unit(
    family: str, kind: str, before: float, way: float, seed: int, search: bool
) -> None:
    model = make_model(family)
    cut_before_(model, before, seed)
    anatomy = anatomy_of(model)
    shape = f"@{BATCH}x{LENGTH}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(goals_module, "measure_latency", stairs)
        patch.setattr(goals_module, "dense_times", lambda *a: 2.0)
        probe = {
            "structural": "structural:0.9",
            "parameters": "parameters:1",
            "flops": f"flops:0.5{shape}",
            "latency": f"latency:0.5{shape}",
        }[kind]
        (target,) = parse_targets(probe)
        goal = goals_module.measured(target, anatomy, model)
        low, high = goals_module.reachable_costs(goal.cost, anatomy)
        value = goal.value(low + way * (high - low))
        if kind == "parameters":
            value = min(max(int(value), int(low)), int(high))
        text = f"{kind}:{min(value, 0.9999) if kind == 'structural' else value}"
        (goal,) = goals_of(parse_targets(text + (shape if "@" in probe else "")), anatomy)
    if not search:
        gone = poorest_units((goal,), 1.0, draw(anatomy, seed), anatomy)
        assert_met_to_the_unit(goal, anatomy, gone)
        return
    gone = searched_units((goal,), draw(anatomy, seed), anatomy)
    if not goal.is_straight:
        assert_met_to_the_unit(goal, anatomy, gone)
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    assert goal.cost.kept(units_left(unit_counts(anatomy), gone, sizes)) <= goal.allowed


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(before=st.sampled_from([0.2, 0.5]), kept=st.floats(0.3, 0.95), seed=st.integers(0, 10**6))
def test_operations_are_a_share_of_the_dense_models(
    family: str, before: float, kept: float, seed: int
) -> None:
    """Counted on the models themselves, after a ramp of several cuts."""
    model = make_model(family)
    dense = count_flops(model, sample_inputs(model, BATCH, LENGTH))
    cut_before_(model, before, seed)
    now = count_flops(model, sample_inputs(model, BATCH, LENGTH)) / dense
    anatomy = anatomy_of(model)
    (target,) = parse_targets(f"flops:{kept}@{BATCH}x{LENGTH}")
    try:
        (goal,) = goals_of((target,), anatomy)
    except ConfigError as error:
        assert "reachable is" in str(error)
        low = goals_module.measured(target, anatomy, model).cost.fixed / dense
        assert kept > now or kept < low + 0.2
        return
    assert goal.value(goal.start) == pytest.approx(now, rel=1e-9)
    for progress in (0.3, 0.7, 1.0):
        anatomy = anatomy_of(model)
        gone = poorest_units((goal,), progress, draw(anatomy, seed), anatomy)
        shrink_(model, plan_of(anatomy, gone))
    reached = count_flops(model, sample_inputs(model, BATCH, LENGTH)) / dense
    assert reached <= kept + 1e-9
    assert reached >= min(kept, now) - 0.03, "on the way, a head too much may have gone"


@pytest.mark.parametrize("target", ["flops:0.5@1x32", "structural:0.5", "parameters:12000"])
def test_equal_layers_meet_their_goal_on_a_model_that_was_cut_before(target: str) -> None:
    model = make_model("bert")
    cut_before_(model, 0.2, seed=4)
    anatomy = anatomy_of(model)
    goals = goals_of(parse_targets(target), anatomy)
    check_uniform(goals, anatomy)
    gone = uniform_units(goals, 1.0, draw(anatomy, 0), anatomy)
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    cost = goals[0].cost.kept(units_left(unit_counts(anatomy), gone, sizes))
    assert cost <= goals[0].allowed


def test_a_structural_target_is_met_where_little_was_left() -> None:
    """Floors are a share of the dense model's: here they would keep every neuron."""
    model = make_model("bert")
    anatomy = anatomy_of(model)
    heads = {b.name: range(3) for b in anatomy.attentions}
    shrink_(model, ShrinkPlan(heads, {b.name: range(22) for b in anatomy.mlps}))
    anatomy = anatomy_of(model)
    (goal,) = goals_of(parse_targets(0.9), anatomy)
    gone = poorest_units((goal,), 1.0, draw(anatomy, 1), anatomy)
    assert_met_to_the_unit(goal, anatomy, gone)


def test_what_cannot_be_met_is_an_error_that_says_by_how_much() -> None:
    cost = CostModel("weights", 50.0, {"mlp": Curve.linear(5, 10.0)})
    goal = Goal(Structural(0.6), cost, start=100.0, kept=40.0, whole=100.0)
    queue = Queue("mlp", [1.0] * 5, 1, 5, floor=2, gone=0)
    with pytest.raises(ConfigError, match=r"structural:0\.6.* at 0\.5, and misses by 10 weights"):
        close_([queue], goal, {"mlp": 5})


def test_floors_give_way_and_what_is_too_much_comes_back() -> None:
    cost = CostModel("seconds", 0.0, {"a": Curve.linear(4, 1.0), "b": Curve.linear(2, 5.0)})
    queues = [Queue("a", [3.0, 4.0, 5.0, 6.0], 1, 4, 2, 0), Queue("b", [0.1, 0.2], 1, 2, 2, 0)]
    goal = Goal(Structural(0.5), cost, start=14.0, kept=7.0, whole=14.0)
    close_(queues, goal, {"a": 4, "b": 2})
    # Both free units of a are too few; then the poorest of b's floor goes, and b pays for a.
    assert [q.gone for q in queues] == [2, 1]
    goal = Goal(Structural(0.5), cost, start=14.0, kept=9.0, whole=14.0)
    queues = [Queue("a", [3.0, 4.0, 5.0, 6.0], 1, 4, 0, 2), Queue("b", [0.1, 0.2], 1, 2, 0, 1)]
    close_(queues, goal, {"a": 4, "b": 2})
    assert [q.gone for q in queues] == [0, 1]
