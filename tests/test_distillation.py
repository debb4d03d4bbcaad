"""A teacher's logits in the loss: in a plain loop, for every kind of head, and gone at the end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuroprune
from neuroprune.anatomy.inputs import copy_of
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.distillation import TEMPERATURE, WEIGHT
from neuroprune.pruner import Pruner, PrunerError, attach
from tests.zoo import FAMILIES, HEADS, inputs_for, logits, make_inputs, make_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_as_teacher_only_scales_the_loss(family: str) -> None:
    """The start agrees with itself: the divergence is zero, the task's loss counts by 1 - w."""
    model = make_model(family).train()
    plain = model(**make_inputs(family)).loss.detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = attach(model, optimizer, NeuroPrune(target=0.3, teacher="dense"), 10)
    mixed = model(**make_inputs(family)).loss
    torch.testing.assert_close(mixed.detach(), (1 - WEIGHT) * plain)
    mixed.backward()
    pruner.detach()
    assert torch.equal(model(**make_inputs(family)).loss.detach(), plain)


def test_the_loss_is_hintons() -> None:
    model, teacher = make_model("bert").train(), make_model("bert", seed=5)
    inputs = make_inputs("bert")
    with torch.no_grad():
        task, student, other = (
            model(**inputs).loss,
            model(**inputs).logits,
            teacher(**inputs).logits,
        )
    p = (other / TEMPERATURE).softmax(-1)
    q = (student / TEMPERATURE).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, NeuroPrune(target=0.3), 10, teacher=teacher)
    expected = (1 - WEIGHT) * task + WEIGHT * TEMPERATURE**2 * divergence
    torch.testing.assert_close(model(**inputs).loss.detach(), expected)
    output = model(**inputs, return_dict=False)
    torch.testing.assert_close(output[0].detach(), expected)


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_the_student_learns_and_the_teacher_does_not_change(family: str) -> None:
    model, teacher = make_model(family).train(), make_model(family, seed=3)
    before = [p.clone() for p in teacher.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = attach(model, optimizer, NeuroPrune(target=0.5), 30, teacher=teacher)
    losses = []
    for _ in range(30):
        loss = model(**inputs_for(model, family, 0)).loss
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(p.grad is None for p in teacher.parameters())
    assert not model._forward_hooks


def test_evaluation_is_left_alone() -> None:
    model = make_model("bert")
    plain = model(**make_inputs("bert")).loss.detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, optimizer, NeuroPrune(target=0.3), 10, teacher=make_model("bert", seed=5))
    assert torch.equal(model.eval()(**make_inputs("bert")).loss.detach(), plain)


def test_a_saved_teacher(tmp_path: Path) -> None:
    neuroprune.save_pretrained(make_model("bert", seed=5), tmp_path / "teacher")
    losses = []
    for teacher in (str(tmp_path / "teacher"), make_model("bert", seed=5)):
        model = make_model("bert").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        attach(model, optimizer, NeuroPrune(target=0.3), 10, teacher=teacher)
        losses.append(model(**make_inputs("bert")).loss.detach())
    torch.testing.assert_close(losses[0], losses[1])


def test_a_teacher_that_cannot_teach_is_refused() -> None:
    model = make_model("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    target = NeuroPrune(target=0.3)
    other = make_model("bert", seed=5)
    other.config.num_labels = 7
    with pytest.raises(ConfigError, match="num_labels"):
        attach(model, optimizer, target, 10, teacher=other)
    with pytest.raises(ConfigError, match="the model itself"):
        attach(model, optimizer, target, 10, teacher=model)
    with pytest.raises(ConfigError, match="could not be loaded"):
        attach(model, optimizer, target, 10, teacher="./nowhere/at/all")
    attach(model, optimizer, target, 10)  # and nothing was left attached


def taught(model: nn.Module, teacher: Any = "dense", **settings: Any) -> Pruner:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return attach(model, optimizer, NeuroPrune(target=0.3, **settings), 10, teacher=teacher)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """T^2 KL over the last axis, mean over the rest, as the equation says it."""
    p, q = ((z.double() / TEMPERATURE).softmax(-1) for z in (teacher, student))
    return TEMPERATURE**2 * (p * (p / q).log()).sum(-1).mean()


def test_only_positions_with_a_label_count() -> None:
    """A decoder predicts the next token: position t counts where label t + 1 does."""
    for family, shift in (("opt", 1), ("bert-cross", 1), ("roberta", 0), ("t5", 0)):
        model, teacher = make_model(family), make_model(family, seed=5)
        inputs = make_inputs(family)
        inputs["labels"][0, :3] = -100
        inputs["labels"][2, -1] = -100
        student, other = logits(model, inputs), logits(teacher, inputs)
        counted = inputs["labels"][:, shift:] != -100
        length = student.shape[1] - shift
        expected = divergence(other[:, :length][counted], student[:, :length][counted])
        task = model(**inputs).loss.detach().double()
        taught(model.train(), teacher)
        mixed = model(**inputs).loss.detach().double()
        torch.testing.assert_close(
            mixed, (1 - WEIGHT) * task + WEIGHT * expected, rtol=1e-4, atol=0
        )


def test_accumulated_batches_weigh_as_one() -> None:
    """With the Trainer's count of labels, a decoder's parts add up to the whole batch's loss."""
    model = make_model("opt").train()
    taught(model, make_model("opt", seed=5))
    inputs = make_inputs("opt", batch=4)
    inputs["labels"][0, 2:5] = -100
    whole = model(**inputs).loss
    items = (inputs["labels"][:, 1:] != -100).sum()
    parts = [
        model(**{k: v[rows] for k, v in inputs.items()}, num_items_in_batch=items).loss
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def _bert(**settings: Any) -> nn.Module:
    from transformers import BertForSequenceClassification

    model = make_model("bert")
    config = copy.deepcopy(model.config)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(settings.get("seed", 0))
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0])),
        ({"num_labels": 3, "problem_type": "regression"}, torch.randn(3, 3)),
    ],
)
def test_regression_is_compared_by_squares(settings: dict[str, Any], labels: Tensor) -> None:
    model, teacher = _bert(**settings), _bert(seed=7, **settings)
    inputs = make_inputs("bert") | {"labels": labels}
    student, other = logits(model, inputs), logits(teacher, inputs)
    task = model.train()(**inputs).loss.detach()
    taught(model, teacher)
    expected = (1 - WEIGHT) * task + WEIGHT * (student - other).square().mean()
    torch.testing.assert_close(model(**inputs).loss.detach(), expected)


