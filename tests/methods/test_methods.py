"""Methods choose; their gradients are those of the penalty in the loss."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, Config, ConfigError, Magnitude, NeuroPrune
from neuroprune.control.schedule import cubic_sparsity
from neuroprune.methods import Method, method_for, register_method
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import sparsity
from tests.reference import paper
from tests.zoo import FAMILIES, HEAD_DIM, HEADS, make_inputs, make_model

CONFIGS = {
    "neuroprune": NeuroPrune(alpha=0.03, beta=0.02, eps=0.05),
    "l1": L1(strength=0.01),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_added_gradient_is_that_of_the_penalty_in_the_loss(family: str, name: str) -> None:
    model, other = make_model(family).train(), make_model(family).train()
    inputs = make_inputs(family)
    method = method_for(CONFIGS[name])
    (model(**inputs).loss + method.penalty(anatomy_of(model))).backward()
    other(**inputs).loss.backward()
    method.add_penalty_grad_(anatomy_of(other), 1.0)
    for (label, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None, label
        else:
            torch.testing.assert_close(q.grad, p.grad, msg=lambda m, label=label: f"{label}: {m}")


@pytest.mark.parametrize("family", ["bert", "t5-gated"])
def test_penalty_is_the_papers(family: str) -> None:
    """Against the plain loops of the reference, summed over layers."""
    config = NeuroPrune(alpha=0.3, beta=0.7, eps=0.05)
    anatomy = anatomy_of(make_model(family))
    expected = 0.0
    for mlp in anatomy.mlps:
        for matrix in mlp.matrices():
            expected += 0.3 * paper.mlp_penalty(matrix.detach().double().numpy(), 0.05)
    for block in anatomy.attentions:
        q, k, v = (
            layer.weight.detach().double().numpy().T
            for layer in (block.q_proj, block.k_proj, block.v_proj)
        )
        groups = (
            [q, np.concatenate([k, v], 1)] if block.is_cross else [np.concatenate([q, k, v], 1)]
        )
        expected += 0.7 * sum(paper.attention_penalty(group) for group in groups)
    value = method_for(config).penalty(anatomy)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)


def test_scale_multiplies_the_gradient_and_frozen_weights_get_none() -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    anatomy.mlps[0].up_proj.weight.requires_grad_(False)
    method = method_for(CONFIGS["neuroprune"])
    method.add_penalty_grad_(anatomy, 1.0)
    once = anatomy.mlps[0].down_proj.weight.grad.clone()
    model.zero_grad()
    method.add_penalty_grad_(anatomy, 1024.0)
    torch.testing.assert_close(anatomy.mlps[0].down_proj.weight.grad, once * 1024)
    assert anatomy.mlps[0].up_proj.weight.grad is None


@pytest.mark.parametrize("config", [NeuroPrune(alpha=1, beta=1, apply="prox"), L1(apply="prox")])
def test_prox_mode_adds_no_gradient_and_shrinks(config: NeuroPrune | L1) -> None:
    model = make_model("t5")
    anatomy = anatomy_of(model)
    method = method_for(config)
    method.add_penalty_grad_(anatomy, 1.0)
    assert all(p.grad is None for p in model.parameters())
    before = [m.detach().clone() for m in anatomy.matrices()]
    method.prox_(anatomy, lambda p: 1e-2)
    changed = [
        bool((m.abs() <= b.abs()).all()) for m, b in zip(anatomy.matrices(), before, strict=True)
    ]
    assert all(changed)
    assert sum(not torch.equal(m, b) for m, b in zip(anatomy.matrices(), before, strict=True)) > 10


def test_prox_skips_what_is_not_trained_and_needs_one_rate_per_group() -> None:
    anatomy = anatomy_of(make_model("bert"))
    method = method_for(NeuroPrune(alpha=1, beta=1, apply="prox"))
    before = [m.detach().clone() for m in anatomy.matrices()]
    method.prox_(anatomy, lambda p: None)
    assert all(torch.equal(m, b) for m, b in zip(anatomy.matrices(), before, strict=True))
    query = anatomy.attentions[0].q_proj.weight
    with pytest.raises(ConfigError, match="one learning rate"):
        method.prox_(anatomy, lambda p: 0.1 if p is query else 0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_select_merges_what_the_reference_merges(family: str) -> None:
    model = make_model(family)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        for block in anatomy.attentions:
            for layer in (block.q_proj, block.k_proj, block.v_proj):
                layer.weight[:HEAD_DIM] = layer.weight[2 * HEAD_DIM : 3 * HEAD_DIM] + 1e-3
    for theta in (0.0, 2e-3, 0.3, 0.6, 5.0):
        plan = method_for(NeuroPrune(theta=theta)).select(anatomy)
        for block in anatomy.attentions:
            rows = block.heads().double().numpy()
            expected = paper.merge_map(paper.find_dominating(paper.similarity_matrix(rows, theta)))
            assert dict(plan.merge_heads.get(block.name, {})) == expected
    everything = method_for(NeuroPrune(theta=5.0)).select(anatomy)
    assert all(len(m) == HEADS - 1 for m in everything.merge_heads.values())


def test_cubic_schedule() -> None:
    assert cubic_sparsity(0, 100, 0.8, 0.1, 0.6) == 0
    assert cubic_sparsity(10, 100, 0.8, 0.1, 0.6) == 0
    assert cubic_sparsity(60, 100, 0.8, 0.1, 0.6) == 0.8
    assert cubic_sparsity(35, 100, 0.8, 0.1, 0.6) == pytest.approx(0.8 * (1 - 0.5**3))
    values = [cubic_sparsity(t, 100, 0.8, 0.1, 0.6) for t in range(101)]
    assert values == sorted(values)
    assert cubic_sparsity(0, 0, 0.8) == 0.8


def test_magnitude_masks_the_smallest_weights_and_holds_them() -> None:
    model = make_model("bert").train()
    dense = copy.deepcopy(model)
    config = Magnitude(target=0.5, begin=0.0, end=0.5, every=1)
    method = method_for(config, total_steps=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method.setup(anatomy_of(model), optimizer)
    for _ in range(4):
        method.prox_(anatomy_of(model), lambda p: 1.0)
    assert sparsity(anatomy_of(model)).weight_sparsity == pytest.approx(0.5, abs=1e-3)
    kept = torch.cat([m.flatten() for m in anatomy_of(model).matrices()]) != 0
    size = torch.cat([m.flatten() for m in anatomy_of(dense).matrices()]).abs()
    assert size[~kept].max() <= size[kept].min()
    with torch.no_grad():
        for matrix in anatomy_of(model).matrices():
            matrix.add_(1.0)  # an optimizer step that revives everything
    method.prox_(anatomy_of(model), lambda p: 1.0)
    assert sparsity(anatomy_of(model)).weight_sparsity == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitude_units_reach_the_target_and_leave_no_layer_empty(family: str) -> None:
    model = make_model(family)
    method = method_for(Magnitude(target=0.7, structure="units", end=0.5), total_steps=2)
    for _ in range(2):
        method.prox_(anatomy_of(model), lambda p: 1.0)
    shrink_(model, method.select(anatomy_of(model)))
    anatomy = anatomy_of(model)
    largest = max(
        *(b.weights_per_head for b in anatomy.attentions),
        *(b.weights_per_neuron for b in anatomy.mlps),
    )
    reached = sparsity(anatomy).structural_sparsity
    assert 0.7 <= reached <= 0.7 + largest / anatomy.dense_weights
    assert all(b.num_heads > 0 for b in anatomy.attentions)
    assert all(b.d_ff > 0 for b in anatomy.mlps)


def test_magnitude_needs_the_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="total_steps=N"):
        method_for(Magnitude(target=0.5))


def test_unknown_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="L1, Magnitude, Movement, NeuroPrune"):
        method_for(Config())


def test_a_method_of_your_own() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class DropFirst(Config):
        pass

    @register_method
    class DropFirstMethod(Method[DropFirst]):
        config_type = DropFirst

        def select(self, anatomy, budget=None):  # type: ignore[no-untyped-def]
            return ShrinkPlan({b.name: [0] for b in anatomy.attentions})

    assert method_for(DropFirst()).select(anatomy_of(make_model("opt"))).num_heads == 2
    assert math.isclose(float(method_for(DropFirst()).penalty(anatomy_of(make_model("opt")))), 0.0)
