"""plan.py: cuts compose, survive JSON, and refuse what contradicts itself or does not fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.lineage import FORMAT_VERSION, WIDTH_VERSION, Lineage
from neuroprune.plan import PlanError, ShrinkPlan
from tests import strategies as draw

HEAD_DIM = 2


class ToyModel:
    """Attention blocks as (head labels, W_O) and MLP blocks as neuron labels, integers only."""

    def __init__(self, sizes: draw.Sizes) -> None:
        rng = np.random.default_rng(0)
        self.labels = {block: list(range(n)) for block, n in sizes["heads"].items()}
        self.w_o = {
            block: rng.integers(-9, 10, (3, n * HEAD_DIM)) for block, n in sizes["heads"].items()
        }
        self.neurons = {block: list(range(n)) for block, n in sizes["neurons"].items()}
        self.inputs = {block: list(range(n)) for block, n in sizes["inputs"].items()}

    def apply(self, plan: ShrinkPlan) -> ToyModel:
        """Merge, then delete: what reads head i is added to what reads head j, and i goes."""
        for block, merges in plan.merge_heads.items():
            w_o = self.w_o[block].reshape(3, -1, HEAD_DIM)
            for i, j in merges.items():
                w_o[:, j] += w_o[:, i]
        for block, gone in plan.remove_heads.items():
            kept = [i for i in range(len(self.labels[block])) if i not in gone]
            self.labels[block] = [self.labels[block][i] for i in kept]
            w_o = self.w_o[block].reshape(3, -1, HEAD_DIM)
            self.w_o[block] = w_o[:, kept].reshape(3, -1)
        for block, gone in plan.remove_neurons.items():
            self.neurons[block] = [
                label for i, label in enumerate(self.neurons[block]) if i not in gone
            ]
        for block, groups in plan.remove_inputs.items():
            gone = groups[draw.GROUP]
            self.inputs[block] = [x for i, x in enumerate(self.inputs[block]) if i not in gone]
        return self

    def state(self) -> dict[str, Any]:
        w_o = {block: matrix.tolist() for block, matrix in self.w_o.items()}
        return {
            "labels": self.labels,
            "w_o": w_o,
            "neurons": self.neurons,
            "inputs": self.inputs,
        }


# --- composition ---------------------------------------------------------------------------------


@given(chain=draw.plan_chains(2))
def test_then_equals_one_cut_after_the_other(
    chain: tuple[draw.Sizes, tuple[ShrinkPlan, ...]],
) -> None:
    sizes, (a, b) = chain
    at_once = ToyModel(sizes).apply(a.then(b))
    one_by_one = ToyModel(sizes).apply(a).apply(b)
    assert at_once.state() == one_by_one.state()
    assert a.then(b).num_heads == a.num_heads + b.num_heads
    assert a.then(b).num_neurons == a.num_neurons + b.num_neurons
    assert a.then(b).num_inputs == a.num_inputs + b.num_inputs


@given(chain=draw.plan_chains(3))
def test_then_is_associative(chain: tuple[draw.Sizes, tuple[ShrinkPlan, ...]]) -> None:
    sizes, (a, b, c) = chain
    assert a.then(b).then(c) == a.then(b.then(c))
    assert ToyModel(sizes).apply(a.then(b).then(c)).state() == (
        ToyModel(sizes).apply(a).apply(b).apply(c).state()
    )


@given(chain=draw.plan_chains(1))
def test_the_empty_plan_is_neutral(chain: tuple[draw.Sizes, tuple[ShrinkPlan, ...]]) -> None:
    _, (plan,) = chain
    nothing = ShrinkPlan()
    assert plan.then(nothing) == plan == nothing.then(plan)
    assert not nothing
    assert bool(plan) == bool(plan.num_heads + plan.num_neurons + plan.num_inputs)
    assert bool(plan.blocks()) == bool(plan)


def test_then_leaves_both_plans_alone() -> None:
    a = ShrinkPlan({"x": [0]}, {"m": [1]}, {"x": {1: 2}})
    b = ShrinkPlan({"x": [0]}, {"m": [1]})
    before = a.to_dict(), b.to_dict()
    a.then(b)
    assert (a.to_dict(), b.to_dict()) == before


def test_chains_of_merges_by_hand() -> None:
    """Five heads: 0 -> 2, then what was 2 -> what was 4, then what was 4 goes outright."""
    first = ShrinkPlan(merge_heads={"x": {0: 2}})
    second = ShrinkPlan(merge_heads={"x": {1: 3}})  # left: 1 2 3 4
    assert first.then(second).merge_heads == {"x": {0: 4, 2: 4}}
    third = ShrinkPlan(remove_heads={"x": [2]})  # left: 1 3 4
    dropped = first.then(second).then(third)
    assert dropped.remove_heads == {"x": (0, 2, 4)}
    assert dropped.merge_heads == {}


# --- the value ------------------------------------------------------------------------------------


@given(chain=draw.plan_chains(1))
def test_json_round_trip(chain: tuple[draw.Sizes, tuple[ShrinkPlan, ...]]) -> None:
    _, (plan,) = chain
    read = ShrinkPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert read == plan
    assert hash(read) == hash(plan)


def test_one_line_by_hand_is_normalised() -> None:
    plan = ShrinkPlan(remove_heads={"b": [3, 1, 1], "a": []}, merge_heads={"b": {0: 2}, "c": {}})
    assert plan.remove_heads == {"b": (0, 1, 3)}  # keys of merge_heads are removed too
    assert plan.merge_heads == {"b": {0: 2}}
    assert plan.blocks() == {"b"}
    assert (plan.num_heads, plan.num_neurons) == (3, 0)
    assert ShrinkPlan(remove_neurons={"m": np.array([4, 2])}).remove_neurons == {"m": (2, 4)}
    assert plan != ShrinkPlan(remove_heads={"b": [0, 1, 3]})
    assert plan != "plan"


def test_a_plan_cannot_be_changed() -> None:
    plan = ShrinkPlan({"x": [1]}, merge_heads={"x": {0: 2}})
    with pytest.raises(AttributeError):
        plan.remove_heads = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.remove_heads["x"] = (0,)  # type: ignore[index]
    with pytest.raises(TypeError):
        plan.merge_heads["x"][1] = 2  # type: ignore[index]


def test_a_plan_and_a_lineage_can_be_copied() -> None:
    """A model that carries them is copied whole by averaging, ensembling and saving callbacks."""
    plan = ShrinkPlan({"x": [1]}, {"m": [0]}, {"x": {0: 2}})
    lineage = Lineage("toy", {"x": 4}, {"m": 2}, plan)
    assert copy.deepcopy(plan) == plan
    assert copy.deepcopy(lineage).to_dict() == lineage.to_dict()


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[0.5], [1.0], ["1"], [True], [None], [[0]]])
def test_an_index_that_is_no_integer_is_refused(values: list[Any]) -> None:
    for field in ("remove_heads", "remove_neurons"):
        with pytest.raises(PlanError, match=rf"{field}\['x'\]: expected integer indices, got"):
            ShrinkPlan(**{field: {"x": values}})
    if not isinstance(values[0], list):
        with pytest.raises(PlanError, match=r"merge_heads\['x'\]: expected integer indices, got"):
            ShrinkPlan(merge_heads={"x": {values[0]: 2}})
        with pytest.raises(PlanError, match=r"merge_heads\['x'\]: expected integer indices, got"):
            ShrinkPlan(merge_heads={"x": {2: values[0]}})


def test_a_negative_index_is_refused() -> None:
    message = "index -1 is negative. Count units from 0, as `neuroprune inspect`"
    for plan in (
        {"remove_heads": {"x": [-1]}},
        {"remove_neurons": {"x": [3, -1]}},
        {"merge_heads": {"x": {-1: 0}}},
        {"merge_heads": {"x": {0: -1}}},
    ):
        with pytest.raises(PlanError, match=message):
            ShrinkPlan(**plan)


@pytest.mark.parametrize(
    ("heads", "merges"), [([], {1: 1}), ([2], {1: 2}), ([], {0: 1, 1: 2}), ([], {0: 1, 1: 0})]
)
def test_merging_into_a_removed_head_is_refused(heads: list[int], merges: dict[int, int]) -> None:
    with pytest.raises(PlanError, match=r"itself removed\. Merge into a head that stays"):
        ShrinkPlan(remove_heads={"x": heads}, merge_heads={"x": merges})


GOOD = ShrinkPlan({"x": [1]}, {"m": [0]}, {"x": {0: 2}}).to_dict()


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        "plan",
        {**GOOD, "extra": {}},
        {key: value for key, value in GOOD.items() if key != "merge_heads"},
    ],
)
def test_other_keys_than_a_plans_are_refused(data: Any) -> None:
    with pytest.raises(PlanError, match=r"a plan has the keys \['merge_heads'.*got"):
        ShrinkPlan.from_dict(data)


@pytest.mark.parametrize(
    "bad",
    [
        {"remove_heads": ["x"]},
        {"remove_heads": {"x": 3}},
        {"remove_neurons": None},
        {"merge_heads": {"x": [0, 2]}},
        {"merge_heads": {"x": {"zero": 2}}},
        {"merge_heads": {"x": {"0": "two"}}},
        {"merge_heads": {"x": {"0": 2.5}}},
        {"merge_heads": {"x": {"0": None}}},
    ],
)
def test_damaged_values_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        ShrinkPlan.from_dict({**GOOD, **bad})


@pytest.mark.parametrize(
    "plan",
    [
        {"remove_heads": {"x": 3}},
        {"remove_neurons": {"m": 3}},
        {"merge_heads": {"x": [1]}},
        {"remove_inputs": {"x": [1]}},
        {"remove_inputs": {"x": {"qkv": 1}}},
    ],
)
def test_a_bare_index_instead_of_a_list_is_refused(plan: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        ShrinkPlan(**plan)


# --- lineage --------------------------------------------------------------------------------------


@given(chain=draw.plan_chains(3))
def test_lineage_names_the_dense_units_that_are_left(
    chain: tuple[draw.Sizes, tuple[ShrinkPlan, ...]],
) -> None:
    sizes, cuts = chain
    inputs = {b: {draw.GROUP: n} for b, n in sizes["inputs"].items()}
    lineage = Lineage("toy", sizes["heads"], sizes["neurons"], inputs=inputs)
    toy = ToyModel(sizes)
    for plan in cuts:
        lineage = lineage.then(plan)
        toy.apply(plan)
        assert {b: list(lineage.kept_heads(b)) for b in sizes["heads"]} == toy.labels
        assert {b: list(lineage.kept_neurons(b)) for b in sizes["neurons"]} == toy.neurons
        assert {b: list(lineage.kept_inputs(b, draw.GROUP)) for b in inputs} == toy.inputs
    assert ToyModel(sizes).apply(lineage.plan).state() == toy.state()  # replay on load
    read = Lineage.from_dict(json.loads(json.dumps(lineage.to_dict())))
    assert read == lineage
    assert read.to_dict() == lineage.to_dict()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (ShrinkPlan({"y": [0]}), r"attention block 'y'.* toy model .*attention blocks: a, b"),
        (ShrinkPlan(None, {"y": [0]}), r"MLP block 'y'.* toy model .*MLP blocks: m"),
        (ShrinkPlan({"a": [4]}), r"removes unit 4 of 'a', which has 4 .*made for another model"),
        (ShrinkPlan(None, {"m": [0, 9]}), r"removes unit 9 of 'm', which has 8"),
        (ShrinkPlan(merge_heads={"a": {0: 4}}), r"merges into head 4 of 'a', which has 4 .*model"),
        (ShrinkPlan(remove_inputs={"b": {"q": [0]}}), r"inputs 'q' of 'b'.*block is not there"),
        (ShrinkPlan(remove_inputs={"a": {"kv": [0]}}), r"inputs 'kv' of 'a'.*groups: 'qkv'"),
        (ShrinkPlan(remove_inputs={"a": {"qkv": [6]}}), r"input 6 of 'qkv' of 'a', which reads 6"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: ShrinkPlan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Lineage("toy", {"a": 4, "b": 2}, {"m": 8}, plan, {"a": {"qkv": 6}})


def test_a_later_plan_counts_the_units_that_are_left() -> None:
    lineage = Lineage("toy", {"a": 4}, {"m": 8}, ShrinkPlan({"a": [0, 1]}))
    assert lineage.then(ShrinkPlan({"a": [1]})).kept_heads("a") == (2,)
    assert lineage.then(ShrinkPlan({"a": [0, 1]})).kept_heads("a") == ()
    with pytest.raises(PlanError, match="removes unit 2 of 'a', which has 2"):
        lineage.then(ShrinkPlan({"a": [2]}))


def lineage_dict(**changes: Any) -> dict[str, Any]:
    good = Lineage("toy", {"x": 4}, {"m": 2}, ShrinkPlan.from_dict(GOOD)).to_dict()
    return {**good, **changes}


@pytest.mark.parametrize("version", [WIDTH_VERSION + 1, 0, None, "1"])
def test_another_format_version_is_refused(version: Any) -> None:
    expected = f"{FORMAT_VERSION} or {WIDTH_VERSION}"
    message = rf"version {expected}, got {version!r}.*neuroprune that wrote it, or update"
    with pytest.raises(PlanError, match=message):
        Lineage.from_dict(lineage_dict(format_version=version))


@pytest.mark.parametrize("data", [{}, [], None, 3])
def test_what_is_no_lineage_is_refused(data: Any) -> None:
    with pytest.raises(PlanError, match="got None"):
        Lineage.from_dict(data)


@pytest.mark.parametrize(
    "changes", [{"heads": 3}, {"heads": ["x"]}, {"neurons": None}, {"heads": {"x": "4"}}]
)
def test_a_damaged_lineage_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="damaged"):
        Lineage.from_dict(lineage_dict(**changes))


@pytest.mark.parametrize("key", ["model_type", "heads", "neurons", "plan"])
def test_a_lineage_without_a_key_is_refused(key: str) -> None:
    data = {name: value for name, value in lineage_dict().items() if name != key}
    with pytest.raises(PlanError, match=rf"damaged.*{key}"):
        Lineage.from_dict(data)


# --- hidden dimensions ---------------------------------------------------------------------------


@given(
    width=st.integers(1, 12),
    data=st.data(),
)
def test_hidden_dimensions_compose_and_survive_json(width: int, data: st.DataObject) -> None:
    left = list(range(width))
    lineage = Lineage("toy", {"a": 4}, {"m": 8}, width=width)
    for _ in range(3):
        gone = data.draw(st.sets(st.integers(0, len(left) - 1), max_size=len(left) - 1))
        lineage = lineage.then(ShrinkPlan(remove_hidden=gone))
        left = [k for i, k in enumerate(left) if i not in gone]
    assert lineage.kept_hidden() == tuple(left)
    assert lineage.restricted_to(["a"]).kept_hidden() == tuple(left)
    read = Lineage.from_dict(json.loads(json.dumps(lineage.to_dict())))
    assert read == lineage and bool(read.plan) == (len(left) < width)
    assert copy.deepcopy(lineage) == lineage


def test_where_no_hidden_dimension_goes_the_files_are_those_of_before() -> None:
    lineage = Lineage("toy", {"a": 4}, {"m": 8}, ShrinkPlan({"a": [1]}), width=32)
    assert lineage.to_dict()["format_version"] == FORMAT_VERSION
    assert "width" not in lineage.to_dict() and "remove_hidden" not in lineage.plan.to_dict()
    narrow = lineage.then(ShrinkPlan(remove_hidden=[0]))
    assert narrow.to_dict()["format_version"] == WIDTH_VERSION


@pytest.mark.parametrize(
    ("hidden", "width", "message"),
    [
        ([0], None, "is not declared"),
        ([4], 4, "up to 4 .* of a model with 4"),
        ([0, 1], 2, "one at least has to stay"),
        ([0], "4", "is not declared"),
        ([-1], 4, "remove_hidden: index -1 is negative"),
        ("0", 4, "remove_hidden: expected a list"),
        (None, 4, "remove_hidden: expected a list"),
        ([True], 4, "remove_hidden: expected integer"),
    ],
)
def test_hidden_dimensions_that_do_not_fit_are_refused(
    hidden: Any, width: Any, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        Lineage("toy", {"a": 4}, {}, ShrinkPlan(remove_hidden=hidden), width=width)
