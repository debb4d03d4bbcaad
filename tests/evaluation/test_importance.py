"""The importance of a head is the derivative of the loss by a gate on it in the forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.evaluation import EvaluationError, head_importance
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from tests.evaluation.test_quality import build
from tests.tasks.helpers import (
    BERT,
    OPT,
    T5,
    classification,
    generation,
    language_modelling,
    masked,
)

KINDS = [(BERT, classification), (OPT, language_modelling), (T5, generation)]


def by_gates(model, data):
    """Mean over the training examples of |dL/dm|, with gates m in the forward pass."""
    out = {}
    model.eval()
    for block in anatomy_of(model).attentions:
        gates = torch.ones(block.num_heads, requires_grad=True)

        def gated(layer, inputs, gates=gates, width=block.head_dim):
            return (inputs[0] * gates.repeat_interleave(width),)

        hook = block.o_proj.register_forward_pre_hook(gated)
        total = torch.zeros_like(gates)
        for row in data.train:
            loss = model(**data.collator([row])).loss
            total += torch.autograd.grad(loss, gates)[0].abs()
        hook.remove()
        out[block.name] = (total / len(data.train)).tolist()
    return out


@pytest.mark.parametrize(("shape", "make"), KINDS, ids=["bert", "opt", "t5"])
def test_it_is_the_mean_absolute_derivative_by_a_gate(tmp_path, shape, make):
    model, data = build(tmp_path, shape, make)
    found = head_importance(model, data, examples=len(data.train) + 7)  # all there are
    expected = by_gates(model, data)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-6)
    assert len({round(v, 9) for values in found.values() for v in values}) > 4


def test_a_sample_is_fixed_and_of_the_training_examples(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    assert head_importance(model, data, 3) == head_importance(model, data, 3)
    assert head_importance(model, data, 3) != head_importance(model, data, 4)


def test_masks_are_drawn_alike_every_time_and_no_generator_moves(tmp_path):
    model, data = build(tmp_path, BERT, masked)
    before = torch.random.get_rng_state()
    assert head_importance(model, data, 3) == head_importance(model, data, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_examples_stand_in_and_none_at_all_are_refused(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    tested = head_importance(model, replace(data, train=None), 3)
    assert tested == head_importance(model, replace(data, train=data.evaluation), 3)
    with pytest.raises(EvaluationError, match="has no examples"):
        head_importance(model, replace(data, train=data.train.select([])), 3)


def test_the_model_is_left_as_it_was(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    model.train()
    blocks = anatomy_of(model).attentions
    blocks[0].o_proj.weight.requires_grad_(False)
    with_frozen = head_importance(model, data, 2)
    assert not blocks[0].o_proj.weight.requires_grad
    assert blocks[1].o_proj.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    blocks[0].o_proj.weight.requires_grad_(True)
    assert head_importance(model, data, 2) == with_frozen


def test_a_diverged_model_is_refused(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    with torch.no_grad():
        anatomy_of(model).mlps[0].up_proj.weight[0, 0] = float("nan")
    with pytest.raises(EvaluationError, match=r"not finite.*lower the learning rate"):
        head_importance(model, data, 2)


def test_no_examples_are_refused(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    with pytest.raises(EvaluationError, match="at least 1, got 0"):
        head_importance(model, data, 0)


def test_a_block_without_heads_has_no_importance(tmp_path):
    model, data = build(tmp_path, BERT, classification)
    first, second = (block.name for block in anatomy_of(model).attentions)
    shrink_(model, ShrinkPlan(remove_heads={first: (0, 1, 2, 3), second: (1,)}))
    found = head_importance(model, data, 4)
    assert found[first] == []
    assert len(found[second]) == 3 and min(found[second]) > 0.0
