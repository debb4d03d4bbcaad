"""One run, many sizes: staged ramps, nested reloadable models, and their list."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import ConfigError, NeuroPrune
from neuroprune.control.schedule import cubic_sparsity, stage_ends, staged_progress
from neuroprune.pruner import attach
from neuroprune.topology.sparsity import sparsity
from tests.zoo import inputs_for, logits, make_inputs, make_model

levels = st.lists(st.floats(0.05, 0.95), max_size=4, unique=True).map(lambda x: [*sorted(x), 1.0])


@given(levels, st.integers(10, 300), st.floats(0.0, 0.4), st.floats(0.1, 0.6))
def test_a_staged_ramp_never_falls_and_holds_at_its_levels(
    marks: list[float], total: int, begin: float, length: float
) -> None:
    end = begin + length
    path = [staged_progress(t, total, marks, begin, end) for t in range(total + 1)]
    assert path == sorted(path) and path[0] == pytest.approx(0.0, abs=1e-9)
    assert path[-1] == pytest.approx(1.0)
    for level, stop in zip(marks, stage_ends(len(marks), begin, end), strict=True):
        at_stop = staged_progress(int(stop * total) - 1, total, marks, begin, end)
        assert at_stop <= level + 1e-9
    for level, stop in zip(marks[:-1], stage_ends(len(marks), begin, end)[:-1], strict=True):
        if 0.2 * length / len(marks) * total > 1:  # a whole step lies in the hold
            step = int((stop - 0.1 * length / len(marks)) * total)
            assert staged_progress(step, total, marks, begin, end) == pytest.approx(level)


@given(st.integers(0, 100))
def test_one_level_is_the_cubic_ramp(step: int) -> None:
    expected = cubic_sparsity(step, 100, 1.0, 0.1, 0.6)
    assert staged_progress(step, 100, [1.0], 0.1, 0.6) == pytest.approx(expected)


def run(family: str, folder: Path | None, **settings: Any) -> tuple[Any, Any]:
    model = make_model(family).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = NeuroPrune(target=0.8, snapshots=[0.3, 0.6], end=0.8, **settings)

    def quality(trained: Any) -> dict[str, float]:
        assert not trained.training and not torch.is_grad_enabled()
        return {"size": float(sum(p.numel() for p in trained.parameters()))}

    pruner = attach(model, optimizer, config, 60, snapshot_dir=folder, evaluate=quality)
    for step in range(60):
        assert model.training
        model(**inputs_for(model, family, step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    return model, pruner


@pytest.mark.parametrize("family", ["bert", "t5", "opt"])
def test_snapshots_are_reloadable_nested_and_listed(family: str, tmp_path: Path) -> None:
    model, pruner = run(family, tmp_path)
    listed = json.loads((tmp_path / "snapshots.json").read_text())
    assert listed == pruner.snapshots.taken
    assert [entry["asked"] for entry in listed] == [0.3, 0.6, 0.8]
    kept: list[dict[str, set[int]]] = []
    for entry in listed:
        loaded = neuroprune.from_pretrained(tmp_path / entry["path"])
        anatomy = anatomy_of(loaded)
        reached = sparsity(anatomy).structural_sparsity
        assert reached == pytest.approx(entry["structural_sparsity"])
        # On the way at most one head's worth too little: 9% of these tiny models.
        assert entry["asked"] - 0.1 <= reached <= entry["asked"] + 0.012
        assert entry["metrics"]["size"] == sum(p.numel() for p in loaded.parameters())
        heads = {b.name: set(anatomy.lineage.kept_heads(b.name)) for b in anatomy.attentions}
        neurons = {b.name: set(anatomy.lineage.kept_neurons(b.name)) for b in anatomy.mlps}
        kept.append(heads | neurons)
    for bigger, smaller in itertools.pairwise(kept):
        assert all(smaller[name] <= bigger[name] for name in bigger)
    inputs = make_inputs(family)
    torch.testing.assert_close(logits(loaded, inputs), logits(model, inputs))


def test_a_plain_loop_must_say_where() -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ConfigError, match="snapshot_dir=PATH"):
        attach(model, optimizer, NeuroPrune(target=0.8, snapshots=[0.5]), 10)


def test_snapshots_beyond_the_target_are_refused() -> None:
    with pytest.raises(ConfigError, match="not below them"):
        NeuroPrune(target=0.5, snapshots=[0.8])
    with pytest.raises(ConfigError, match="structural target"):
        NeuroPrune(target="flops:0.5", snapshots=[0.4])
