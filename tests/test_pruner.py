"""When things happen: hooks, epoch ends, the end, and continuing from a state."""

from __future__ import annotations

import copy
import json
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, ConfigError, Magnitude, NeuroPrune
from neuroprune.pruner import NonFiniteError, PrunerError, attach
from neuroprune.surgery import OptimizerStateError
from neuroprune.topology.sparsity import sparsity
from tests.reference import paper
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
    other = {**state, "config": {**state["config"], "theta": 0.2}}
    with pytest.raises(PrunerError, match=r"another run: config\.theta 0\.2, now 0\.15\. Resume"):
        pruner.load_state_dict(other)
    with pytest.raises(PrunerError, match=r"another run: state_version absent, now \d+\. Resume"):
        pruner.load_state_dict({})
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
        config = NeuroPrune(alpha=0.1, beta=0.1, theta=0.5, apply=apply)
        rounds = pytest.warns(UserWarning, match="a proximal step")
        with rounds if apply == "prox" else nullcontext():
            pruner = attach(half, optimizer, config)
        train(half, optimizer, range(2), "t5-gated")
        pruner.finish()
    assert all(torch.isfinite(p).all() for p in half.parameters())


# -- what each step does, against the paper in plain loops ----------------------------------------


def groups_with_two_rates(model: nn.Module) -> list[dict[str, Any]]:
    """MLP matrices at one learning rate, everything else at another."""
    mlp = {id(m) for block in anatomy_of(model).mlps for m in block.matrices()}
    first = [p for p in model.parameters() if id(p) in mlp]
    rest = [p for p in model.parameters() if id(p) not in mlp]
    return [{"params": rest, "lr": 0.02}, {"params": first, "lr": 0.05}]


@pytest.mark.parametrize("family", ["bert", "bert-cross", "t5-gated"])
def test_a_proximal_step_is_the_papers_penalty_minimised(family: str) -> None:
    config = NeuroPrune(alpha=2.0, beta=9.0, eps=0.05, apply="prox")
    model, plain = make_model(family).double(), make_model(family).double()
    optimizer = torch.optim.SGD(groups_with_two_rates(model))
    attach(model, optimizer, config)
    train(model, optimizer, range(1), family)
    train(plain, torch.optim.SGD(groups_with_two_rates(plain)), range(1), family)
    for mine, before in zip(anatomy_of(model).mlps, anatomy_of(plain).mlps, strict=True):
        for got, weight in zip(mine.matrices(), before.matrices(), strict=True):
            w = weight.detach().numpy()
            expected = paper.weighted_l1_prox(w, 1 / paper.connectivity(w, 0.05), 0.05 * 2.0)
            np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-9)
    for block, start in zip(
        anatomy_of(model).attentions, anatomy_of(plain).attentions, strict=True
    ):
        for group, stored in zip(block.input_groups(), start.input_groups(), strict=True):
            rows = np.concatenate([w.detach().numpy().T for w in stored], axis=1)
            got = np.concatenate([w.detach().numpy().T for w in group], axis=1)
            np.testing.assert_allclose(got, paper.group_prox(rows, 0.02 * 9.0), atol=1e-7)


