"""What the report reads of a model is what `topology.structure` wrote of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from neuroprune.anatomy import anatomy_of
from neuroprune.report.figure import ReportError
from neuroprune.report.structures import ROLES, Structure, layer_names, read_structure
from neuroprune.topology.structure import BINS, GRID, dense_connections, structure
from tests.report.records import structure as made_up
from tests.zoo import D_FF, D_MODEL, HEADS, LAYERS, make_model

PATH = Path("results/t/ours/seed-1.json")
ATTENTION, MLP = ["Q", "K", "V", "O"], ["MLP-in", "MLP-out"]
CROSS = ["cross Q", "cross K", "cross V", "cross O"]


def read(data: dict[str, Any]) -> Structure:
    found = read_structure(data, PATH)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("family", "roles", "names"),
    [
        ("bert", ATTENTION + MLP, ["0", "1"]),
        ("distilbert", ATTENTION + MLP, ["0", "1"]),
        ("opt", ATTENTION + MLP, ["0", "1"]),
        ("bert-cross", ATTENTION + CROSS + MLP, ["0", "1"]),
        ("t5", ATTENTION + CROSS + MLP, ["enc 0", "enc 1", "dec 0", "dec 1"]),
        (
            "t5-gated",
            [*ATTENTION, *CROSS, "MLP-in", "MLP gate", "MLP-out"],
            ["enc 0", "enc 1", "dec 0", "dec 1"],
        ),
    ],
)
def test_every_block_and_matrix_of_a_model_has_a_place_of_its_own(
    family: str, roles: list[str], names: list[str]
) -> None:
    anatomy = anatomy_of(make_model(family))
    written = structure(anatomy)
    found = read({"dense": structure(anatomy, patterns=False), "pruned": written})
    assert (found.grid, found.bins) == (GRID, BINS)
    assert [block.name for block in found.pruned] == [block.name for block in anatomy.blocks()]
    assert found.has_patterns
    assert not any(m.pattern for block in found.dense for m in block.matrices.values())
    places = [(block.stack, block.layer, role) for block in found.pruned for role in block.matrices]
    assert len(set(places)) == len(places)
    assert [told for role, told in ROLES.items() if any(p[2] == role for p in places)] == roles
    assert layer_names(found.layers) == names
    assert [b.is_cross for b in found.attentions] == [b.is_cross for b in anatomy.attentions]
    assert found.heads_dense == found.heads_kept == HEADS * len(anatomy.attentions)
    for block, data in zip(found.pruned, written["blocks"], strict=True):
        for matrix, entry in zip(block.matrices.values(), data["matrices"].values(), strict=True):
            assert (matrix.density, matrix.mean) == (entry["density"], entry["degree_mean"])
            assert matrix.histogram == tuple(entry["degree_histogram"])
            assert matrix.pattern == bytes.fromhex(entry["pattern"])


def test_degrees_and_densities_are_those_of_the_connections() -> None:
    model = make_model("bert")
    anatomy = anatomy_of(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in anatomy.blocks():
            for matrix in block.matrices():
                matrix[torch.rand(matrix.shape, generator=generator) < 0.7] = 0.0
    found = read({"pruned": structure(anatomy)})
    for block, read_block in zip(anatomy.blocks(), found.pruned, strict=True):
        kept = range(read_block.dense_units)
        masks = dense_connections(block, kept, read_block.dense_units)
        for role, mask in masks.items():
            matrix, degrees = read_block.matrices[role], mask.double().mean(dim=1)
            assert matrix.rows == len(mask)
            assert matrix.density == pytest.approx(float(degrees.mean()), abs=1e-5)
            assert matrix.sd == pytest.approx(float(degrees.std(correction=0)), abs=1e-5)


def test_layers_are_told_apart_by_their_stack() -> None:
    data = {"pruned": structure(anatomy_of(make_model("t5")))}
    assert read(data).layers == tuple(
        (stack, layer) for stack in ("encoder", "decoder") for layer in range(LAYERS)
    )
    assert {b.dense_units for b in read(data).pruned if not b.is_attention} == {D_FF}
    assert D_MODEL == sum(read(data).pruned[0].matrices["q"].histogram)


def test_a_record_without_structure_has_none() -> None:
    assert read_structure({}, PATH) is None


def test_shape_is_what_two_models_must_share() -> None:
    def shape(**change: Any) -> tuple[tuple[str, int], ...]:
        data = made_up([[0], [1, 2]], [4, 4])
        data["pruned"] |= change
        return read(data).shape

    assert shape() == read(made_up([[3], []], [0, 8])).shape
    assert shape() != read(made_up([[0]], [4])).shape
    assert shape() != read(made_up([[0], [1, 2]], [4, 4], "decoder")).shape


def _set(*way: Any, value: Any) -> Any:
    """A change of one value, or its removal where the value is `...`."""

    def change(data: Any) -> None:
        for key in way[:-1]:
            data = data[key]
        if value is ...:
            del data[way[-1]]
        else:
            data[way[-1]] = value

    return change


_HEADS = ("dense", "blocks", 0, "importance")
_Q = ("pruned", "blocks", 0, "matrices", "q")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("pruned", value=...), "KeyError: 'pruned'"),
        (_set("pruned", value=[]), "TypeError"),
        (_set("dense", value=None), "AttributeError"),
        (_set("pruned", "grid", value="many"), "invalid literal"),
        (_set("pruned", "bins", value=...), "KeyError: 'bins'"),
        (_set("pruned", "blocks", value=3), "not iterable"),
        (_set("pruned", "blocks", 0, "kept", value=2), "not iterable"),
        (_set("pruned", "blocks", 0, "kept", value=[0, 9]), r"keeps \[0, 9\] of 4 units"),
        (_set("pruned", "blocks", 0, "kept", value=[1, 1]), r"keeps \[1, 1\] of 4 units"),
        (_set("pruned", "blocks", 1, "kept", value=9), "keeps 9 of 8 units"),
        (_set("pruned", "blocks", 1, "kept", value=-1), "keeps -1 of 8 units"),
        (_set("pruned", "blocks", 0, "matrices", value={"z": {}}), "'density'|'degree_histogram'"),
        (_set(*_HEADS, value=[1.0, 2.0]), "4 heads and the importance of 2"),
        (_set(*_HEADS, value=[1.0, 2.0, 3.0, -0.1]), r"at least 0, got \[1.0, 2.0, 3.0, -0.1\]"),
        (_set(*_HEADS, value=[1.0, 2.0, 3.0, float("nan")]), "at least 0"),
        (_set(*_Q, "pattern", value="ff"), "a pattern has 4 cells, got 1"),
        (_set(*_Q, "pattern", value="no hex"), "non-hexadecimal"),
        (_set(*_Q, "density", value=None), "TypeError"),
        (_set(*_Q, "density", value=1.5), r"in \[0, 1\]"),
        (_set(*_Q, "degree_sd", value=float("nan")), r"in \[0, 1\]"),
        (_set(*_Q, "degree_histogram", value=[1, 2]), "a histogram has 4 numbers of rows"),
        (_set(*_Q, "degree_histogram", value=[1, 2, -1, 0]), "a histogram has 4 numbers of rows"),
    ],
)
def test_a_damaged_structure_is_refused_and_its_file_named(change: Any, message: str) -> None:
    data = copy.deepcopy(made_up([[0, 1], [2, 3]], [4, 4]))
    change(data)
    with pytest.raises(ReportError, match=message) as caught:
        read_structure(data, PATH)
    assert str(caught.value).startswith(f"{PATH}: expected a structure")
    assert "Run the experiment again" in str(caught.value)


def test_a_matrix_of_no_known_role_is_refused() -> None:
    data = made_up([[0]], [4])
    matrices = data["pruned"]["blocks"][0]["matrices"]
    matrices["z"] = matrices["q"]
    with pytest.raises(ReportError, match=r"unknown matrices \['z'\] in encoder\.layer\.0"):
        read_structure(data, PATH)
