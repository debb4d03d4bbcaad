"""Reports of graphs: masked and shrunk agree, communities are found, and changes are told."""

from __future__ import annotations

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.config import ConfigError
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_
from neuroprune.topology.graph import GraphSettings, graph_report
from neuroprune.topology.networks import Network, modularity
from neuroprune.topology.reading import reading
from neuroprune.topology.structure import structure
from tests.zoo import FAMILIES, make_model, random_inputs, silence_inputs_

pytest.importorskip("networkx")
pytest.importorskip("powerlaw")


def _without_half_the_neurons(model: torch.nn.Module, shrink: bool) -> torch.nn.Module:
    anatomy = anatomy_of(model)
    gone = list(range(0, anatomy.mlps[0].d_ff, 2))
    if shrink:
        shrink_(model, ShrinkPlan({}, {b.name: gone for b in anatomy.mlps}))
        return model
    with torch.no_grad():
        for block in anatomy.mlps:
            for layer in block.fan_in():
                layer.weight[gone] = 0
            block.down_proj.weight[:, gone] = 0
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_and_shrunk_models_have_the_same_structure(family: str) -> None:
    masked = structure(anatomy_of(_without_half_the_neurons(make_model(family), shrink=False)))
    shrunk = structure(anatomy_of(_without_half_the_neurons(make_model(family), shrink=True)))
    for a, b in zip(masked["blocks"], shrunk["blocks"], strict=True):
        assert a["matrices"] == b["matrices"]
    densities = [m["density"] for b in shrunk["blocks"] for m in b["matrices"].values()]
    assert min(densities) == pytest.approx(0.5, abs=0.01)


def test_the_report_of_masked_and_shrunk_is_the_same() -> None:
    masked = graph_report(anatomy_of(_without_half_the_neurons(make_model("bert"), shrink=False)))
    shrunk = graph_report(anatomy_of(_without_half_the_neurons(make_model("bert"), shrink=True)))
    assert masked.to_dict() == shrunk.to_dict()


@pytest.mark.parametrize("family", ["bert-cross", "t5-gated"])
def test_masked_and_shrunk_inputs_have_the_same_structure_and_report(family: str) -> None:
    masked, shrunk = make_model(family), make_model(family)
    inputs = random_inputs(masked, 6)
    silence_inputs_(anatomy_of(masked), inputs)
    shrink_(shrunk, ShrinkPlan(remove_inputs=inputs))
    before, after = (structure(anatomy_of(model)) for model in (masked, shrunk))
    assert before == after
    fast = GraphSettings(sources=8, twins=1)
    before, after = (graph_report(anatomy_of(m), settings=fast) for m in (masked, shrunk))
    assert before.to_dict() == after.to_dict()


def test_a_change_is_read_and_no_change_is_not() -> None:
    dense = graph_report(anatomy_of(make_model("bert")))
    pruned = graph_report(anatomy_of(_without_half_the_neurons(make_model("bert"), shrink=True)))
    said = " ".join(reading(dense, pruned))
    assert "Gini" in said
    assert "Gini" not in " ".join(reading(dense, dense))


def test_reports_of_different_settings_cannot_be_compared() -> None:
    anatomy = anatomy_of(make_model("bert"))
    with pytest.raises(ConfigError):
        reading(graph_report(anatomy), graph_report(anatomy, eps=0.01))
    with pytest.raises(ConfigError):
        graph_report(anatomy, eps=-1.0)


def test_two_separate_halves_are_two_communities() -> None:
    halves = torch.zeros(16, 16, dtype=torch.bool)
    halves[:8, :8] = True
    halves[8:, 8:] = True
    whole = torch.ones(16, 16, dtype=torch.bool)
    assert modularity(Network(halves, halves), 0, 16) == pytest.approx(0.5, abs=0.02)
    assert modularity(Network(whole, whole), 0, 16) < 0.1