def test_independent_labels_are_compared_one_by_one() -> None:
    settings = {"num_labels": 3, "problem_type": "multi_label_classification"}
    model, teacher = _bert(**settings), _bert(seed=7, **settings)
    inputs = make_inputs("bert") | {"labels": torch.eye(3)}
    student, other = logits(model, inputs).double(), logits(teacher, inputs).double()
    task = model.train()(**inputs).loss.detach().double()
    p, q = ((z / TEMPERATURE).sigmoid() for z in (other, student))
    both = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    taught(model, teacher)
    expected = (1 - WEIGHT) * task + WEIGHT * TEMPERATURE**2 * both
    torch.testing.assert_close(model(**inputs).loss.detach().double(), expected, rtol=1e-4, atol=0)


def test_labels_by_position_and_tuples() -> None:
    model, teacher = make_model("opt").train(), make_model("opt", seed=5)
    taught(model, teacher)
    inputs = make_inputs("opt")
    inputs["labels"][0, :3] = -100
    named = model(**inputs)
    plain = model(inputs["input_ids"], inputs["attention_mask"], None, None, inputs["labels"])
    torch.testing.assert_close(plain.loss, named.loss)
    first = model(**inputs, return_dict=False)
    assert isinstance(first, tuple)
    torch.testing.assert_close(first[0], named.loss)
    torch.testing.assert_close(first[1], named.logits)
    assert type(named).__name__ == "CausalLMOutputWithPast" and named["loss"] is named.loss


