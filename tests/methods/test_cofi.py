"""CoFi: gates in the forward pass, a Lagrangian on the sparsity, one exact cut, no jump."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroprune.anatomy import anatomy_of
from neuroprune.config import METHODS, CoFi, ConfigError, Structural, method_config
from neuroprune.methods import method_for
from neuroprune.methods.cofi import CoFiMethod
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.zoo import FAMILIES, inputs_for, logits, make_inputs, make_model

GRANULARITY = 0.011  # of the tiny models: 1 neuron of 3 * 32 or 2 * 32 weights
EARLY = CoFi(target=0.5, begin=0.0, warm=0.5, end=1.0)


def start(
    family: str, config: CoFi, steps: int, lr: float = 1e-3, attention: str = "sdpa"
) -> tuple[Any, Pruner, CoFiMethod]:
    model = make_model(family, attention=attention).train()
    pruner = attach(model, torch.optim.AdamW(model.parameters(), lr=lr), config, steps)
    assert isinstance(pruner.method, CoFiMethod)
    return model, pruner, pruner.method


def train(model: Any, pruner: Pruner, family: str, first: int, last: int) -> None:
    model.train()
    for step in range(first, last):
        pruner.optimizer.zero_grad()
        model(**inputs_for(model, family, step)).loss.backward()
        pruner.optimizer.step()


def hooked(model: Any) -> int:
    """Gated layers. (The shared position bias of T5 has hooks of its own, on other modules.)"""
    layers = [b.o_proj for b in anatomy_of(model).attentions]
    layers += [b.down_proj for b in anatomy_of(model).mlps]
    return sum(len(layer._forward_pre_hooks) for layer in layers)


@torch.no_grad()
def close_(method: CoFiMethod, share: float) -> torch.Tensor:
    """Give gates of every kind all kinds of values, and close a share of the units for good."""
    units = len(method._block_of)
    generator = torch.Generator().manual_seed(3)
    method.logits.copy_(1.0 + 2.0 * torch.rand(len(method.logits), generator=generator))
    order = torch.randperm(units, generator=generator)
    closed = order[: round(share * units)]
    method.logits[closed] = -4.0
    method._draw_()
    return closed


# --- the target ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [0.0, 0.6, 0.95])
def test_the_target_is_met_in_one_cut_at_the_end(family: str, target: float) -> None:
    model, pruner, _ = start(family, CoFi(target=target, begin=0.2, end=0.6), 15)
    counts, gates = [], []
    for step in range(15):
        train(model, pruner, family, step, step + 1)
        counts.append(sparsity(anatomy_of(model)).structural_sparsity)
        gates.append(hooked(model))
    blocks = len(list(anatomy_of(model).blocks()))
    assert gates == [0] * 2 + [blocks] * 6 + [0] * 7
    assert counts[:8] == [0.0] * 8 and len(set(counts[8:])) == 1
    assert target - 1e-9 <= counts[8] <= target + GRANULARITY
    assert pruner.finish() == pruner.removed
    assert pruner.reached[f"structural:{target:g}"] == counts[8]
    assert logits(model, make_inputs(family)).isfinite().all()


@settings(max_examples=12)
@given(
    family=st.sampled_from(FAMILIES),
    target=st.floats(0.0, 0.97),
    steps=st.integers(1, 12),
    stop=st.integers(1, 12),
    begin=st.floats(0.0, 0.4),
    length=st.floats(0.01, 0.6),
    lr=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_the_target_is_met_whatever_was_learnt(
    family: str, target: float, steps: int, stop: int, begin: float, length: float, lr: float
) -> None:
    end = begin + length
    config = CoFi(target=target, begin=begin, warm=end, end=end, gate_learning_rate=lr)
    model, pruner, _ = start(family, config, steps)
    train(model, pruner, family, 0, min(stop, steps))
    pruner.prune()
    pruner.finish()
    reached = sparsity(anatomy_of(model)).structural_sparsity
    assert target - 1e-9 <= reached <= target + GRANULARITY
    assert hooked(model) == 0


def test_the_expected_sparsity_follows_the_target() -> None:
    config = CoFi(target=0.7, begin=0.0, warm=0.3, end=1.0)
    model, pruner, method = start("bert", config, 100)
    train(model, pruner, "bert", 0, 20)
    strengths = method.strengths.tolist()
    assert strengths[0] < 0 < strengths[1], "too dense: the multipliers pull towards sparsity"
    train(model, pruner, "bert", 20, 95)
    assert float(method.expected().detach()) > 0.6
    pruner.detach()


def test_the_wanted_sparsity_rises_linearly_from_what_was_removed_before() -> None:
    model = make_model("bert").train()
    name = anatomy_of(model).mlps[0].name
    shrink_(model, ShrinkPlan(remove_neurons={name: range(12)}))
    before = sparsity(anatomy_of(model)).structural_sparsity
    config = CoFi(target=0.5, begin=0.1, warm=0.3, end=0.6)
    pruner = attach(model, torch.optim.SGD(model.parameters(), lr=0.0), config, 100)
    method = pruner.method
    assert isinstance(method, CoFiMethod)
    with torch.no_grad():
        method.logits.fill_(40.0)
    assert float(method.expected().detach()) == pytest.approx(before, abs=1e-6)
    found = []
    for method.step in (0, 10, 20, 30, 99):
        found.append(method.wanted())
    middle = (before + 0.5) / 2
    assert found == pytest.approx([before, before, middle, 0.5, 0.5], abs=1e-9)
    pruner.detach()


def test_a_closed_block_loses_all_of_its_units() -> None:
    model, pruner, method = start("bert", CoFi(target=0.5), 10)
    blocks = list(anatomy_of(model).blocks())
    units = len(method._block_of)
    gone = [0, 3]  # the attention of the first layer, the MLP of the second
    with torch.no_grad():
        method.logits[[units + i for i in gone]] = -4.0
    pruner.finish()
    for i, block in enumerate(anatomy_of(model).blocks()):
        left = block.o_proj if i < 2 else block.down_proj  # type: ignore[union-attr]
        assert (left.weight.shape[1] == 0) == (i in gone), blocks[i].name


# --- the gates in the forward pass ---------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_gated_is_what_is_left(family: str) -> None:
    """Closed units are removed and open gates move into the weights: the outputs stay."""
    model, pruner, method = start(family, EARLY, 10)
    closed = close_(method, 0.4)
    removed = float(method._costs[closed].sum())
    assert method.goal is not None
    object.__setattr__(method.goal, "kept", method.goal.start - removed)
    inputs = make_inputs(family)
    gated = logits(model, inputs)
    assert not torch.allclose(gated, logits(make_model(family), inputs), atol=1e-3)
    plan = pruner.finish()
    assert plan.num_heads + plan.num_neurons == len(closed)
    torch.testing.assert_close(logits(model, inputs), gated, atol=1e-5, rtol=1e-5)


def test_without_a_cut_the_gates_are_still_written_into_the_weights() -> None:
    model, pruner, method = start("bert", CoFi(target=0.0, begin=0.0), 10)
    close_(method, 0.2)
    gated = logits(model, make_inputs("bert"))
    assert not pruner.finish()
    assert hooked(model) == 0
    torch.testing.assert_close(logits(model, make_inputs("bert")), gated, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5-gated", "opt"])
def test_the_gradient_of_a_gate_is_that_of_differences(family: str) -> None:
    model, pruner, method = start(family, EARLY, 10)
    model.double()
    inputs = inputs_for(model, family, 1)
    for _ in range(2):  # two micro-batches
        (model(**inputs).loss / 2).backward()
    gradient = method.hooks.gradient()
    assert method.hooks.carried_scale() == pytest.approx(1.0, abs=1e-5)
    sizes = [len(g) for g in method.hooks._sampled.values()]
    start_of = [sum(sizes[:i]) for i in range(len(sizes))]
    with torch.no_grad():
        for (name, gates), first in zip(method.hooks._sampled.items(), start_of, strict=True):
            wide = gates.double()
            losses = []
            for shift in (1e-2, -1e-2):  # some losses are in float32
                method.hooks._sampled[name] = wide.clone()
                method.hooks._sampled[name][1] += shift
                losses.append(float(model(**inputs).loss))
            method.hooks._sampled[name] = wide
            difference = (losses[0] - losses[1]) / 2e-2
            assert float(gradient[first + 1]) == pytest.approx(difference, rel=2e-2, abs=1e-4)
    pruner.detach()


def test_eager_and_fused_attention_are_gated_alike() -> None:
    found = []
    for attention in ("eager", "sdpa"):
        model, pruner, method = start("bert", EARLY, 10, attention=attention)
        close_(method, 0.3)
        found.append(logits(model, make_inputs("bert")))
        pruner.detach()
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1024.0, 0.25])
def test_a_gradient_scaler_does_not_drown_the_lagrangian(factor: float) -> None:
    """The loss is scaled, and the weights' gradients are divided by the scale before the step."""
    model, pruner, method = start("bert", EARLY, 10)
    (max(factor, 1.0) * model(**make_inputs("bert")).loss).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(max(factor, 1.0)).mul_(min(factor, 1.0))  # unscaled, or clipped
    method.add_penalty_grad_(pruner.anatomy, 1.0)
    gradient = method._gradient
    other, pruner_too, plain = start("bert", EARLY, 10)
    plain.seed = method.seed
    plain._draw_()
    other(**make_inputs("bert")).loss.backward()
    expected = plain.hooks.gradient() * min(factor, 1.0)
    assert gradient is not None
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-7)
    pruner.detach()
    pruner_too.detach()


