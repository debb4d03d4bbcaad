from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuroprune import ShrinkPlan, anatomy_of, shrink_
from neuroprune.config import ConfigError, Latency
from neuroprune.methods import latency
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.goals import achieved
from neuroprune.methods.latency import measure_latency
from tests.methods.goal import goal_of
from tests.zoo import D_FF, FAMILIES, HEADS, make_model

Clock = Callable[[nn.Module], float]


def linear_time(model: nn.Module) -> float:
    """Seconds that a made-up machine takes: each block its own price per unit, 5 s for the rest."""
    counts = unit_counts(anatomy_of(model)).items()
    return 5.0 + sum(units * (0.5 if "mlp" in name else 2.0) for name, units in counts)


def tell_time(monkeypatch: pytest.MonkeyPatch, clock: Clock, noise: Any = None) -> list[nn.Module]:
    """Replace the stopwatch: a turn takes what `clock` says, times the next number of `noise`."""
    timed: list[nn.Module] = []
    factors = itertools.cycle(noise or [1.0])

    def interleaved(
        calls: Mapping[str, Any], repeats: int, warmup: int, device: torch.device
    ) -> dict[str, list[float]]:
        out: dict[str, list[float]] = {name: [] for name in calls}
        timed.extend(call.args[0] for call in calls.values())
        clocked = {name: clock(call.args[0]) for name, call in calls.items()}
        for _ in range(repeats):
            factor = next(factors)  # slows a whole turn
            for name, seconds in clocked.items():
                out[name].append(seconds * factor)
        return out

    monkeypatch.setattr(latency, "interleaved", interleaved)
    return timed


def test_a_linear_machine_is_predicted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    tell_time(monkeypatch, linear_time)
    model = make_model("bert")
    anatomy = anatomy_of(model)
    cost = measure_latency(model, anatomy, 1, 6)
    assert cost.unit == "seconds"
    assert cost.fixed == pytest.approx(5.0)
    for heads, neurons in ((4, 24), (3, 17), (2, 12), (1, 2), (0, 1), (1, 0), (0, 0)):
        small = copy.deepcopy(model)
        plan = ShrinkPlan(
            {b.name: range(heads, HEADS) for b in anatomy.attentions},
            {b.name: range(neurons, D_FF) for b in anatomy.mlps[:1]},  # uneven, too
        )
        shrink_(small, plan)
        predicted = cost.kept(unit_counts(anatomy_of(small)))
        assert predicted == pytest.approx(linear_time(small), rel=1e-9)


def test_what_slows_whole_turns_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    tell_time(monkeypatch, linear_time, noise=[0.95, 1.0, 1.05])
    cost = measure_latency(model, anatomy, 1, 6)
    assert cost.kept(dict.fromkeys(unit_counts(anatomy), 1)) == pytest.approx(5 + 2 * 2.5, rel=0.1)