def test_the_gradient_is_that_of_the_mixture_and_bfloat16_runs() -> None:
    model, teacher = make_model("bert").double().train(), make_model("bert", seed=5).double()
    inputs = make_inputs("bert")
    with torch.no_grad():
        other = teacher(**inputs).logits
    output = model(**inputs)
    mixture = (1 - WEIGHT) * output.loss + WEIGHT * divergence(other, output.logits)
    expected = torch.autograd.grad(mixture, list(model.parameters()), allow_unused=True)
    taught(model, teacher)
    found = torch.autograd.grad(model(**inputs).loss, list(model.parameters()), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    half = make_model("t5").to(torch.bfloat16).train()
    whole = make_model("t5", seed=5)
    taught(half, whole)
    loss = half(**make_inputs("t5")).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert next(whole.parameters()).dtype is torch.float32, "the user's model is left as it is"
    assert all(p.requires_grad for p in whole.parameters())


def test_the_dense_copy_tells_no_hook_of_the_model() -> None:
    model = make_model("bert").train()
    calls = []
    layer = model.bert.encoder.layer[0]
    layer.register_forward_hook(lambda *args: calls.append(1))
    layer.register_forward_pre_hook(lambda *args: calls.append(2))
    taught(model)
    model(**make_inputs("bert")).loss.backward()
    assert calls == [2, 1]


def test_a_copy_takes_no_watcher_along() -> None:
    class Watcher:
        copies = 0

        def __deepcopy__(self, memo: Any) -> None:
            Watcher.copies += 1

        def see(self, *args: Any) -> None:
            self.seen = True

    model = make_model("bert")
    model.bert.encoder.layer[0].register_forward_hook(Watcher().see)
    copied = copy_of(model)
    assert not Watcher.copies and not copied.bert.encoder.layer[0]._forward_hooks
    assert model.bert.encoder.layer[0]._forward_hooks
    torch.testing.assert_close(
        logits(copied, make_inputs("bert")), logits(model, make_inputs("bert"))
    )


def test_a_ragged_start_is_its_own_dense_teacher() -> None:
    """A model cut before, whose heads share a position bias: the copy still gives its logits."""
    model = make_model("t5")
    cut = {"encoder.block.0.layer.0.SelfAttention": [1, 2]}
    names = {b.name for b in neuroprune.anatomy_of(model).attentions}
    neuroprune.shrink_(model, neuroprune.ShrinkPlan({n: v for n, v in cut.items() if n in names}))
    assert neuroprune.anatomy_of(model).attentions[0].num_heads == HEADS - 2
    plain = model.train()(**make_inputs("t5")).loss.detach()
    pruner = taught(model)
    torch.testing.assert_close(model(**make_inputs("t5")).loss.detach(), (1 - WEIGHT) * plain)
    again = copy_of(model)
    again.set_attn_implementation("eager")  # whose ragged twin is not registered yet
    again(**make_inputs("t5"))
    pruner.detach()


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_a_teacher_that_transformers_saved(family: str, tmp_path: Path) -> None:
    teacher = make_model(family, seed=5)
    teacher.save_pretrained(tmp_path / "teacher")
    losses = []
    for given in (tmp_path / "teacher", teacher):
        model = make_model(family).train()
        taught(model, given)
        losses.append(model(**make_inputs(family)).loss.detach())
    torch.testing.assert_close(losses[0], losses[1])


def test_a_teacher_without_a_head_would_answer_at_random(tmp_path: Path) -> None:
    make_model("bert").bert.save_pretrained(tmp_path / "headless")
    with pytest.raises(ConfigError, match=r"classifier.*would be random"):
        taught(make_model("bert"), str(tmp_path / "headless"))


def test_teachers_that_answer_another_question_are_refused() -> None:
    model = make_model("bert")
    renamed = make_model("bert", seed=5)
    model.config.id2label = {0: "bad", 1: "good"}
    renamed.config.id2label = {0: "good", 1: "bad"}
    with pytest.raises(ConfigError, match="in the order"):
        taught(model, renamed)
    sharing = copy.copy(model)
    with pytest.raises(ConfigError, match="shares weights"):
        taught(model, sharing)
    with pytest.raises(ConfigError, match="transformers model as teacher"):
        taught(model, nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="expected a model"):
        taught(model, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(ConfigError, match="belongs to target mode"):
        attach(model, optimizer, NeuroPrune(), teacher="dense")
    headless = make_model("bert", seed=5).bert
    pruner = taught(model, headless)
    with pytest.raises(ConfigError, match=r"got no logits"):
        model.train()(**make_inputs("bert"))
    pruner.detach()
    assert not model._forward_hooks


def test_a_loop_in_which_the_teacher_has_no_say_is_stopped() -> None:
    model = make_model("bert").train()
    pruner = taught(model)
    inputs = make_inputs("bert")
    model(**inputs).loss.backward()  # the first step is as it should be
    pruner.optimizer.step()
    labels = inputs.pop("labels")
    nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
    with pytest.raises(PrunerError, match="no say"):
        pruner.optimizer.step()


def test_a_schedule_goes_on_with_the_length_it_began_with() -> None:
    pruner = taught(make_model("bert"))
    state = pruner.state_dict()
    pruner.detach()
    again = attach(pruner.model, pruner.optimizer, pruner.method.config, 11)
    with pytest.raises(PrunerError, match="another run: total_steps 10, now 11"):
        again.load_state_dict(state)
    again.detach()
    paper = attach(pruner.model, pruner.optimizer, NeuroPrune(alpha=1e-4), 10)
    state = paper.state_dict()
    paper.detach()
    attach(pruner.model, pruner.optimizer, NeuroPrune(alpha=1e-4)).load_state_dict(state)


def test_a_resumed_run_needs_its_dense_teacher() -> None:
    """The model in a checkpoint is not the one training started from."""
    start, model = make_model("bert"), make_model("bert").train()
    pruner = taught(model)
    model(**make_inputs("bert")).loss.backward()
    pruner.optimizer.step()
    state = pruner.state_dict()
    pruner.detach()
    config = NeuroPrune(target=0.3, teacher="dense")
    state["config"] = config.to_dict()
    again = attach(model, pruner.optimizer, config, 10)
    with pytest.raises(PrunerError, match=r"teacher=model"):
        again.load_state_dict(state)
    again.detach()
    again = attach(model, pruner.optimizer, config, 10, teacher=start)
    again.load_state_dict(state)
    assert again.steps == 1
