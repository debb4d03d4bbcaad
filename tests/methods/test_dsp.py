"""DSP: a number of heads that is met exactly, by gates that cool down to a choice."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.anatomy import anatomy_of
from neuroprune.config import DSP, METHODS, ConfigError, method_config
from neuroprune.methods import method_for
from neuroprune.methods.dsp import DSPMethod
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from tests.zoo import D_MODEL, FAMILIES, HEAD_DIM, inputs_for, logits, make_inputs, make_model

EARLY = DSP(heads=3, begin=0.0, end=1.0)


def start(family: str, config: DSP, steps: int, lr: float = 1e-3) -> tuple[Any, Pruner, DSPMethod]:
    model = make_model(family).train()
    pruner = attach(model, torch.optim.AdamW(model.parameters(), lr=lr), config, steps)
    assert isinstance(pruner.method, DSPMethod)
    return model, pruner, pruner.method


def train(model: Any, pruner: Pruner, family: str, first: int, last: int) -> None:
    model.train()
    for step in range(first, last):
        pruner.optimizer.zero_grad()
        model(**inputs_for(model, family, step)).loss.backward()
        pruner.optimizer.step()


def heads_of(model: Any) -> int:
    return sum(b.num_heads for b in anatomy_of(model).attentions)


def hooked(model: Any) -> int:
    return sum(len(b.o_proj._forward_pre_hooks) for b in anatomy_of(model).attentions)


def shared_keys(model: Any) -> Any:
    """Two query heads share one key/value head."""
    for block in anatomy_of(model).attentions:
        for layer in (block.k_proj, block.v_proj):
            layer.weight = nn.Parameter(layer.weight[: D_MODEL // 2].detach())
            layer.bias = nn.Parameter(layer.bias[: D_MODEL // 2].detach())
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("count", "mode"), [(0, "joint"), (3, "joint"), (3, "pipelined")])
def test_the_number_of_heads_is_met_in_one_cut(family: str, count: int, mode: str) -> None:
    config = DSP(heads=count, mode=mode, begin=0.2, end=0.6)
    model, pruner, _ = start(family, config, 15)
    whole, blocks = heads_of(model), len(anatomy_of(model).attentions)
    counts, gates = [], []
    for step in range(15):
        train(model, pruner, family, step, step + 1)
        counts.append(heads_of(model))
        gates.append(hooked(model))
    assert gates == [0] * 2 + [blocks] * 6 + [0] * 7
    assert counts == [whole] * 8 + [count] * 7
    assert not pruner.finish().remove_neurons
    assert pruner.reached == {f"heads:{count}": count}
    assert logits(model, make_inputs(family)).isfinite().all()


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("count", [1, 7, 8])
def test_it_is_met_wherever_training_stops(count: int, steps: int) -> None:
    model, pruner, _ = start("bert", DSP(heads=count, begin=0.3, end=0.9), 20)
    train(model, pruner, "bert", 0, steps)
    pruner.prune()
    pruner.finish()
    assert heads_of(model) == count and hooked(model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_shows_the_model_that_is_cut(family: str) -> None:
    """The heads of the largest logits stay, as they are: no jump."""
    model, pruner, method = start(family, EARLY, 10)
    with torch.no_grad():
        method.logits.copy_(torch.randn(len(method.logits)))
    method._draw_()
    best = method.logits.detach().topk(3).indices.tolist()
    inputs = make_inputs(family)
    gated = logits(model, inputs)
    assert not torch.allclose(gated, logits(make_model(family), inputs), atol=1e-3)
    removed = pruner.finish()
    left, first = [], 0
    for block in anatomy_of(make_model(family)).attentions:
        gone = removed.remove_heads.get(block.name, ())
        left += [first + i for i in range(block.num_heads) if i not in gone]
        first += block.num_heads
    assert left == sorted(best)
    torch.testing.assert_close(logits(model, inputs), gated, atol=1e-5, rtol=1e-5)


def test_training_gates_sum_to_the_number_and_cool_down() -> None:
    config = DSP(heads=3, begin=0.0, end=0.8, tau_start=2.0, tau_end=1e-3)
    model, pruner, method = start("bert", config, 25)
    soft = []
    for step in range(20):
        drawn = method._drawn.detach()
        assert float(drawn.sum()) == pytest.approx(3.0, abs=1e-4)
        soft.append(float((drawn * (1 - drawn)).clamp_min(0).sum()))
        assert method.temperature == pytest.approx(2.0 * (1e-3 / 2.0) ** (step / 20))
        train(model, pruner, "bert", step, step + 1)
    assert soft[0] > 0.5 and soft[-1] < 0.05
    pruner.detach()


def test_pipelined_weights_rest_while_the_gates_learn() -> None:
    """Not even momentum and weight decay move them; before and after, they train."""
    config = DSP(heads=3, mode="pipelined", begin=0.2, end=0.6)
    model, pruner, method = start("bert", config, 20)
    weight = anatomy_of(model).mlps[0].up_proj.weight
    moved, learnt = [], []
    for step in range(20):
        before, old = weight.detach().clone(), method.logits.detach().clone()
        train(model, pruner, "bert", step, step + 1)
        moved.append(not torch.equal(weight, before))
        learnt.append(not torch.equal(method.logits, old))
    window = [4 <= step < 12 for step in range(20)]
    assert moved == [not inside for inside in window]
    assert learnt == window


def test_joint_weights_and_gates_learn_together() -> None:
    model, pruner, method = start("bert", EARLY, 10)
    weight = anatomy_of(model).mlps[0].up_proj.weight
    before, old = weight.detach().clone(), method.logits.detach().clone()
    train(model, pruner, "bert", 0, 1)
    assert not torch.equal(weight, before) and not torch.equal(method.logits, old)
    held = {p for g in pruner.optimizer.param_groups for p in g["params"]}
    assert method.logits not in held
    pruner.detach()


def test_heads_that_do_harm_go() -> None:
    """Outputs of three heads are noise of a great size: the loss falls without them."""
    model = make_model("bert").train()
    anatomy = anatomy_of(model)
    bad = {anatomy.attentions[0].name: (1,), anatomy.attentions[1].name: (0, 3)}
    with torch.no_grad():
        for block in anatomy.attentions:
            for head in bad[block.name]:
                columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                block.o_proj.weight[:, columns] = 20.0 * torch.randn(D_MODEL, HEAD_DIM)
    inputs = make_inputs("bert", batch=16)
    healthy = make_model("bert")
    shrink_(healthy, ShrinkPlan(remove_heads=bad))
    inputs["labels"] = logits(healthy, inputs).argmax(-1)
    config = DSP(heads=5, mode="pipelined", begin=0.0, end=0.9, gate_learning_rate=0.1)
    pruner = attach(model, torch.optim.SGD(model.parameters(), lr=1e-3), config, 200)
    for _ in range(190):
        model(**inputs).loss.backward()
        pruner.optimizer.step()
        pruner.optimizer.zero_grad()
    removed = pruner.finish().remove_heads
    found = {(name, i) for name, heads in removed.items() for i in heads}
    expected = {(name, i) for name, heads in bad.items() for i in heads}
    assert len(found & expected) >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_and_detaching_changes_nothing(family: str) -> None:
    inputs = make_inputs(family)
    before = logits(make_model(family), inputs)
    model, pruner, _ = start(family, EARLY, 10)
    assert hooked(model) == len(anatomy_of(model).attentions)
    pruner.detach()
    assert hooked(model) == 0
    assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
@pytest.mark.parametrize("mode", ["joint", "pipelined"])
def test_a_run_continues_from_its_state(mode: str, stop: int) -> None:
    """Before the gates, while they learn, and after the cut: the same trajectory."""
    config = DSP(heads=3, mode=mode, begin=0.2, end=0.8)
    whole, pruner, _ = start("bert", config, 12)
    train(whole, pruner, "bert", 0, 12)
    pruner.finish()
    model, pruner, _ = start("bert", config, 12)
    train(model, pruner, "bert", 0, stop)
    state = json.loads(json.dumps(pruner.state_dict()))
    pruner.detach()
    torch.manual_seed(99)
    pruner = attach(model, pruner.optimizer, config, 12)
    pruner.load_state_dict(state)
    train(model, pruner, "bert", stop, 12)
    pruner.finish()
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_heads_that_share_keys_and_values_go_together() -> None:
    model = shared_keys(make_model("opt"))
    anatomy = anatomy_of(model)
    method = method_for(DSP(heads=6), 10)
    method.setup(anatomy, torch.optim.SGD(model.parameters(), lr=0.1))
    plan = method.last_cut(anatomy, False)
    assert plan.num_heads == 2
    (pair,) = plan.remove_heads.values()
    assert pair[0] % 2 == 0 and pair[1] == pair[0] + 1
    with pytest.raises(ConfigError, match="multiples of 2"):
        method_for(DSP(heads=5), 10).setup(anatomy, torch.optim.SGD(model.parameters(), lr=0.1))


def test_groups_of_different_sizes_are_refused() -> None:
    model = make_model("opt")
    block = anatomy_of(model).attentions[0]
    for layer in (block.k_proj, block.v_proj):
        layer.weight = nn.Parameter(layer.weight[: D_MODEL // 2].detach())
        layer.bias = nn.Parameter(layer.bias[: D_MODEL // 2].detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="equally many query heads"):
        method_for(DSP(heads=4), 10).setup(anatomy_of(model), optimizer)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"heads": -1}, "must be >= 0"),
        ({"heads": 2.5}, "whole number"),
        ({"mode": "both"}, "must be one of 'joint', 'pipelined'"),
        ({"begin": 0.7}, "before end"),
        ({"tau_start": 1e-3}, "must not be above"),
        ({"tau_end": 0.0}, "tau_end"),
        ({"gate_learning_rate": 0.0}, "gate_learning_rate"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DSP(**given)


def test_more_heads_than_there_are_are_refused() -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match="reachable is 0 to 8"):
        attach(model, optimizer, DSP(heads=9), 10)
    assert hooked(model) == 0


@pytest.mark.parametrize("steps", [None, 0])
def test_the_number_of_steps_is_needed(steps: int | None) -> None:
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(DSP(), steps)


def test_the_configuration_is_registered_and_makes_the_round_trip() -> None:
    config = method_config("dsp", {"heads": 4, "mode": "pipelined"})
    assert METHODS["dsp"] is DSP and config == DSP(heads=4, mode="pipelined")
    assert DSP.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(method_for(config, 10), DSPMethod)