def test_l1_proximal_step_uses_the_learning_rate() -> None:
    model, plain = make_model("bert"), make_model("bert")
    optimizer = torch.optim.SGD(groups_with_two_rates(model))
    attach(model, optimizer, L1(strength=0.7, apply="prox"))
    train(model, optimizer, range(1))
    train(plain, torch.optim.SGD(groups_with_two_rates(plain)), range(1))
    for got, before, rate in (
        (anatomy_of(model).mlps[0].up_proj, anatomy_of(plain).mlps[0].up_proj, 0.05),
        (anatomy_of(model).attentions[0].o_proj, anatomy_of(plain).attentions[0].o_proj, 0.02),
    ):
        w = before.weight.detach()
        expected = w.sign() * (w.abs() - rate * 0.7).clamp(min=0)
        torch.testing.assert_close(got.weight.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        NeuroPrune(alpha=1.0, beta=1.0, apply="prox"),
        NeuroPrune(alpha=1.0, beta=1.0, apply="penalty"),
        Magnitude(target=0.5, begin=0.0, end=0.5, every=1),
    ],
)
def test_frozen_weights_are_left_alone(config: Any) -> None:
    model = make_model("bert")
    frozen = list(model.bert.encoder.layer[0].parameters())
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [p.detach().clone() for p in frozen]
    with torch.no_grad():
        frozen[0][0, 0] = before[0][0, 0] = 5e-5  # below eps, and not for finish() to touch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    pruner = attach(model, optimizer, config, total_steps=3)
    train(model, optimizer, range(3))
    pruner.method.zero_small_(pruner.anatomy, pruner._step_size_of())
    assert all(torch.equal(p, b) for p, b in zip(frozen, before, strict=True))
    later = anatomy_of(model).mlps[1].up_proj.weight
    assert not torch.equal(later, anatomy_of(make_model("bert")).mlps[1].up_proj.weight)


def test_finish_sets_exactly_what_is_below_eps_to_zero() -> None:
    model = make_model("bert")
    weight = anatomy_of(model).mlps[0].up_proj.weight
    with torch.no_grad():
        weight[0, :4] = torch.tensor([0.9e-4, -0.9e-4, 1.0e-4, -2e-4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, NeuroPrune(alpha=0.0, beta=0.0, theta=0.0, eps=1e-4)).finish()
    left = anatomy_of(model).mlps[0].up_proj.weight[0, :4]
    torch.testing.assert_close(left.detach(), torch.tensor([0.0, 0.0, 1.0e-4, -2e-4]))


def test_finish_chooses_again_only_after_a_step() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = attach(model, optimizer, NeuroPrune())
    calls = []
    select = pruner.method.select
    pruner.method.select = lambda anatomy, budget=None: calls.append(1) or select(anatomy)
    train(model, optimizer, range(1))
    pruner.prune()
    pruner.finish()
    assert len(calls) == 1
    pruner = attach(model, optimizer, NeuroPrune())
    pruner.method.select = lambda anatomy, budget=None: calls.append(1) or select(anatomy)
    pruner.prune()
    train(model, optimizer, range(1))
    pruner.finish()
    assert len(calls) == 3


def test_magnitude_masks_follow_a_cut() -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = attach(model, optimizer, Magnitude(target=0.6, begin=0.0, end=0.3, every=1), 10)
    train(model, optimizer, range(4))
    shrink = neuroprune.ShrinkPlan({"encoder.layer.0.attention": [0]})
    pruner._cut(shrink)
    matrix = anatomy_of(model).attentions[0].q_proj.weight
    masked = (matrix == 0).clone()
    assert masked.any()
    train(model, optimizer, range(4, 6))
    assert bool((matrix[masked] == 0).all())


def test_an_empty_layer_is_no_obstacle() -> None:
    """Neither to the NaN check, nor to the penalty, nor to an optimizer that counts entries."""
    model = make_model("bert").train()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(alpha=1e-3, beta=1e-3))
    train(model, optimizer, range(1))
    everything = range(anatomy_of(model).mlps[0].d_ff)
    pruner._cut(
        neuroprune.ShrinkPlan(
            {"encoder.layer.1.attention": range(HEADS)},
            {f"encoder.layer.{i}.mlp": everything for i in (0, 1)},
        )
    )
    assert torch.isfinite(pruner.penalty())
    train(model, optimizer, range(1, 3))
    good = copy.deepcopy(model)
    (model(**make_inputs("bert")).loss * float("nan")).backward()
    with pytest.raises(NonFiniteError):
        optimizer.step()
    assert parameters_equal(model, good)


def test_one_infinite_entry_in_one_large_gradient_is_seen() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, NeuroPrune())
    model(**make_inputs("bert")).loss.backward()
    model.bert.embeddings.word_embeddings.weight.grad[3, 3] = float("inf")
    with pytest.raises(NonFiniteError):
        optimizer.step()


