"""CoFi's teacher: hidden states matched layer by layer, in a plain loop; W learns, gates decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.layers import stacks_of
from neuroprune.config import CoFi, ConfigError, NeuroPrune
from neuroprune.layer_distillation import LayerDistillation
from neuroprune.methods.cofi import CoFiMethod
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import Pruner, attach
from neuroprune.surgery import shrink_
from tests.reference import rivals
from tests.test_distillation import divergence
from tests.zoo import FAMILIES, LAYERS, inputs_for, make_inputs, make_model

LATE = CoFi(target=0.5, begin=0.4, warm=0.5, end=0.8)


def taught(
    model: nn.Module, teacher: Any = "dense", config: CoFi = LATE, lr: float = 0.0, steps: int = 10
) -> tuple[Pruner, LayerDistillation]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    pruner = attach(model, optimizer, config, steps, teacher=teacher)
    assert isinstance(pruner._distillation, LayerDistillation)
    return pruner, pruner._distillation


def step(pruner: Pruner, family: str, number: int) -> float:
    """One optimizer step; the loss before it."""
    pruner.optimizer.zero_grad()
    loss = pruner.model.train()(**inputs_for(pruner.model, family, number)).loss
    loss.backward()
    pruner.optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def states(model: nn.Module, inputs: dict[str, Tensor]) -> list[list[Tensor]]:
    """What the layers return, by stack, found by a forward pass of its own."""
    found: list[list[Tensor]] = []
    for stack in stacks_of(anatomy_of(model)):
        mine: list[Tensor] = []
        hooks = [
            layer.module.register_forward_hook(
                lambda module, args, out, mine=mine: mine.append(
                    out[0] if isinstance(out, tuple) else out
                )
            )
            for layer in stack
        ]
        model.eval()(**inputs)
        for hook in hooks:
            hook.remove()
        found.append(mine)
    return found


# --- where the layers are ------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_layers(family: str) -> None:
    anatomy = anatomy_of(make_model(family))
    stacks = stacks_of(anatomy)
    assert [len(stack) for stack in stacks] == [LAYERS] * (2 if family.startswith("t5") else 1)
    blocks = [name for stack in stacks for layer in stack for name in layer.mlps]
    assert sorted(blocks) == sorted(mlp.name for mlp in anatomy.mlps)
    for stack in stacks:
        for layer in stack:
            assert anatomy.root.get_submodule(layer.name) is layer.module
            assert all(name.startswith(layer.name) for name in layer.mlps)


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_as_teacher_leaves_nothing_to_learn(family: str) -> None:
    model = make_model(family).train()
    plain = float(model(**make_inputs(family)).loss.detach())
    pruner, distillation = taught(model)
    assert float(model(**make_inputs(family)).loss.detach()) == pytest.approx(0.0, abs=1e-6)
    count = 2 if family.startswith("t5") else 1
    assert distillation.matched == [[0, 1]] * count
    pruner.detach()
    assert float(model(**make_inputs(family)).loss.detach()) == plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ordered", [False, True])
def test_the_loss_is_that_of_the_slow_twin(family: str, ordered: bool) -> None:
    model, teacher = make_model(family), make_model(family, seed=5)
    inputs = make_inputs(family)
    config = CoFi(target=0.5, begin=0.2, layer_weight=0.7, ordered=ordered)
    ours, theirs = states(model, inputs), states(teacher, inputs)
    expected, matches = 0.0, []
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        real = torch.ones_like(inputs["labels"]) if number else inputs["attention_mask"]
        rows = [h[real.bool()].double().numpy() for h in (*mine, *other)]
        total, matched = rivals.layer_distance(
            torch.eye(mine[0].shape[-1]).numpy(), rows[:2], rows[2:], [True] * 2, ordered
        )
        expected += total
        matches.append(matched)
    pruner, distillation = taught(model.train(), teacher, config)
    loss = model(**inputs).loss.detach()
    assert distillation.matched == matches
    answers = CoFi(target=0.5, begin=0.2, layer_weight=0.0)
    pruner.detach()
    pruner, _ = taught(model, teacher, answers)
    of_answers = float(model(**inputs).loss.detach())
    assert float(loss) == pytest.approx(0.3 * of_answers + 0.7 * expected, rel=1e-4)
    pruner.detach()


def test_the_answers_are_compared_at_the_temperature_and_labels_are_not_looked_at() -> None:
    model, teacher = make_model("bert").train(), make_model("bert", seed=5)
    inputs = make_inputs("bert")
    with torch.no_grad():
        student, other = model(**inputs).logits, teacher(**inputs).logits
    taught(model, teacher, CoFi(target=0.5, begin=0.2, layer_weight=0.0))
    found = model(**inputs).loss.detach()
    torch.testing.assert_close(found.double(), divergence(other, student), rtol=1e-4, atol=1e-7)
    inputs["labels"] = 1 - inputs["labels"]
    assert torch.equal(model(**inputs).loss.detach(), found)
    tuples = model(**inputs, return_dict=False)
    torch.testing.assert_close(tuples[0].detach(), found)


def test_logits_mixes_with_the_labels_as_elsewhere() -> None:
    losses = []
    for config in (CoFi(target=0.3, begin=0.2, distill="logits"), NeuroPrune(target=0.3)):
        model = make_model("bert").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        attach(model, optimizer, config, 10, teacher=make_model("bert", seed=5))
        losses.append(model(**make_inputs("bert")).loss.detach())
    assert torch.equal(*losses)
    model = make_model("bert").train()
    warm = CoFi(target=0.3, begin=0.2, distill="logits", temperature=5.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, warm, 10, teacher=make_model("bert", seed=5))
    assert not torch.equal(model(**make_inputs("bert")).loss.detach(), losses[0])


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_padding_does_not_count(family: str) -> None:
    model, teacher = make_model(family).train(), make_model(family, seed=5)
    inputs = make_inputs(family)
    config = CoFi(target=0.5, begin=0.2, layer_weight=1.0)
    pruner, _ = taught(model, teacher, config)
    plain = float(model(**inputs).loss.detach())
    pad = {
        name: nn.functional.pad(inputs[name], (0, 3)) for name in ("input_ids", "attention_mask")
    }
    if family != "bert":
        pad["labels"] = nn.functional.pad(inputs["labels"], (0, 3), value=-100)
    assert float(model(**(inputs | pad)).loss.detach()) == pytest.approx(plain, rel=1e-4)
    pruner.detach()


def test_accumulated_batches_weigh_as_one() -> None:
    model = make_model("opt").train()
    taught(model, make_model("opt", seed=5))
    inputs = make_inputs("opt", batch=4)
    inputs["attention_mask"][:] = 1
    items = inputs["labels"][:, 1:].numel()
    parts = [
        model(**{k: v[rows] for k, v in inputs.items()}, num_items_in_batch=items).loss
        for rows in (slice(0, 2), slice(2, 4))
    ]
    whole = model(**inputs).loss
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_differences() -> None:
    """Of a weight and of W; m is a choice, and a constant for the gradient."""
    model, teacher = make_model("bert").double().train(), make_model("bert", seed=5).double()
    _, distillation = taught(model, teacher)
    inputs = make_inputs("bert")
    weight = model.bert.encoder.layer[0].output.dense.weight
    transform = distillation.transforms[0]
    assert transform.dtype is torch.float64
    found = torch.autograd.grad(model(**inputs).loss, [weight, transform])
    for parameter, gradient in zip((weight, transform), found, strict=True):
        losses = []
        for shift in (1e-4, -1e-4):
            with torch.no_grad():
                parameter[1, 2] += shift
            losses.append(float(model(**inputs).loss.detach()))
            with torch.no_grad():
                parameter[1, 2] -= shift
        difference = (losses[0] - losses[1]) / 2e-4
        assert float(gradient[1, 2]) == pytest.approx(difference, rel=1e-4, abs=1e-9)


def test_evaluation_is_left_alone_and_nothing_is_kept() -> None:
    model = make_model("bert")
    plain = model(**make_inputs("bert")).loss.detach()
    pruner, distillation = taught(model, make_model("bert", seed=5))
    assert torch.equal(model.eval()(**make_inputs("bert")).loss.detach(), plain)
    inputs = make_inputs("bert")
    inputs.pop("labels")
    model.train()(**inputs)  # no loss, so nothing to mix
    assert not distillation._ours.found and not distillation._theirs.found
    model(**make_inputs("bert")).loss.backward()
    assert not distillation._ours.found and not distillation._theirs.found
    teacher = distillation.teacher
    pruner.detach()
    for module in (*model.modules(), *teacher.modules()):
        assert not module._forward_hooks


# --- what is matched -----------------------------------------------------------------------------


def test_a_layer_whose_mlp_is_closed_learns_nothing() -> None:
    """By its own gate, by those of all its neurons, and after the cut."""
    early = CoFi(target=0.0, begin=0.0, warm=0.5, end=1.0)
    model = make_model("bert").train()
    pruner, distillation = taught(model, "dense", early)
    method = pruner.method
    assert isinstance(method, CoFiMethod)
    units = len(method._block_of)
    mlps = [i for i, b in enumerate(method.blocks) if b in pruner.anatomy.mlps]
    for closed, left in ((mlps[0], 1), (mlps[1], 0)):
        for own in (units + closed, (method._block_of == closed).nonzero().squeeze(1)):
            with torch.no_grad():
                method.logits.fill_(20.0)
                method.logits[own] = -20.0
            method._draw_()
            model(**make_inputs("bert"))
            assert distillation.matched == [[left, left]]
    pruner.detach()
    model = make_model("bert").train()
    name = anatomy_of(model).mlps[1].name
    shrink_(model, ShrinkPlan(remove_neurons={name: range(24)}))
    pruner, distillation = taught(model, make_model("bert"))
    model(**make_inputs("bert"))
    assert distillation.matched == [[0, 0]]
    pruner.detach()


@pytest.mark.parametrize("layers", [[1], [2], [1, 2]])
def test_the_layers_that_teach_can_be_chosen(layers: list[int]) -> None:
    model = make_model("bert").train()
    config = CoFi(target=0.5, begin=0.2, teacher_layers=layers)
    _, distillation = taught(model, "dense", config)
    model(**make_inputs("bert"))
    assert distillation.matched == [[n - 1 for n in layers]]


def test_a_pass_that_drops_every_layer_teaches_by_the_answers_alone() -> None:
    model: Any = make_model("opt").train()
    model.model.decoder.layerdrop = 1.0
    _, distillation = taught(model, make_model("opt", seed=2), CoFi(target=0.5, layer_weight=0.25))
    inputs = make_inputs("opt")
    found = model(**inputs)
    with torch.no_grad():
        answers = distillation.teacher(**inputs).logits
    counted = inputs["labels"][:, 1:] != -100
    ours, theirs = found.logits.detach()[:, :-1][counted], answers[:, :-1][counted]
    expected = 0.75 * divergence(theirs, ours)
    torch.testing.assert_close(found.loss.detach().double(), expected, rtol=1e-4, atol=1e-7)
    assert distillation.matched == [[]]


# --- a whole run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_comes_closer_and_meets_the_target(family: str) -> None:
    config = CoFi(target=0.5, begin=0.1, warm=0.3, end=0.5)
    model, teacher = make_model(family).train(), make_model(family, seed=3)
    before = [p.clone() for p in teacher.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = attach(model, optimizer, config, 30, teacher=teacher)
    distillation = pruner._distillation
    assert isinstance(distillation, LayerDistillation)
    losses = [step(pruner, family, 0) for _ in range(30)]
    pruner.finish()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert anatomy_of(model).structural_sparsity == pytest.approx(0.5, abs=0.012)
    for transform in distillation.transforms:
        assert not torch.equal(transform.detach(), torch.eye(len(transform)))
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(p.grad is None for p in teacher.parameters())


def test_the_transformation_has_the_users_learning_rate_and_drops_what_overflows() -> None:
    model, teacher = make_model("bert").train(), make_model("bert", seed=5)
    pruner, distillation = taught(model, teacher, lr=1e-3)
    transform = distillation.transforms[0]
    step(pruner, "bert", 0)
    moved = (transform.detach() - torch.eye(len(transform))).abs().max()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3), "the first step of Adam"
    before = transform.detach().clone()
    (torch.inf * model(**make_inputs("bert")).loss).backward()  # a scaler would skip this step
    step(pruner, "bert", 1)
    assert torch.equal(transform, before) and transform.grad is None
    step(pruner, "bert", 2)
    assert not torch.equal(transform, before) and transform.isfinite().all()
    pruner.detach()


def test_a_step_that_a_fused_optimizer_skips_leaves_nothing_to_the_next() -> None:
    model, teacher = make_model("bert").train(), make_model("bert", seed=5)
    pruner, distillation = taught(model, teacher, lr=1e-3)
    transform = distillation.transforms[0]
    before = transform.detach().clone()
    optimizer = pruner.optimizer
    optimizer.found_inf = torch.tensor(1.0)  # as a GradScaler tells it
    (torch.inf * model(**make_inputs("bert")).loss).backward()
    pruner._after_step(optimizer, (), {})
    assert transform.grad is None and torch.equal(transform, before)
    del optimizer.found_inf
    step(pruner, "bert", 0)
    assert not torch.equal(transform, before) and transform.isfinite().all()
    pruner.detach()


@pytest.mark.parametrize("stop", [2, 6, 9])
def test_a_run_continues_from_its_state(stop: int) -> None:
    """Before the gates, while they learn, and after the cut: the same trajectory."""
    teacher = make_model("bert", seed=5)
    torch.manual_seed(5)
    model = make_model("bert").train()
    pruner, _ = taught(model, teacher, lr=1e-2)
    seed = pruner.method.state_dict()["seed"]
    for number in range(10):
        step(pruner, "bert", number)
    pruner.finish()
    whole = model
    model = make_model("bert").train()
    pruner, _ = taught(model, teacher, lr=1e-2)
    pruner.method.seed = seed  # type: ignore[attr-defined]
    for number in range(stop):
        step(pruner, "bert", number)
    state = json.loads(json.dumps(pruner.state_dict()))
    pruner.detach()
    pruner = attach(model, pruner.optimizer, LATE, 10, teacher=teacher)
    pruner.load_state_dict(state)
    for number in range(stop, 10):
        step(pruner, "bert", number)
    pruner.finish()
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_bfloat16_runs() -> None:
    model = make_model("t5").to(torch.bfloat16).train()
    pruner, distillation = taught(model, make_model("t5", seed=5), lr=1e-2)
    step(pruner, "t5", 0)
    assert all(t.dtype is torch.float32 for t in distillation.transforms)
    pruner.detach()


def test_a_pruned_teacher_and_a_saved_one(tmp_path: Path) -> None:
    teacher = make_model("bert", seed=5)
    name = anatomy_of(teacher).mlps[0].name
    shrink_(teacher, ShrinkPlan(remove_neurons={name: range(5)}))
    neuroprune.save_pretrained(teacher, tmp_path / "teacher")
    losses = []
    for given in (teacher, str(tmp_path / "teacher")):
        model = make_model("bert").train()
        config = CoFi(target=0.5, begin=0.2, teacher=given if isinstance(given, str) else None)
        taught(model, None if isinstance(given, str) else given, config)
        losses.append(model(**make_inputs("bert")).loss.detach())
    torch.testing.assert_close(*losses)


# --- what is refused -----------------------------------------------------------------------------


def wide_bert(width: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    settings = make_model("bert").config.to_dict() | {"hidden_size": width}
    return BertForSequenceClassification(BertConfig(**settings))


def test_teachers_that_cannot_be_compared_are_refused() -> None:
    model = make_model("bert").train()
    with pytest.raises(ConfigError, match=r"hidden width 64, the model 32"):
        taught(model, wide_bert(64))
    with pytest.raises(ConfigError, match=r"has 2 layers in a stack.*from 1 to 2"):
        taught(model, "dense", CoFi(target=0.5, teacher_layers=[1, 3]))
    assert not model._forward_hooks
    with pytest.raises(ConfigError, match="dense run of an experiment"):
        taught(model, "finetuned")
    model.activation_checkpointing_enable()
    with pytest.raises(ConfigError, match="gradient checkpointing"):
        taught(model)
    model.activation_checkpointing_disable()
    assert not model._forward_hooks
    taught(model)  # and nothing was left attached


def test_settings_without_a_teacher_are_refused() -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for config in (CoFi(temperature=3.0), CoFi(distill="logits"), CoFi(ordered=True)):
        with pytest.raises(ConfigError, match="nothing without a teacher"):
            attach(model, optimizer, config, 10)
        attach(model, optimizer, config, 10, teacher="dense").detach()


def test_a_state_of_another_run_is_refused() -> None:
    model = make_model("bert").train()
    pruner, distillation = taught(model, make_model("bert", seed=5))
    with pytest.raises(ConfigError, match="no transformation"):
        distillation.load_state_dict({})
    pruner.detach()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher": 3}, "CoFi.teacher must be"),
        ({"teacher": ""}, "CoFi.teacher must be"),
        ({"distill": "heads"}, "'layers', 'logits'"),
        ({"temperature": 0.0}, "temperature"),
        ({"layer_weight": 1.5}, "layer_weight"),
        ({"ordered": 1}, "true or false"),
        ({"teacher_layers": []}, "rising numbers"),
        ({"teacher_layers": [2, 1]}, "rising numbers"),
        ({"teacher_layers": [0, 1]}, "rising numbers"),
        ({"teacher_layers": 3}, "rising numbers of layers, counted from 1"),
        ({"distill": "logits", "ordered": True}, "ordered would do nothing"),
        ({"distill": "logits", "layer_weight": 0.5}, "layer_weight would do nothing"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CoFi(**given)


def test_configurations_make_the_round_trip() -> None:
    """Without a teacher they are written as before, so records of older runs stay valid."""
    assert set(CoFi().to_dict()) == {"target", "begin", "warm", "end", "gate_learning_rate"}
    for config in (
        CoFi(teacher="dense"),
        CoFi(teacher="dense", teacher_layers=[1, 4], ordered=True, layer_weight=0.5),
        CoFi(teacher="finetuned", distill="logits", temperature=4.0),
        CoFi(temperature=4.0),
    ):
        again = CoFi.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
