"""Both sparsities count against the dense model, before and after a cut."""

from __future__ import annotations

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from neuroprune.topology.sparsity import inspect_blocks, sparsity
from tests.zoo import (
    D_FF,
    D_MODEL,
    FAMILIES,
    HEADS,
    make_model,
    random_inputs,
    silence_inputs_,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sparsities_have_the_dense_denominator(family: str) -> None:
    model = make_model(family)
    anatomy = anatomy_of(model)
    with torch.no_grad():
        for matrix in anatomy.matrices():  # nothing is near zero by chance
            matrix.copy_(torch.where(matrix < 0, matrix - 0.01, matrix + 0.01))
    dense = sum(m.numel() for m in anatomy.matrices())
    report = sparsity(anatomy)
    assert (report.dense_weights, report.weight_sparsity, report.structural_sparsity) == (
        dense,
        0,
        0,
    )
    heads = {b.name: range(HEADS) for b in anatomy.attentions[:1]}
    neurons = {b.name: [0, 1] for b in anatomy.mlps}
    gone = anatomy.attentions[0].weights_per_head * HEADS
    gone += sum(2 * b.weights_per_neuron for b in anatomy.mlps)
    shrink_(model, ShrinkPlan(heads, neurons))
    anatomy = anatomy_of(model)
    with torch.no_grad():
        anatomy.mlps[0].up_proj.weight[:3] = 0.0
        anatomy.mlps[0].up_proj.weight[3] = 1e-5
    report = sparsity(anatomy)
    assert report.dense_weights == dense
    assert report.structural_sparsity == pytest.approx(gone / dense)
    assert report.weight_sparsity == pytest.approx((gone + 3 * D_MODEL) / dense)
    assert sparsity(anatomy, 1e-4).zero_weights == 4 * D_MODEL
    assert report.to_dict()["weight_sparsity"] == report.weight_sparsity


@pytest.mark.parametrize("family", FAMILIES)
def test_removed_inputs_count_as_removed_weights(family: str) -> None:
    """Of units that are left and of units that went, before and after the inputs."""
    model = make_model(family)
    dense = anatomy_of(model).dense_weights
    silence_inputs_(anatomy_of(model), random_inputs(model, 6))
    masked = sparsity(anatomy_of(model))
    shrink_(model, ShrinkPlan(remove_inputs=random_inputs(model, 6)))
    shrunk = sparsity(anatomy_of(model))
    assert shrunk.dense_weights == dense
    assert shrunk.weight_sparsity == masked.weight_sparsity
    assert shrunk.kept_weights == dense - masked.zero_weights
    assert shrunk.zero_weights == 0
    first = anatomy_of(model).attentions[0].name
    shrink_(model, ShrinkPlan({first: range(HEADS)}, {anatomy_of(model).mlps[0].name: [0, 1]}))
    assert anatomy_of(model).dense_weights == dense
    blocks = inspect_blocks(anatomy_of(model))
    assert sum(b.sparsity.dense_weights for b in blocks) == dense
    assert sum(b.sparsity.kept_weights for b in blocks) == anatomy_of(model).kept_weights


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_sum_to_the_whole(family: str) -> None:
    model = make_model(family)
    first = anatomy_of(model).attentions[0].name
    shrink_(model, ShrinkPlan({first: range(HEADS)}))
    anatomy = anatomy_of(model)
    blocks = inspect_blocks(anatomy)
    assert sum(b.sparsity.dense_weights for b in blocks) == anatomy.dense_weights
    assert sum(b.sparsity.kept_weights for b in blocks) == sparsity(anatomy).kept_weights
    by_name = {b.name: b for b in blocks}
    assert by_name[first].units == 0
    assert by_name[first].dense_units == HEADS
    assert by_name[first].sparsity.structural_sparsity == 1.0


def test_connectivity_of_a_block_by_hand() -> None:
    model = make_model("bert")
    mlp = anatomy_of(model).mlps[0]
    with torch.no_grad():
        mlp.up_proj.weight.fill_(1.0)
        mlp.down_proj.weight.fill_(1.0)
        mlp.up_proj.weight[0, : D_MODEL // 2] = 0.0
    report = next(b for b in inspect_blocks(anatomy_of(model)) if b.name == mlp.name)
    rows = D_FF + D_MODEL
    mean = (rows - 0.5) / rows
    assert report.connectivity_mean == pytest.approx(mean)
    variance = ((rows - 1) * (1 - mean) ** 2 + (0.5 - mean) ** 2) / rows
    assert report.connectivity_sd == pytest.approx(variance**0.5)
    assert report.to_dict()["kind"] == "mlp"
