"""A teacher's logits in the loss: in a plain loop, for every kind of head, and gone at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import neuroprune
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.distillation import TEMPERATURE, WEIGHT
from neuroprune.pruner import attach
from tests.zoo import FAMILIES, inputs_for, make_inputs, make_model


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
