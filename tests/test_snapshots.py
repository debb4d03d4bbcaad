"""One run, many sizes: staged ramps, nested reloadable models, and their list."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import neuroprune
from neuroprune.anatomy import anatomy_of
from neuroprune.config import L1, ConfigError, NeuroPrune
from neuroprune.pruner import attach
from neuroprune.snapshots import Average, folder_name, snapshots_for
from neuroprune.topology.sparsity import sparsity
from tests.zoo import inputs_for, logits, make_inputs, make_model


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


@pytest.mark.parametrize("idle", ["snapshot_dir", "evaluate"])
def test_a_place_without_snapshots_is_refused(idle: str, tmp_path: Path) -> None:
    model = make_model("bert")
    optimizer = torch.optim.AdamW(model.parameters())
    given: dict[str, Any] = {
        idle: tmp_path / "new" if idle == "snapshot_dir" else lambda trained: {}
    }
    with pytest.raises(ConfigError, match=f"{idle} would do nothing without snapshots"):
        attach(model, optimizer, NeuroPrune(target=0.8), 10, **given)
    with pytest.raises(ConfigError, match=idle):
        attach(model, optimizer, L1(strength=1.0), 10, **given)
    assert not (tmp_path / "new").exists()


def test_snapshots_beyond_the_target_are_refused() -> None:
    with pytest.raises(ConfigError, match="not below them"):
        NeuroPrune(target=0.5, snapshots=[0.8])
    with pytest.raises(ConfigError, match="structural target"):
        NeuroPrune(target="flops:0.5", snapshots=[0.4])


def structural(model: Any) -> float:
    return sparsity(anatomy_of(model)).structural_sparsity


@pytest.mark.parametrize("total", [25, 40, 90])
@pytest.mark.parametrize("begin", [0.0, 0.05])
def test_a_snapshot_is_taken_after_its_hold(total: int, begin: float, tmp_path: Path) -> None:
    """Between the top of a stage and its snapshot nothing is cut, and nothing exceeds it."""
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    config = NeuroPrune(target=0.8, snapshots=[0.3, 0.6], begin=begin, end=0.6)
    pruner = attach(model, optimizer, config, total, snapshot_dir=tmp_path)
    course = [0.0]
    for step in range(total):
        model(**inputs_for(model, "bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        course.append(structural(model))
    pruner.finish()
    first, second, _ = pruner.snapshots.taken
    for entry in (first, second):
        step, reached = entry["step"], entry["structural_sparsity"]
        assert course[step] == reached <= entry["asked"] + 1e-9
        span = (round(0.6 * total) - round(begin * total)) / 3
        hold = int(0.4 * span) - 1
        assert set(course[step - max(hold, 0) : step + 1]) == {reached}
    assert course[-1] >= 0.8


def test_a_snapshot_beside_the_target_keeps_its_own_place(tmp_path: Path) -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    config = NeuroPrune(target=0.505, snapshots=[0.5], end=0.8)
    pruner = attach(model, optimizer, config, 40, snapshot_dir=tmp_path)
    for step in range(40):
        model(**inputs_for(model, "bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.finish()
    assert [e["asked"] for e in pruner.snapshots.taken] == [0.5, 0.505]
    names = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert names == {"structural-0.5", "structural-0.505"}
    assert pruner.snapshots.taken[-1]["structural_sparsity"] == structural(model) >= 0.505


@pytest.mark.parametrize(
    ("budget", "name"),
    [(0.5, "0.5"), (0.85, "0.85"), (0.9999, "0.9999"), (0.80005, "0.80005")],
)
def test_folders_are_named_after_the_budget(budget: float, name: str) -> None:
    assert folder_name(budget) == f"structural-{name}"


def test_what_cannot_be_taken_is_refused_before_a_step(tmp_path: Path) -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = NeuroPrune(target=0.8, snapshots=[0.2, 0.6])
    with pytest.raises(ConfigError, match=r"longer training"):
        attach(model, optimizer, config, 8, snapshot_dir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="directory for snapshots"):
        attach(model, optimizer, config, 60, snapshot_dir=tmp_path / "file")
    everything = range(anatomy_of(model).mlps[0].d_ff)
    plan = neuroprune.ShrinkPlan(
        remove_neurons={b.name: list(everything)[:-2] for b in anatomy_of(model).mlps}
    )
    neuroprune.shrink_(model, plan, optimizer)
    attach(model, optimizer, config, 60, snapshot_dir=tmp_path / "new")
    model(**make_inputs("bert")).loss.backward()
    with pytest.raises(ConfigError, match=r"above the model's structural sparsity.*0\.2\]"):
        optimizer.step()


def test_measuring_does_not_change_the_training(tmp_path: Path) -> None:
    """Random numbers and batches that `evaluate` uses up are its own."""

    def weights(evaluate: Any, folder: str) -> list[torch.Tensor]:
        model = make_model("bert").train()
        model.config.hidden_dropout_prob = 0.1
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        config = NeuroPrune(target=0.5, snapshots=[0.2], end=0.8, connectivity="mixed")
        pruner = attach(
            model, optimizer, config, 20, snapshot_dir=tmp_path / folder, evaluate=evaluate
        )
        torch.manual_seed(0)
        for step in range(20):
            model(**inputs_for(model, "bert", step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        pruner.finish()
        return list(model.parameters())

    def noisy(model: Any) -> dict[str, float]:
        model(**make_inputs("bert"))
        return {"noise": float(torch.randn(3).sum()), "nothing": float("nan")}

    with_it, without = weights(noisy, "a"), weights(None, "b")
    assert all(torch.equal(p, q) for p, q in zip(with_it, without, strict=True))
    metrics = json.loads((tmp_path / "a" / "snapshots.json").read_text())[0]["metrics"]
    assert metrics["nothing"] is None


def test_what_is_saved_on_the_way_is_the_mean_since_the_last_cut(tmp_path: Path) -> None:
    """By hand, the step t after the cut counting t times; training goes on with its own weights."""
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    config = NeuroPrune(target=0.8, snapshots=[0.3], begin=0.0, end=1.0)
    pruner = attach(model, optimizer, config, 40, snapshot_dir=tmp_path)
    seen: list[dict[str, torch.Tensor]] = []
    for step in range(24):
        model(**inputs_for(model, "bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if pruner.method.snapshot_held:
            seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert len(seen) == 9  # the stage of 20 steps rises for 12, and what follows is held
    saved = neuroprune.from_pretrained(tmp_path / "structural-0.3").state_dict()
    times = torch.arange(1.0, 10.0)
    for name, now in seen[-1].items():
        mean = sum(t * held[name] for t, held in zip(times, seen, strict=True)) / times.sum()
        torch.testing.assert_close(saved[name], mean)
        assert torch.equal(saved[name], now) == torch.equal(now, seen[0][name])
    assert pruner.snapshots.average.steps == 0
    pruner.detach()


def test_a_run_that_is_resumed_before_a_snapshot_says_what_it_will_be(tmp_path: Path) -> None:
    def start(model: Any) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        config = NeuroPrune(target=0.5, snapshots=[0.3], begin=0.0, end=1.0)
        return optimizer, attach(model, optimizer, config, 40, snapshot_dir=tmp_path / "all")

    def go(model: Any, optimizer: Any, steps: range) -> None:
        for step in steps:
            model(**inputs_for(model, "bert", step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    model = make_model("bert").train()
    optimizer, pruner = start(model)
    go(model, optimizer, range(16))
    neuroprune.save_pretrained(model, tmp_path / "half")
    state = json.loads(json.dumps(pruner.state_dict()))
    model = neuroprune.from_pretrained(tmp_path / "half").train()
    optimizer, resumed = start(model)
    with pytest.warns(UserWarning, match="this snapshot will be the mean from here on"):
        resumed.load_state_dict(state)
    go(model, optimizer, range(16, 20))
    assert resumed.snapshots.taken[0]["steps_averaged"] == 4
    resumed.detach()


def test_the_mean_begins_anew_where_parameters_were_replaced() -> None:
    model = make_model("bert").to(torch.bfloat16)
    average = Average()
    for _ in range(3):
        average.add_(model)
    model.classifier.weight.requires_grad_(False)
    average.add_(model)
    assert average.steps == 1
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.add_(model)
    held = {name: p.clone() for name, p in model.named_parameters()}
    with average.in_place():  # (w + 2 (w + 1)) / 3, what is frozen as it is
        for name, p in model.named_parameters():
            expected = held[name] if name == "classifier.weight" else held[name] - 1 / 3
            torch.testing.assert_close(p, expected, rtol=0, atol=0.02)
    assert all(torch.equal(p, held[name]) for name, p in model.named_parameters())


def test_the_last_snapshot_is_the_model_itself(tmp_path: Path) -> None:
    model = make_model("bert").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    config = NeuroPrune(target=0.5, snapshots=[0.3], begin=0.0, end=1.0)
    pruner = attach(model, optimizer, config, 40, snapshot_dir=tmp_path)
    for step in range(16):  # ends while the mean for 0.3 is taken
        model(**inputs_for(model, "bert", step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert pruner.snapshots.average.steps
    with pytest.warns(UserWarning, match="training ends after 16 optimizer steps"):
        pruner.finish()
    saved = neuroprune.from_pretrained(tmp_path / "structural-0.5").state_dict()
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())


def test_pythons_and_numpys_random_numbers_go_on(tmp_path: Path) -> None:
    draw = np.random.rand

    def noisy(model: Any) -> dict[str, float]:
        return {"noise": random.random() + draw()}

    after = []
    for evaluate in (noisy, None):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        config = NeuroPrune(target=0.8, snapshots=[0.5])
        snapshots_for(config, tmp_path, evaluate).follow(make_model("bert"), 1, False, 0.5)
        after.append((random.random(), draw()))
    assert after[0] == after[1]


def test_a_resumed_run_goes_on_with_its_list(tmp_path: Path) -> None:
    """Stopped between two snapshots: the same models, and each is listed once."""

    def go(model: Any, optimizer: Any, pruner: Any, steps: range) -> None:
        model.train()
        for step in steps:
            model(**inputs_for(model, "bert", step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def start(model: Any, folder: str) -> tuple[Any, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        config = NeuroPrune(target=0.8, snapshots=[0.3, 0.6], begin=0.05, end=0.8)
        return optimizer, attach(model, optimizer, config, 60, snapshot_dir=tmp_path / folder)

    whole = make_model("bert")
    optimizer, pruner = start(whole, "whole")
    go(whole, optimizer, pruner, range(60))
    pruner.finish()

    first = make_model("bert")
    optimizer, half = start(first, "parts")
    go(first, optimizer, half, range(25))
    assert [e["asked"] for e in half.snapshots.taken] == [0.3]
    neuroprune.save_pretrained(first, tmp_path / "half")
    state = json.loads(json.dumps(half.state_dict()))
    second = neuroprune.from_pretrained(tmp_path / "half")
    optimizer, resumed = start(second, "parts")
    resumed.load_state_dict(state)
    go(second, optimizer, resumed, range(25, 60))
    resumed.finish()
    assert resumed.snapshots.taken == pruner.snapshots.taken
    assert resumed.removed == pruner.removed
    listed = json.loads((tmp_path / "parts" / "snapshots.json").read_text())
    assert listed == pruner.snapshots.taken
