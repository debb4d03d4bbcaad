"""Ranking of heads beside neurons: a mean over weights does not make every head poor."""

from __future__ import annotations

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, Config, Connectivity, ProximalGroup
from neuroprune.core.importance import square_per_unit
from neuroprune.methods import method_for
from neuroprune.methods.connectivity import UnitConnectivity
from neuroprune.methods.units import unit_number
from tests.zoo import FAMILIES, make_model


@pytest.mark.parametrize("config", [L1(target=0.5), ProximalGroup(target=0.5)])
@pytest.mark.parametrize("family", ["bert", "t5-gated"])
def test_units_of_equal_weights_go_by_rank_and_not_by_kind(family: str, config: Config) -> None:
    anatomy = anatomy_of(make_model(family))
    with torch.no_grad():  # every neuron is poorer than every head, weight by weight
        for block in anatomy.attentions:
            for matrix in block.matrices():
                matrix.fill_(2.0)
        for mlp in anatomy.mlps:
            for matrix in mlp.matrices():
                matrix.fill_(1.0)
    method = method_for(config, total_steps=10)
    method.setup(anatomy, torch.optim.SGD(anatomy.model.parameters(), lr=0.1))
    small = method.select(anatomy, 0.2)
    assert small.num_neurons > 0
    assert small.num_heads == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_is_the_sum_of_squares(family: str) -> None:
    connectivity = UnitConnectivity(Connectivity.STRENGTH, 16)
    for block in anatomy_of(make_model(family)).blocks():
        *rows, column = block.matrices()
        expected = square_per_unit(rows, [column], unit_number(block))
        torch.testing.assert_close(connectivity.of(block), expected)
        total = sum(float(m.detach().square().sum()) for m in block.matrices())
        assert float(expected.sum()) == pytest.approx(total, rel=1e-5)