def test_what_overflows_is_dropped() -> None:
    model, pruner, method = start("bert", EARLY, 10)
    before = method.logits.detach().clone()
    (torch.inf * model(**make_inputs("bert")).loss).backward()  # a scaler would skip this step
    pruner.optimizer.zero_grad()
    train(model, pruner, "bert", 0, 1)
    assert torch.equal(method.logits, before)
    train(model, pruner, "bert", 1, 2)
    assert not torch.equal(method.logits, before) and method.logits.isfinite().all()
    pruner.detach()


# --- the life of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_and_detaching_changes_nothing(family: str) -> None:
    inputs = make_inputs(family)
    before = logits(make_model(family), inputs)
    model, pruner, method = start(family, EARLY, 10)
    held = {p for g in pruner.optimizer.param_groups for p in g["params"]}
    assert method.logits not in held and method.strengths not in held
    assert hooked(model) > 0
    pruner.detach()
    assert hooked(model) == 0
    assert torch.equal(logits(model, inputs), before)


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
def test_a_run_continues_from_its_state(stop: int) -> None:
    """Before the gates, while they learn, and after the cut: the same trajectory."""
    config = CoFi(target=0.6, begin=0.2, warm=0.4, end=0.8)
    torch.manual_seed(5)
    whole, pruner, _ = start("bert", config, 12)
    seed = int(pruner.method.state_dict()["seed"])
    train(whole, pruner, "bert", 0, 12)
    pruner.finish()
    model, pruner, method = start("bert", config, 12)
    method.seed = seed
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