def test_cutting_without_the_optimizer_is_noticed_at_the_next_step() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, NeuroPrune())
    neuroprune.shrink_(model, neuroprune.ShrinkPlan({"encoder.layer.0.attention": [0]}))
    with pytest.raises(PrunerError, match="Pass the optimizer"):
        train(model, optimizer, range(1))


def test_group_steps_and_maximising_optimizers_are_refused_at_the_start() -> None:
    model = make_model("bert")
    query = model.bert.encoder.layer[0].attention.self.query.weight
    rest = [p for p in model.parameters() if p is not query]
    split = torch.optim.SGD([{"params": [query], "lr": 0.2}, {"params": rest, "lr": 0.1}])
    with pytest.raises(ConfigError, match="one learning rate"):
        attach(model, split, NeuroPrune(apply="prox"))
    attach(model, split, NeuroPrune(apply="penalty")).detach()
    with pytest.raises(PrunerError, match="maximize=False"):
        attach(model, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), NeuroPrune())


def test_a_training_that_ends_before_the_schedule_is_told() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), total_steps=40)
    train(model, optimizer, range(5))
    with pytest.warns(UserWarning, match=r"after 5 optimizer steps.* until step 16 of 40"):
        pruner.finish()


def test_a_training_that_outlasts_the_schedule_is_not_warned_of() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), total_steps=10)
    train(model, optimizer, range(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner.finish()


class OwnSteps(torch.optim.SGD):
    """As Adafactor with relative steps: no learning rate is known."""

    def step(self, closure: Any = None) -> None:
        self.param_groups[0]["lr"] = 0.01
        super().step()
        self.param_groups[0]["lr"] = None


class InBlocks(torch.optim.SGD):
    """As the 8-bit optimizers: a state in flat blocks."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["absmax"] = torch.zeros(-(-p.numel() // 256) + 1)


def test_a_state_that_cannot_be_cut_is_refused_at_the_first_step() -> None:
    """Not where the first units go, which may be hours later."""
    model = make_model("bert")
    optimizer = InBlocks(model.parameters(), lr=0.01)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), total_steps=100)
    with pytest.raises(OptimizerStateError, match=r"'absmax'.*Use AdamW"):
        train(model, optimizer, range(1))
    assert pruner.steps == 1
    assert not pruner.removed
    with pytest.raises(OptimizerStateError, match=r"'absmax'"):  # until it is settled
        train(model, optimizer, range(1))
    pruner.detach()
    pruner = attach(model, optimizer, L1(strength=1e-6))  # which may never cut
    with pytest.warns(UserWarning, match=r"first cut, if there is one, will fail: .*'absmax'"):
        train(model, optimizer, range(1))
    pruner.detach()


def test_an_optimizer_that_chooses_its_own_steps() -> None:
    """Whoever needs no learning rate works; whoever needs one says so."""
    model = make_model("bert")
    optimizer = OwnSteps(model.parameters(), lr=0.01)
    optimizer.param_groups[0]["lr"] = None
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), total_steps=4)
    train(model, optimizer, range(4))
    pruner.finish()
    assert anatomy_of(model).structural_sparsity == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ConfigError, match="OwnSteps chooses its own steps"):
        attach(model, optimizer, NeuroPrune(apply="prox"))


def test_layers_may_be_unfrozen_while_training() -> None:
    model = make_model("bert")
    *first, last = model.parameters()
    optimizer = torch.optim.SGD(first[:-8], lr=0.01)
    with pytest.warns(UserWarning, match="this optimizer does not train all of them"):
        pruner = attach(model, optimizer, NeuroPrune())
    for later in (False, True):
        if later:
            optimizer.add_param_group({"params": [*first[-8:], last]})
        train(model, optimizer, range(1))
    assert pruner.steps == 2
    pruner.finish()
