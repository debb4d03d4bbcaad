"""Proximal group lasso: the step is the minimiser, the target is met, the dead are removed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.anatomy import Anatomy, AttentionBlock, anatomy_of
from neuroprune.config import ConfigError, ProximalGroup, method_config
from neuroprune.lineage import Lineage
from neuroprune.methods import method_for
from neuroprune.methods.proximal_group import ProximalGroupMethod, ProximalGroupUnits
from neuroprune.pruner import attach
from neuroprune.topology.sparsity import sparsity
from tests.methods.loops import GRANULARITY, OPTIMIZERS, run, started, train
from tests.reference import rivals
from tests.zoo import FAMILIES, logits, make_inputs, make_model


def assert_pushed(after: list[np.ndarray], before: list[np.ndarray], units: int, t: float) -> int:
    """Every unit is the minimiser; returns how many are zero."""
    dead = 0
    for unit in rivals.places(before[:-1], before[-1:], units):
        got = rivals.read(after, unit)
        slow = rivals.group_prox(rivals.read(before, unit), t)
        np.testing.assert_allclose(got, slow, rtol=0, atol=1e-6)
        dead += not any(got)
    return dead


def held(block: Any) -> list[np.ndarray]:
    return [m.detach().double().numpy().copy() for m in block.matrices()]


@pytest.mark.parametrize("family", ["bert", "bert-cross", "t5-gated"])
def test_a_step_is_the_minimiser_of_every_unit(family: str) -> None:
    """After one step of SGD, with two learning rates in the model and one in each block."""
    rates = {"attention": 0.02, "mlp": 0.05}
    strength = 8.0

    def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
        own = {id(m) for b in anatomy_of(model).mlps for m in b.matrices()}
        mlp = [p for p in model.parameters() if id(p) in own]
        rest = [p for p in model.parameters() if id(p) not in own]
        return torch.optim.SGD(
            [{"params": mlp, "lr": rates["mlp"]}, {"params": rest, "lr": rates["attention"]}]
        )

    plain, pushed = make_model(family).double().train(), make_model(family).double().train()
    optimizers = optimizer_of(plain), optimizer_of(pushed)
    attach(pushed, optimizers[1], ProximalGroup(strength=strength))
    for model, optimizer in zip((plain, pushed), optimizers, strict=True):
        inputs = make_inputs(family)
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        model(**inputs).loss.backward()
        optimizer.step()
    dead = 0
    for start, block in zip(anatomy_of(plain).blocks(), anatomy_of(pushed).blocks(), strict=True):
        kind, units = ("mlp", 24) if hasattr(block, "d_ff") else ("attention", 4)
        dead += assert_pushed(held(block), held(start), units, rates[kind] * strength)
    assert dead > 0, "the test should see units die"


def grouped_query() -> Anatomy:
    """One attention of four query heads on two key/value heads."""
    torch.manual_seed(0)
    q, k, v = (torch.nn.Linear(6, n) for n in (8, 4, 4))
    o = torch.nn.Linear(8, 6)
    owner = torch.nn.ModuleList([q, k, v, o])
    block = AttentionBlock("a", q, k, v, o, head_dim=2, is_cross=False, owner=owner)
    return Anatomy("llama", owner, owner, (block,), (), Lineage("llama", {"a": 4}, {}))


def test_heads_that_share_keys_and_values_are_one_unit() -> None:
    anatomy = grouped_query()
    (block,) = anatomy.attentions
    before = held(block)
    method = ProximalGroupMethod(ProximalGroup(strength=1.0))
    method.prox_(anatomy, lambda p: 0.1)
    assert_pushed(held(block), before, 2, 0.1)
    scores = ProximalGroupUnits(ProximalGroup(target=0.5), 10).scores(anatomy)["a"]
    places = rivals.places(held(block)[:-1], held(block)[-1:], 2)
    slow = [np.sqrt(np.mean(np.square(rivals.read(held(block), unit)))) for unit in places]
    np.testing.assert_allclose(scores.numpy(), slow, rtol=1e-5)
    method.prox_(anatomy, lambda p: 10.0)
    assert not any(m.any() for m in block.matrices())
    assert method.select(anatomy).remove_heads == {"a": (0, 1, 2, 3)}


def test_the_penalty_is_the_sum_over_units() -> None:
    anatomy = anatomy_of(make_model("t5-gated"))
    expected = 0.0
    for block in anatomy.blocks():
        matrices = held(block)
        units = 24 if hasattr(block, "d_ff") else 4
        places = rivals.places(matrices[:-1], matrices[-1:], units)
        expected += rivals.group_lasso([rivals.read(matrices, unit) for unit in places])
    value = method_for(ProximalGroup(strength=0.3)).penalty(anatomy)
    assert float(value.detach()) == pytest.approx(0.3 * expected, rel=1e-5)
    value.backward()
    assert all(m.grad is not None and m.grad.isfinite().all() for m in anatomy.matrices())


def test_only_what_is_trained_is_pushed_and_counts() -> None:
    anatomy = grouped_query()
    (block,) = anatomy.attentions
    frozen = {block.q_proj.weight, block.o_proj.weight}
    before = held(block)
    method = ProximalGroupMethod(ProximalGroup(strength=1.0))
    method.prox_(anatomy, lambda p: None if p in frozen else 0.1)
    after = held(block)
    assert np.array_equal(after[0], before[0]) and np.array_equal(after[3], before[3])
    for unit in rivals.places(before[1:3], [], 2):
        slow = rivals.group_prox(rivals.read(before[1:3], unit), 0.1)
        np.testing.assert_allclose(rivals.read(after[1:3], unit), slow, atol=1e-6)
    method.prox_(anatomy, lambda p: None)
    assert all(np.array_equal(a, b) for a, b in zip(held(block), after, strict=True))


def test_different_learning_rates_in_a_group_are_refused_at_the_start() -> None:
    model = make_model("bert")
    down = anatomy_of(model).mlps[0].down_proj.weight
    rest = [p for p in model.parameters() if p is not down]
    split = torch.optim.SGD([{"params": [down], "lr": 0.2}, {"params": rest, "lr": 0.1}])
    for target in (None, 0.5):
        with pytest.raises(ConfigError, match=r"layer\.0\.mlp.*one learning rate\.$"):
            attach(model, split, ProximalGroup(target=target), 10)
    assert not split._optimizer_step_pre_hooks


@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
def test_without_a_target_the_dead_are_removed_and_nothing_changes(family: str) -> None:
    rms = ProximalGroupUnits(ProximalGroup(target=0.5), 9).scores(anatomy_of(make_model(family)))
    middle = float(torch.cat(list(rms.values())).median())
    pruner = started(family, ProximalGroup(strength=middle / 4e-2), 6, "sgd", 0.01)
    run(pruner, family, range(4))
    before = logits(pruner.model, make_inputs(family))
    plan = pruner.prune()
    assert plan.num_neurons > 0 and anatomy_of(pruner.model).kept_weights > 0
    after = logits(pruner.model, make_inputs(family))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert not pruner.prune(), "who lives is not ranked"
    run(pruner, family, range(4, 6))
    pruner.finish()
    assert pruner.reached == {}


@settings(max_examples=12)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.9),
    steps=st.integers(1, 30),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    strength=st.sampled_from([0.0, 1e-2, 1.0, 100.0]),
    begin=st.floats(0.0, 0.4),
)
def test_the_target_is_met(
    family: str, target: float, steps: int, optimizer: str, strength: float, begin: float
) -> None:
    config = ProximalGroup(target=target, strength=strength, begin=begin, end=begin + 0.4)
    pruner = train(family, config, steps, optimizer=optimizer)
    reached = sparsity(anatomy_of(pruner.model)).structural_sparsity
    assert target - 1e-9 <= reached <= target + GRANULARITY
    assert list(pruner.reached.values()) == [pytest.approx(reached)]
    assert torch.isfinite(logits(pruner.model, make_inputs(family))).all()


def test_the_push_stops_when_the_ramp_ends() -> None:
    config = ProximalGroup(target=0.0, strength=1.0, begin=0.0, end=0.5)
    pruner = started("bert", config, 10, "sgd", 1e-3)
    weight = anatomy_of(pruner.model).mlps[0].up_proj.weight
    sizes = [float(weight.detach().abs().sum())]
    for _ in range(10):
        pruner.optimizer.zero_grad()
        (pruner.model(**make_inputs("bert")).loss * 0.0).backward()
        pruner.optimizer.step()
        sizes.append(float(weight.detach().abs().sum()))
    assert all(b < a for a, b in itertools.pairwise(sizes[:5]))
    assert len(set(sizes[4:])) == 1 and float(pruner.penalty()) == 0.0


def test_the_weak_go_first() -> None:
    model = make_model("bert").train()
    weak = {b.name: [1, 5, 7] for b in anatomy_of(model).mlps}
    with torch.no_grad():
        for block in anatomy_of(model).mlps:
            for matrix in block.fan_in():
                matrix.weight[weak[block.name]] *= 0.1
            block.down_proj.weight[:, weak[block.name]] *= 0.1
    anatomy = anatomy_of(model)
    share = 6 * anatomy.mlps[0].weights_per_neuron / anatomy.dense_weights
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    pruner = attach(model, optimizer, ProximalGroup(target=share), 20)
    run(pruner, "bert", range(20))
    removed = pruner.finish()
    assert {k: sorted(v) for k, v in removed.remove_neurons.items()} == weak
    assert not removed.remove_heads


def test_bfloat16_weights_are_pushed_in_float32() -> None:
    config = ProximalGroup(target=0.5, strength=1.0)
    with pytest.warns(UserWarning, match=r"bfloat16, in which a proximal step.*may do nothing"):
        pruner = train("t5-gated", config, 10, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in pruner.model.parameters())
    assert sparsity(anatomy_of(pruner.model)).structural_sparsity >= 0.5


def test_a_run_continues_from_its_state() -> None:
    config = ProximalGroup(target=0.6, strength=1.0)
    whole = started("bert", config, 30)
    run(whole, "bert", range(30))
    first = started("bert", config, 30)
    run(first, "bert", range(8))
    state = json.loads(json.dumps(first.state_dict()))
    first.detach()
    second = attach(first.model, first.optimizer, config, 30)
    second.load_state_dict(state)
    run(second, "bert", range(8, 30))
    assert whole.finish() == second.removed
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_configuration() -> None:
    for config in (ProximalGroup(), ProximalGroup(target=0.5, strength=0.1, end=0.5)):
        data = json.loads(json.dumps(config.to_dict()))
        assert method_config("proximal-group", data) == config
    assert type(method_for(ProximalGroup())) is ProximalGroupMethod
    assert type(method_for(ProximalGroup(target=0.5), 9)) is ProximalGroupUnits
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(ProximalGroup(target=0.5))
    with pytest.raises(ConfigError, match=r"end would do nothing without a target"):
        ProximalGroup(end=0.5)
    with pytest.raises(ConfigError, match="whole heads and neurons"):
        ProximalGroup(target="weights:0.5")
    with pytest.raises(ConfigError, match=r"strength must be"):
        ProximalGroup(strength=-1.0)