def test_cuts_that_save_less_together_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(model: nn.Module) -> float:
        return linear_time(model) ** 0.5  # the more is gone, the more a further cut saves

    tell_time(monkeypatch, shared)
    model = make_model("distilbert")
    anatomy = anatomy_of(model)
    cost = measure_latency(model, anatomy, 1, 6)
    nothing = dict.fromkeys(unit_counts(anatomy), 0)
    assert cost.kept(unit_counts(anatomy)) == pytest.approx(shared(model))
    assert cost.fixed == cost.kept(nothing) == pytest.approx(5**0.5)
    half = copy.deepcopy(model)
    shrink_(
        half,
        ShrinkPlan(
            {b.name: range(2, HEADS) for b in anatomy.attentions},
            {b.name: range(11, D_FF) for b in anatomy.mlps},
        ),
    )
    assert cost.kept(unit_counts(anatomy_of(half))) == pytest.approx(shared(half))


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_curves_never_fall_whatever_the_clock_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(_: nn.Module) -> float:
        return 0.1 + float(torch.rand((), generator=generator))

    model = make_model("bert")
    anatomy = anatomy_of(model)
    with pytest.MonkeyPatch.context() as patch:
        tell_time(patch, random)
        cost = measure_latency(model, anatomy, 1, 6)  # a falling curve is a ValueError
    assert set(cost.curves) == set(unit_counts(anatomy))
    assert cost.fixed >= -1e-12
    assert all(c.costs[0] == 0.0 for c in cost.curves.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_a_kind_are_cut_alike_and_the_others_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family)
    counts = unit_counts(anatomy_of(model))
    timed = tell_time(monkeypatch, linear_time)
    cost = measure_latency(model, anatomy_of(model), 2, 6)
    assert model not in timed  # copies only
    kinds = {"t5": 5, "t5-gated": 5, "bert-cross": 3}.get(family, 2)
    seen = [unit_counts(anatomy_of(m)) for m in timed]
    cuts = [kept for kept in seen if kept != counts]
    cut_blocks = {frozenset(b for b in counts if kept[b] != counts[b]) for kept in cuts}
    assert len(cut_blocks) == kinds + 1
    assert {len(blocks) for blocks in cut_blocks} == {2, len(counts)}
    heads = {b.name for b in anatomy_of(model).attentions}
    for name, curve in cost.curves.items():
        assert curve.units == ((0, 1, 2, 4) if name in heads else (0, 1, 5, 11, 24))