def test_the_state_of_another_model_is_refused() -> None:
    _, pruner, method = start("bert", EARLY, 10)
    state = method.state_dict()
    state["gates"][0]["value"] = state["gates"][0]["value"][1:]
    with pytest.raises(ConfigError, match="gates and this model"):
        method.load_state_dict(state)
    pruner.detach()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "heads:3"}, "structural sparsity"),
        ({"target": "flops:0.5"}, "structural sparsity"),
        ({"target": [0.5, "heads:3"]}, "structural sparsity"),
        ({"target": "weights:0.5"}, "single weights"),
        ({"target": None}, "structural sparsity"),
        ({"target": 1.0}, r"in \[0, 0\.9999\]"),
        ({"begin": 0.7}, "before end"),
        ({"warm": 0.01}, r"CoFi.warm .* in \[0.05, 0.6\]"),
        ({"warm": 0.9}, r"CoFi.warm .* in \[0.05, 0.6\]"),
        ({"gate_learning_rate": -1.0}, "gate_learning_rate"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CoFi(**given)


@pytest.mark.parametrize("steps", [None, 0])
def test_the_number_of_steps_is_needed(steps: int | None) -> None:
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(CoFi(), steps)


def test_a_target_that_was_passed_before_is_refused() -> None:
    model = make_model("bert")
    gone = {mlp.name: range(20) for mlp in anatomy_of(model).mlps}  # more than a head's worth
    shrink_(model, ShrinkPlan(remove_neurons=gone))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match="reachable"):
        attach(model, optimizer, CoFi(target=0.05), 10)
    assert hooked(model) == 0


def test_gates_that_no_gradient_reaches_are_refused() -> None:
    model, pruner, _ = start("bert", EARLY, 10)
    model.eval()
    model(**make_inputs("bert")).loss.backward()
    with pytest.raises(ConfigError, match=r"model\.train\(\)"):
        pruner.optimizer.step()
    pruner.detach()


def test_a_budget_beside_the_schedule_is_refused() -> None:
    _, pruner, method = start("bert", EARLY, 10)
    with pytest.raises(ConfigError, match="one cut"):
        method.select(pruner.anatomy, 0.5)
    pruner.detach()


def test_the_configuration_is_registered_and_makes_the_round_trip() -> None:
    config = method_config("cofi", {"target": 0.8, "warm": 0.2})
    assert METHODS["cofi"] is CoFi and config == CoFi(target=Structural(0.8), warm=0.2)
    assert CoFi.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(method_for(config, 10), CoFiMethod)
