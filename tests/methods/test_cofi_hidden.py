"""CoFi's gates on hidden dimensions: what they do and cost, and a cut that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import CoFi, ConfigError, NeuroPrune
from neuroprune.core.gates import deterministic_gate, open_probability
from neuroprune.layer_distillation import LayerDistillation
from neuroprune.methods.cofi import LIMIT, CoFiMethod
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.reference import gates as slow
from tests.surgery.test_hidden import answers, make
from tests.zoo import D_MODEL, HEAD_DIM, LAYERS, make_inputs, make_model

CLASSES = (
    "BertForSequenceClassification",
    "RobertaForSequenceClassification",
    "DistilBertForSequenceClassification",
    "BertForTokenClassification",
)
BERT = CLASSES[0]
NORMS = 1 + 2 * LAYERS
GRANULARITY = 0.011  # of the tiny models: 1 neuron of 3 * 32 or 2 * 32 weights
EARLY = CoFi(target=0.5, begin=0.0, warm=0.5, end=1.0, hidden=True)


def start(
    name: str, config: CoFi, steps: int, lr: float = 1e-3, **kwargs: Any
) -> tuple[Any, Pruner, CoFiMethod]:
    model = make(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    pruner = attach(model, optimizer, config, steps, **kwargs)
    assert isinstance(pruner.method, CoFiMethod)
    return model, pruner, pruner.method


def batch(name: str, seed: int = 1) -> dict[str, Tensor]:
    inputs = make_inputs("bert", seed)
    labels = inputs["input_ids"] % 2 if "Token" in name else inputs["labels"]
    return {**inputs, "labels": labels}


def train(model: Any, pruner: Pruner, name: str, first: int, last: int) -> None:
    model.train()
    for step in range(first, last):
        pruner.optimizer.zero_grad()
        model(**batch(name, step)).loss.backward()
        pruner.optimizer.step()


def hooked(model: nn.Module) -> int:
    """Gated norms."""
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    return sum(len(norm._forward_hooks) for norm in norms)


@torch.no_grad()
def close_(method: CoFiMethod, units: float, dimensions: float) -> tuple[Tensor, Tensor]:
    """Give gates of every kind all kinds of values, and close a share of units and dimensions."""
    generator = torch.Generator().manual_seed(3)
    method.logits.copy_(1.0 + 2.0 * torch.rand(len(method.logits), generator=generator))
    number, first = len(method._block_of), len(method.logits) - D_MODEL
    closed = torch.randperm(number, generator=generator)[: round(units * number)]
    gone = torch.randperm(D_MODEL, generator=generator)[: round(dimensions * D_MODEL)]
    method.logits[closed] = -4.0
    method.logits[first + gone] = -4.0
    method._draw_()
    return closed, gone


def gate_norms_(model: nn.Module, z: Tensor) -> None:
    """Norms over the open dimensions, times z, by definition: the slow twin of the hooks."""
    kept = [k for k in range(len(z)) if z[k] > 0]

    def plain(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        out = torch.zeros_like(output)
        mean = sum(x[..., k] for k in kept) / len(kept)
        spread = sum((x[..., k] - mean) ** 2 for k in kept) / len(kept)
        for k in kept:
            normed = (x[..., k] - mean) / (spread + norm.eps).sqrt()
            out[..., k] = z[k] * (norm.weight[k] * normed + norm.bias[k])
        return out

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(plain)


# --- the gates in the forward pass ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sampled", "fixed"])
def test_a_gated_norm_is_that_of_the_slow_twin(mode: str) -> None:
    model, pruner, method = start(BERT, EARLY, 10)
    close_(method, 0.0, 0.3)
    stream = method.stream
    assert stream is not None and hooked(model) == NORMS
    z = (stream._sampled if mode == "sampled" else stream._fixed).values.detach()
    assert 0 < int((z == 0).sum()) < D_MODEL
    model.train(mode == "sampled")
    method.hooks.detach()  # those of the units
    with torch.no_grad():
        found = model(**batch(BERT)).logits
        twin = make(BERT)
        gate_norms_(twin, z)
        torch.testing.assert_close(found, twin(**batch(BERT)).logits, atol=1e-5, rtol=1e-5)
    pruner.detach()
    assert hooked(model) == 0


@pytest.mark.parametrize("closed", [0.0, 0.3])
def test_the_gradient_of_a_gate_is_that_of_differences(closed: float) -> None:
    model, pruner, method = start(BERT, EARLY, 10)
    close_(method, 0.0, closed)
    model.double()
    stream = method.stream
    assert stream is not None
    for _ in range(2):  # two micro-batches
        (model(**batch(BERT)).loss / 2).backward()
    gradient = stream.gradient()
    z = stream._sampled.values.detach().double()
    for k in (z > 0.05).nonzero().squeeze(1)[::7].tolist():
        losses = []
        for shift in (1e-5, -1e-5):
            moved = z.clone()
            moved[k] += shift
            stream.set_(moved, moved)
            losses.append(float(model(**batch(BERT)).loss.detach()))
        difference = (losses[0] - losses[1]) / 2e-5
        assert float(gradient[k]) == pytest.approx(difference, rel=1e-3, abs=1e-6)
    assert not gradient[z == 0].any()
    pruner.detach()


def test_where_every_dimension_is_closed_all_hidden_states_are_zero() -> None:
    model, pruner, method = start(BERT, EARLY, 10)
    assert method.stream is not None
    method.stream.set_(torch.zeros(D_MODEL), torch.zeros(D_MODEL))
    out = model(**batch(BERT), output_hidden_states=True)
    assert not any(h.any() for h in out.hidden_states)
    out.loss.backward()
    assert method.stream.gradient().isfinite().all()
    pruner.detach()


@pytest.mark.parametrize("factor", [1.0, 1024.0, 0.25])
def test_a_gradient_scaler_does_not_drown_the_lagrangian(factor: float) -> None:
    found = []
    for by in (1.0, factor):
        model, pruner, method = start(BERT, EARLY, 10)
        method.seed = 7
        method._draw_()
        (max(by, 1.0) * model(**batch(BERT)).loss).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(max(by, 1.0)).mul_(min(by, 1.0))  # unscaled, or clipped
        method.add_penalty_grad_(pruner.anatomy, 1.0)
        assert method._gradient is not None
        found.append(method._gradient / min(by, 1.0))
        pruner.detach()
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-7)


# --- the cut -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_what_was_gated_is_what_is_left(name: str) -> None:
    """Units and dimensions go and open gates move into weights and norms: the outputs stay."""
    model, pruner, method = start(name, EARLY, 10)
    closed, gone = close_(method, 0.4, 0.3)
    assert method.goal is not None
    left = float(method._costs.sum() - method._costs[closed].sum())
    object.__setattr__(method.goal, "kept", left * (D_MODEL - len(gone)) / D_MODEL)
    gated = answers(model.eval(), name)
    assert not torch.allclose(gated[0], answers(make(name), name)[0], atol=1e-3)
    plan = pruner.finish()
    assert plan.num_heads + plan.num_neurons == len(closed)
    assert plan.remove_hidden == tuple(sorted(gone.tolist()))
    for mine, other in zip(answers(model, name), gated, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    assert hooked(model) == 0 and model.config.hidden_size == D_MODEL - len(gone)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("target", [0.0, 0.6, 0.95])
def test_the_target_is_met_in_one_cut_at_the_end(name: str, target: float) -> None:
    config = CoFi(target=target, begin=0.2, end=0.6, hidden=True, gate_learning_rate=2.0)
    model, pruner, _ = start(name, config, 15)
    counts, gates = [], []
    for step in range(15):
        train(model, pruner, name, step, step + 1)
        counts.append(sparsity(anatomy_of(model)).structural_sparsity)
        gates.append(hooked(model))
    assert gates == [0] * 2 + [NORMS] * 6 + [0] * 7
    assert counts[:8] == [0.0] * 8 and len(set(counts[8:])) == 1
    assert target - 1e-9 <= counts[8] <= target + GRANULARITY
    assert pruner.finish() == pruner.removed
    assert pruner.reached[f"structural:{target:g}"] == counts[8]
    assert answers(model.eval(), name)[0].isfinite().all()


@settings(max_examples=12)
@given(
    target=st.floats(0.0, 0.97),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_the_target_is_met_whatever_dimensions_are_closed(
    target: float, share: float, seed: int
) -> None:
    """Also where the closed dimensions alone are more than was asked for."""
    config = CoFi(target=target, begin=0.0, warm=0.5, end=1.0, hidden=True)
    model, pruner, method = start(BERT, config, 10)
    generator = torch.Generator().manual_seed(seed)
    gone = torch.randperm(D_MODEL, generator=generator)[: round(share * D_MODEL)]
    with torch.no_grad():
        method.logits[len(method.logits) - D_MODEL + gone] = -LIMIT
    plan = pruner.finish()
    reached = sparsity(anatomy_of(model)).structural_sparsity
    assert target - 1e-9 <= reached <= target + GRANULARITY
    most = min(D_MODEL - HEAD_DIM, int(target * D_MODEL + 1e-9))
    assert len(plan.remove_hidden) == min(len(gone), most)
    assert set(plan.remove_hidden) <= set(gone.tolist())
    assert answers(model.eval(), BERT)[0].isfinite().all()


def test_the_likeliest_of_the_closed_dimensions_stay_where_some_have_to() -> None:
    config = CoFi(target=0.25, begin=0.0, warm=0.5, end=1.0, hidden=True)
    _, pruner, method = start(BERT, config, 10)
    with torch.no_grad():
        method.logits[-D_MODEL:] = torch.linspace(-4.5, -3.0, D_MODEL).flip(0)
    assert pruner.finish().remove_hidden == tuple(range(D_MODEL - 8, D_MODEL))


# --- the Lagrangian ------------------------------------------------------------------------------


def test_the_expected_sparsity_is_that_of_the_slow_twin() -> None:
    """Weight by weight: each is there if its block, its unit and its dimension are open."""
    model, pruner, method = start(BERT, EARLY, 10)
    close_(method, 0.3, 0.2)
    p = open_probability(method.logits.detach().double())
    units, blocks, hidden = (x.tolist() for x in method._parts(p))
    whole = anatomy_of(model).dense_weights
    members: list[list[float]] = [[] for _ in blocks]
    for unit, block in zip(units, method._block_of.tolist(), strict=True):
        members[block].append(unit)
    costs = [b.weights_per_head for b in pruner.anatomy.attentions]
    costs += [b.weights_per_neuron for b in pruner.anatomy.mlps]
    by_loops = slow.expected_sparsity(blocks, members, costs, whole, hidden)
    assert float(method.expected().detach()) == pytest.approx(by_loops, abs=1e-6)
    pruner.detach()


def test_the_gates_of_dimensions_learn() -> None:
    model, pruner, method = start(BERT, CoFi(target=0.7, begin=0.0, end=1.0, hidden=True), 100)
    before = method._parts(open_probability(method.logits.detach()))[2]
    train(model, pruner, BERT, 0, 95)
    assert float(method.expected().detach()) > 0.6
    after = method._parts(open_probability(method.logits.detach()))[2]
    assert float(after.mean()) < float(before.mean()) - 0.05
    pruner.detach()


def test_what_was_removed_before_counts_as_gone() -> None:
    model = make(BERT).train()
    name = anatomy_of(model).mlps[0].name
    shrink_(model, ShrinkPlan(remove_neurons={name: range(12)}, remove_hidden=[3, 4]))
    before = sparsity(anatomy_of(model)).structural_sparsity
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, CoFi(target=0.5, begin=0.0, end=1.0, hidden=True), 10)
    method = pruner.method
    assert isinstance(method, CoFiMethod)
    with torch.no_grad():
        method.logits.fill_(40.0)
        assert float(method.expected()) == pytest.approx(before, abs=1e-6)
        method.logits[-5:] = -40.0
    plan = pruner.finish()
    assert plan.remove_hidden == tuple(range(25, 30))
    assert anatomy_of(model).lineage.plan.remove_hidden == (3, 4, 27, 28, 29, 30, 31)
    assert 0.5 <= sparsity(anatomy_of(model)).structural_sparsity <= 0.5 + GRANULARITY


# --- the life of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 4, 8, 11])
@pytest.mark.parametrize("taught", [False, True], ids=["alone", "taught"])
def test_a_run_continues_from_its_state(stop: int, taught: bool, tmp_path: Path) -> None:
    """Before the gates, while they learn, and after the cut: the same trajectory."""
    config = CoFi(target=0.6, begin=0.2, warm=0.4, end=0.8, hidden=True, gate_learning_rate=2.0)
    given = {"teacher": make(BERT, seed=5)} if taught else {}
    torch.manual_seed(5)
    whole, pruner, _ = start(BERT, config, 12, **given)
    seed = int(pruner.method.state_dict()["seed"])
    train(whole, pruner, BERT, 0, 12)
    assert pruner.finish().remove_hidden
    model, pruner, method = start(BERT, config, 12, **given)
    method.seed = seed
    train(model, pruner, BERT, 0, stop)
    state = json.loads(json.dumps(pruner.state_dict()))
    moments = pruner.optimizer.state_dict()
    pruner.detach()
    neuroprune.save_pretrained(model, tmp_path)
    model = neuroprune.from_pretrained(tmp_path).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(moments)
    torch.manual_seed(99)
    pruner = attach(model, optimizer, config, 12, **given)
    pruner.load_state_dict(state)
    train(model, pruner, BERT, stop, 12)
    pruner.finish()
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-7)


def test_the_cut_changes_nothing_for_the_layers_that_are_distilled() -> None:
    """W loses the columns of what is gone: the loss before the cut is the loss behind it."""
    teacher = make(BERT, seed=5)
    model, pruner, method = start(BERT, EARLY, 10, teacher=teacher)
    distillation = pruner._distillation
    assert isinstance(distillation, LayerDistillation)
    train(model, pruner, BERT, 0, 3)
    closed, gone = close_(method, 0.3, 0.3)
    assert method.goal is not None and method.stream is not None
    left = float(method._costs.sum() - method._costs[closed].sum())
    object.__setattr__(method.goal, "kept", left * (D_MODEL - len(gone)) / D_MODEL)
    units, dimensions = method._split(method.fixed().detach())
    method.hooks.set_(method.blocks, units, units)
    method.stream.set_(dimensions, dimensions)
    before = float(model.train()(**batch(BERT)).loss.detach())
    old = [t.detach().clone() for t in distillation.transforms]
    pruner._cut(method._fix_(pruner.anatomy))
    assert float(model.train()(**batch(BERT)).loss.detach()) == pytest.approx(before, rel=1e-5)
    kept = [k for k in range(D_MODEL) if k not in gone.tolist()]
    for now, earlier in zip(distillation.transforms, old, strict=True):
        assert torch.equal(now, earlier[:, kept])
        assert distillation._adam.state[now]["exp_avg"].shape == now.shape
    train(model, pruner, BERT, 3, 5)
    assert not torch.equal(distillation.transforms[0], old[0][:, kept])
    pruner.detach()


def test_a_narrow_student_is_matched_with_a_wide_teacher_by_dimension() -> None:
    model, teacher = make(BERT).train(), make(BERT)
    shrink_(model, ShrinkPlan(remove_hidden=[0, 5]))
    pruner = attach(model, torch.optim.SGD(model.parameters(), lr=0.0), EARLY, 10, teacher=teacher)
    assert isinstance(pruner._distillation, LayerDistillation)
    kept = [k for k in range(D_MODEL) if k not in (0, 5)]
    (transform,) = pruner._distillation.transforms
    assert torch.equal(transform.detach(), torch.eye(D_MODEL)[:, kept])
    pruner.detach()


def test_another_method_goes_on_from_a_narrow_model() -> None:
    model = make(BERT).train()
    shrink_(model, ShrinkPlan(remove_hidden=range(8)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.7), 10)
    train(model, pruner, BERT, 0, 10)
    pruner.finish()
    reached = sparsity(anatomy_of(model)).structural_sparsity
    assert 0.7 - 1e-9 <= reached <= 0.7 + GRANULARITY
    assert pruner.reached["structural:0.7"] == pytest.approx(reached, abs=1e-9)


# --- what is refused, and what stays as it was ---------------------------------------------------


@pytest.mark.parametrize("family", ["t5", "opt"])
def test_families_without_a_declared_stream_are_refused(family: str) -> None:
    model = make_model(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"hidden=True.*bert, distilbert, roberta"):
        attach(model, optimizer, EARLY, 10)


def test_heads_that_are_not_declared_and_bodies_without_one_are_refused() -> None:
    for model, words in (
        (make_model("roberta"), "RobertaForMaskedLM is not known"),
        (make("BertModel"), "hands its hidden states out"),
    ):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with pytest.raises(ConfigError, match=words):
            attach(model, optimizer, EARLY, 10)
        assert hooked(model) == 0


def test_a_model_that_lost_inputs_of_single_layers_is_refused() -> None:
    model = make_model("bert")
    block = anatomy_of(model).mlps[0].name
    shrink_(model, ShrinkPlan(remove_inputs={block: {"up": [0, 3]}}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ConfigError, match=r"hidden=True.*not both"):
        attach(model, optimizer, EARLY, 10)
    assert hooked(model) == 0


def test_the_choice_is_off_and_unsaid_by_default() -> None:
    assert "hidden" not in CoFi(target=0.8).to_dict()
    config = CoFi(target=0.8, hidden=True)
    assert config.to_dict()["hidden"] is True and CoFi.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="hidden must be true or false"):
        CoFi(hidden=1)  # type: ignore[arg-type]
    model, pruner, method = start(BERT, CoFi(target=0.5, begin=0.0), 10)
    assert method.stream is None and hooked(model) == 0
    assert len(method._parts(deterministic_gate(method.logits))[2]) == 0
    pruner.detach()