def test_the_model_and_the_generators_are_left_alone() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "MOST_SPREAD", float("inf"))  # the real clock of a busy machine
        patch.setattr(latency, "_MOST_TURNS", 3)
        model = make_model("t5").train()
        model.decoder.eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model(input_ids=torch.ones(1, 3, dtype=torch.long), labels=torch.ones(1, 3).long())[
            0
        ].backward()
        optimizer.step()
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        parameters = dict(model.named_parameters())
        gradients = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        modes = [m.training for m in model.modules()]
        config = copy.deepcopy(model.config.to_dict())
        torch.manual_seed(5)
        state = torch.get_rng_state()
        anatomy = anatomy_of(model)
        cost = measure_latency(model, anatomy, 1, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert model.config.to_dict() == config
    assert all(parameters[n] is p for n, p in model.named_parameters())
    assert gradients
    assert all(torch.equal(parameters[n].grad, g) for n, g in gradients.items())
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    assert 0 < cost.fixed <= cost.kept(unit_counts(anatomy)) < 1


def test_a_forward_that_was_replaced_on_the_instance_is_not_what_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("bert")
    original, calls = model.forward, []

    def patched(*args: Any, **kwargs: Any) -> Any:  # as accelerate does for mixed precision
        calls.append(args)
        return original(*args, **kwargs)

    model.forward = patched
    monkeypatch.setattr(latency, "MOST_SPREAD", float("inf"))
    monkeypatch.setattr(latency, "_MOST_TURNS", 3)
    measure_latency(model, anatomy_of(model), 1, 6)
    assert not calls
    assert model.forward is patched


def test_a_noisy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tell_time(monkeypatch, linear_time, noise=[0.7, 1.0, 1.3])
    model = make_model("bert")
    with pytest.raises(ConfigError) as error:
        goal_of(Latency(0.5, 2, 6), anatomy_of(model), model)
    message = str(error.value)
    assert "too noisy" in message
    assert "inter-quartile spread of 30%; expected at most 25%" in message
    assert "Flops(x, batch=2, length=6)" in message


def test_a_goal_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tell_time(monkeypatch, linear_time)
    model = make_model("bert")
    anatomy = anatomy_of(model)
    goal = goal_of(Latency(0.5, 2, 6), anatomy, model)
    assert goal.start == pytest.approx(linear_time(model))
    assert goal.kept == pytest.approx(0.5 * goal.start)
    assert achieved(goal.target, goal, anatomy) == pytest.approx(1.0)
    lowest = 5.0 / linear_time(model)
    with pytest.raises(ConfigError, match=r"Latency\(0\.05\) .* reachable is 0\.1\d* to 1\."):
        goal_of(Latency(0.05, 2, 6), anatomy, model)
    assert 0.1 < lowest < 0.2


def test_a_model_that_was_cut_before_is_measured_from_where_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell_time(monkeypatch, linear_time)
    model = make_model("bert")
    first, second = anatomy_of(model).attentions
    gone = {b.name: range(D_FF) for b in anatomy_of(model).mlps}
    shrink_(model, ShrinkPlan({first.name: range(HEADS), second.name: [0]}, gone))
    cost = measure_latency(model, anatomy_of(model), 1, 6)
    assert cost.fixed == pytest.approx(5.0)
    assert cost.curves[first.name].per_unit == 0.0
    assert cost.curves[second.name].per_unit == pytest.approx(2.0)


def test_heads_that_share_keys_and_values_are_cut_in_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("opt")
    for block in anatomy_of(model).attentions:
        for layer in (block.k_proj, block.v_proj):
            layer.weight = nn.Parameter(layer.weight[:16].detach())
            layer.bias = nn.Parameter(layer.bias[:16].detach())
    anatomy = anatomy_of(model)
    tell_time(monkeypatch, linear_time)
    cost = measure_latency(model, anatomy, 1, 6)
    assert cost.curves[anatomy.attentions[0].name].units == (0, 2, 4)  # query heads
    assert cost.curves[anatomy.attentions[0].name].per_unit == pytest.approx(2.0)


def test_slow_models_take_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("bert")
    repeats: list[int] = []

    def slow(seconds: float) -> None:
        def interleaved(
            calls: Mapping[str, Any], turns: int, warmup: int, device: torch.device
        ) -> dict[str, list[float]]:
            repeats.append(turns)
            return {name: [seconds] * turns for name in calls}

        monkeypatch.setattr(latency, "interleaved", interleaved)
        measure_latency(model, anatomy_of(model), 1, 6)

    slow(10.0)
    assert set(repeats[1:]) == {5}  # the first call only sizes the rest
    repeats.clear()
    slow(1e-4)
    assert max(repeats) == 40
    repeats.clear()
    slow(0.1)
    assert 2 * 0.1 * sum(repeats[1:]) <= 20.0
    assert max(repeats) > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_share_of_time_is_the_dense_models_also_after_a_cut(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = tell_time(monkeypatch, linear_time)
    model = make_model(family)
    dense = linear_time(model)
    anatomy = anatomy_of(model)
    first, *_, last = anatomy.attentions
    gone = {b.name: range(7) for b in anatomy.mlps}
    shrink_(model, ShrinkPlan({first.name: range(HEADS), last.name: [0]}, gone))
    timed.clear()
    state = torch.get_rng_state()
    goal = goal_of(Latency(0.5, 2, 6), anatomy_of(model), model)
    assert goal.whole == pytest.approx(dense)
    assert goal.start == pytest.approx(linear_time(model))
    assert goal.kept == pytest.approx(0.5 * dense)
    assert achieved(goal.target, goal, anatomy_of(model)) == pytest.approx(
        linear_time(model) / dense
    )
    assert torch.equal(torch.get_rng_state(), state)
    twins = [m for m in timed if unit_counts(anatomy_of(m)) == unit_counts(anatomy)]
    assert twins and all(type(m) is type(model) and not m.training for m in twins)


def test_a_model_that_cannot_be_made_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tell_time(monkeypatch, linear_time)
    model = make_model("bert")
    shrink_(model, ShrinkPlan({anatomy_of(model).attentions[0].name: [0]}))

    class Own(type(model)):  # type: ignore[misc]
        def __init__(self, config: Any, extra: int) -> None:
            super().__init__(config)

    model.__class__ = Own
    with pytest.raises(ConfigError, match="cannot be made from its configuration"):
        goal_of(Latency(0.5, 2, 6), anatomy_of(model), model)
