"""When things happen: hooks, epoch ends, the end, and continuing from a state."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import ConfigError, Magnitude, NeuroPrune
from neuroprune.pruner import NonFiniteError, PrunerError, attach
from neuroprune.topology.sparsity import sparsity
from tests.zoo import FAMILIES, HEADS, inputs_for, logits, make_inputs, make_model


def train(
    model: nn.Module, optimizer: Any, steps: range, family: str = "bert", clip: float = 0.0
) -> None:
    model.train()
    for seed in steps:
        optimizer.zero_grad()
        model(**inputs_for(model, family, seed)).loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def parameters_equal(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(p, q, rtol=0, atol=tolerance) for p, q in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_penalty_mode_is_the_penalty_in_the_loss(family: str) -> None:
    """Three AdamW steps with the hook == three steps with the penalty in the loss, with decay."""
    config = NeuroPrune(alpha=1e-2, beta=1e-2)
    # In float64: Adam blows the rounding noise of gradients that should be zero up to full steps.
    hooked, plain = make_model(family).double().train(), make_model(family).double().train()
    first = torch.optim.AdamW(hooked.parameters(), lr=1e-3)
    second = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    pruner = attach(hooked, first, config)
    train(hooked, first, range(3), family)
    for seed in range(3):
        second.zero_grad()
        penalty = pruner.method.penalty(anatomy_of(plain))
        (plain(**inputs_for(plain, family, seed)).loss + penalty).backward()
        second.step()
    assert parameters_equal(hooked, plain, 1e-9)
    assert not parameters_equal(hooked, make_model(family).double(), 1e-4)


def test_clipping_leaves_the_penalty_out() -> None:
    """Documented: the penalty is added after clipping, so it is not scaled down by it."""
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, optimizer, NeuroPrune(alpha=0.5, beta=0.0, eps=0.0))
    weight = anatomy_of(model).mlps[0].up_proj.weight
    before = weight.detach().clone()
    train(model, optimizer, range(1), clip=1e-9)
    torch.testing.assert_close(weight.detach(), before - 0.5 * before.sign())


def test_accumulation_adds_the_penalty_once_per_true_step() -> None:
    config = NeuroPrune(alpha=1e-2, beta=1e-2)
    whole, parts = make_model("bert").train(), make_model("bert").train()
    first, second = (torch.optim.SGD(m.parameters(), lr=1e-2) for m in (whole, parts))
    one, other = attach(whole, first, config), attach(parts, second, config)
    (0.5 * (whole(**make_inputs("bert", 0)).loss + whole(**make_inputs("bert", 1)).loss)).backward()
    first.step()
    for seed in range(2):
        (0.5 * parts(**make_inputs("bert", seed)).loss).backward()
    second.step()
    assert parameters_equal(whole, parts, 1e-6)
    assert one.steps == other.steps == 1


class FakeScale:
    """What a GradScaler does to a fused optimizer: scaled gradients, the scale as an attribute."""

    def __init__(self, optimizer: torch.optim.Optimizer, scale: float, inf: bool = False) -> None:
        self.optimizer, self.scale, self.inf = optimizer, scale, inf

    def step(self) -> None:
        self.optimizer.grad_scale = torch.tensor(self.scale)
        self.optimizer.found_inf = torch.tensor(float(self.inf))
        self.optimizer.step()
        del self.optimizer.grad_scale, self.optimizer.found_inf


@pytest.mark.parametrize("apply", ["penalty", "prox"])
def test_grad_scale_of_a_fused_optimizer(apply: str) -> None:
    config = NeuroPrune(alpha=1e-2, beta=1e-2, apply=apply)
    scaled, plain = make_model("bert").train(), make_model("bert").train()
    first, second = (
        torch.optim.AdamW(m.parameters(), lr=1e-3, fused=True) for m in (scaled, plain)
    )
    attach(scaled, first, config)
    attach(plain, second, config)
    (scaled(**make_inputs("bert")).loss * 512.0).backward()
    FakeScale(first, 512.0).step()
    plain(**make_inputs("bert")).loss.backward()
    second.step()
    assert parameters_equal(scaled, plain, 1e-6)


def test_a_skipped_step_changes_nothing() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    pruner = attach(model, optimizer, NeuroPrune(alpha=1.0, beta=1.0, apply="prox"))
    before = copy.deepcopy(model)
    model(**make_inputs("bert")).loss.mul(float("inf")).backward()
    FakeScale(optimizer, 512.0, inf=True).step()
    assert parameters_equal(model, before)
    assert pruner.steps == 0


def test_prox_is_decoupled_from_the_optimizer() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = attach(model, optimizer, NeuroPrune(alpha=3.0, beta=3.0, apply="prox"))
    train(model, optimizer, range(5))
    assert sparsity(pruner.anatomy).weight_sparsity > 0.1  # exact zeros
    pruner.finish()


def test_nan_loss_stops_before_the_step() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune())
    train(model, optimizer, range(2))
    good = copy.deepcopy(model)
    optimizer.zero_grad()
    (model(**make_inputs("bert")).loss * float("nan")).backward()
    with pytest.raises(NonFiniteError, match=r"step 3.*Lower the learning rate"):
        optimizer.step()
    assert parameters_equal(model, good)
    assert pruner.steps == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_and_the_end(family: str) -> None:
    model = make_model(family)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        for block in anatomy.attentions:  # heads 0 and 3 are the same
            for layer in (block.q_proj, block.k_proj, block.v_proj):
                layer.weight[:8] = layer.weight[24:]
        for mlp in anatomy.mlps:
            mlp.down_proj.weight[:, 4] = 5e-5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    pruner = attach(model, optimizer, NeuroPrune(alpha=1e-4, beta=1e-4, theta=1e-4))
    train(model, optimizer, range(1), family)
    plan = pruner.prune()
    assert all(dict(m) == {0: 3} for m in plan.merge_heads.values())
    assert len(plan.merge_heads) == len(anatomy.attentions)
    train(model, optimizer, range(1, 3), family)
    removed = pruner.finish()
    assert all(removed.remove_heads[b.name] == (0,) for b in anatomy.attentions)
    assert all(removed.remove_neurons[b.name] == (4,) for b in anatomy.mlps)
    assert all(b.num_heads == HEADS - 1 for b in anatomy_of(model).attentions)
    assert anatomy_of(model).lineage.plan == removed
    steps = pruner.steps
    train(model, optimizer, range(3, 5), family)
    assert pruner.steps == steps, "the hooks are gone"
    for call in (pruner.prune, pruner.finish):
        with pytest.raises(PrunerError, match="attach a new one"):
            call()


def test_finish_removes_nothing_that_matters() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    pruner = attach(model, optimizer, NeuroPrune(alpha=0.3, beta=0.1, theta=0.0, apply="prox"))
    train(model, optimizer, range(6))
    pruner.method.zero_small_(pruner.anatomy, lambda p: 0.5)
    before = logits(model, make_inputs("bert"))
    removed = pruner.finish()
    assert removed.num_neurons > 0
    torch.testing.assert_close(logits(model, make_inputs("bert")), before, rtol=0, atol=1e-5)


def test_penalty_is_detached() -> None:
    model = make_model("bert")
    pruner = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), NeuroPrune())
    assert not pruner.penalty().requires_grad
    assert float(pruner.penalty()) > 0


@pytest.mark.parametrize("family", ["bert", "t5-gated"])
@pytest.mark.parametrize(
    "config",
    [
        NeuroPrune(alpha=0.05, beta=0.05, theta=6.0, apply="prox"),
        Magnitude(target=0.6, structure="units", begin=0.1, end=0.9),
        Magnitude(target=0.6, every=2),
    ],
)
def test_continuing_from_a_saved_state_is_the_same_trajectory(
    family: str, config: Any, tmp_path: Any
) -> None:
    def start(model: nn.Module) -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return optimizer, attach(model, optimizer, config, total_steps=8)

    model = make_model(family)
    optimizer, pruner = start(model)
    train(model, optimizer, range(4), family)
    pruner.prune()
    neuroprune.save_pretrained(model, tmp_path / "half")
    state = json.loads(json.dumps(pruner.state_dict()))
    memory = copy.deepcopy(optimizer.state_dict())
    resumed = neuroprune.from_pretrained(tmp_path / "half")
    other_optimizer, other = start(resumed)
    other_optimizer.load_state_dict(memory)
    other.load_state_dict(state)
    for m, o, p in ((model, optimizer, pruner), (resumed, other_optimizer, other)):
        train(m, o, range(4, 8), family)
        p.finish()
    assert pruner.removed == other.removed
    assert pruner.removed.num_heads > 0 or config.to_dict().get("structure") == "weights"
    for (name, p), q in zip(model.named_parameters(), resumed.parameters(), strict=True):
        if "relative_attention_bias" in name:  # columns of removed heads are read by nobody
            continue
        torch.testing.assert_close(q, p, rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    inputs = make_inputs(family)
    assert torch.equal(logits(model, inputs), logits(resumed, inputs))


def test_a_state_of_another_run_is_refused() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = attach(model, optimizer, NeuroPrune(theta=0.15))
    state = pruner.state_dict()
    with pytest.raises(PrunerError, match="settings it was saved with"):
        pruner.load_state_dict({**state, "config": {"theta": 0.2}})
    with pytest.raises(PrunerError, match="from_pretrained"):
        pruner.load_state_dict({**state, "lineage": {}})


def test_bad_uses_are_refused_with_the_remedy() -> None:
    model, other = make_model("bert"), make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PrunerError, match="from this model's parameters"):
        attach(other, optimizer, NeuroPrune())
    with pytest.raises(ConfigError, match="total_steps"):
        attach(model, optimizer, Magnitude())
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        attach(model, model, NeuroPrune())
    pruner = attach(model, optimizer, NeuroPrune())
    with pytest.raises(PrunerError, match=r"finish\(\) first"):
        attach(model, optimizer, NeuroPrune())
    with pytest.raises(PrunerError, match="closure"):
        optimizer.step(lambda: torch.tensor(0.0))
    pruner.detach()
    attach(model, optimizer, NeuroPrune()).finish()


def test_bfloat16_and_autocast() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = attach(model, optimizer, NeuroPrune(alpha=0.1, beta=0.1, apply="prox"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**make_inputs("bert")).loss
    loss.backward()
    optimizer.step()
    pruner.finish()
    half = make_model("t5-gated").to(torch.bfloat16).train()
    optimizer = torch.optim.AdamW(half.parameters(), lr=1e-2)
    for apply in ("penalty", "prox"):
        pruner = attach(half, optimizer, NeuroPrune(alpha=0.1, beta=0.1, theta=0.5, apply=apply))
        train(half, optimizer, range(2), "t5-gated")
        pruner.finish()
    assert all(torch.isfinite(p).all() for p in half.parameters())
