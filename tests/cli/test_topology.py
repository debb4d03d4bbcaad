"""`neuroprune inspect --topology` on saved tiny models, with and without the dense one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import neuroprune
from neuroprune import ShrinkPlan, shrink_
from tests.cli.helpers import invoke

pytest.importorskip("networkx")
pytest.importorskip("powerlaw")

BLOCKS = [f"encoder.layer.{i}.{kind}" for kind in ("attention", "mlp") for i in (0, 1)]


@pytest.fixture(scope="module")
def pruned(place: Path) -> Path:
    """The tiny model without half of its neurons and without one head of four."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(place / "model")
    heads, neurons = (
        {name: list(gone) for name in names}
        for names, gone in ((BLOCKS[:2], range(1)), (BLOCKS[2:], range(0, 32, 2)))
    )
    shrink_(model, ShrinkPlan(heads, neurons))
    neuroprune.save_pretrained(model, place / "pruned")
    return place / "pruned"


def test_topology_is_part_of_the_json(pruned: Path) -> None:
    payload = json.loads(invoke("inspect", pruned, "--topology", "--json").stdout)
    assert list(payload["topology"]) == ["after"]
    blocks = payload["topology"]["after"]["blocks"]
    assert [block["name"] for block in blocks] == BLOCKS
    # 32 neurons were there and 16 are left; 4 heads of 4 features, and 3 are left.
    assert [block["degrees"]["units"] for block in blocks] == [16, 16, 32, 32]
    assert [block["degrees"]["living"] for block in blocks] == [12, 12, 16, 16]
    for block in blocks:
        assert 0.0 <= block["degrees"]["gini"] < 1.0
        assert 0.0 < block["backbone"]["density"] <= 1.0
        assert all(0.0 < rank["share"] <= 1.0 for rank in block["effective_rank"].values())


def test_before_adds_the_dense_graphs_and_a_reading(place: Path, pruned: Path) -> None:
    arguments = ["inspect", pruned, "--topology", "--before", place / "model"]
    topology = json.loads(invoke(*arguments, "--json").stdout)["topology"]
    assert sorted(topology) == ["after", "before", "reading"]
    before, after = topology["before"]["blocks"], topology["after"]["blocks"]
    assert [block["degrees"]["living"] for block in before] == [16, 16, 32, 32]
    assert [block["name"] for block in before] == [block["name"] for block in after]
    assert topology["reading"]
    text = " ".join(invoke(*arguments).stdout.split())
    assert "graphs of the layers, before -> after" in text
    for sentence in topology["reading"]:
        assert " ".join(sentence.split()) in text


def test_before_without_topology_is_refused(place: Path) -> None:
    result = invoke("inspect", place / "model", "--before", place / "model", code=2)
    assert "give --topology, too" in result.stderr
