"""The GPU benchmark, on the CPU with small shapes: what it builds and counts, not how fast."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import gpu_speed

import neuroprune
from neuroprune.bench.tables import measurement_table
from neuroprune.record import RunRecord
from neuroprune.topology.sparsity import sparsity


def _tiny_t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=30100,
        d_model=16,
        d_kv=4,
        d_ff=40,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def test_without_a_device_it_says_so_and_exits_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_speed.main([]) == 3
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("shape", gpu_speed.SHAPES, ids=lambda shape: shape.name)
def test_an_even_plan_removes_the_share_asked_for(shape: gpu_speed.Shape, wanted: float) -> None:
    with torch.device("meta"):
        model = shape.build()
    plan = gpu_speed.even_plan(model, wanted)
    anatomy = neuroprune.anatomy_of(model)
    per_head = {block.name: block.weights_per_head for block in anatomy.attentions}
    per_neuron = {block.name: block.weights_per_neuron for block in anatomy.mlps}
    gone = sum(len(units) * per_head[name] for name, units in plan.remove_heads.items())
    gone += sum(len(units) * per_neuron[name] for name, units in plan.remove_neurons.items())
    assert gone / anatomy.dense_weights == pytest.approx(wanted, abs=0.001)
    assert len(set(map(len, plan.remove_heads.values()))) == 1
    assert len(set(map(len, plan.remove_neurons.values()))) == 1


def test_a_model_of_an_even_plan_is_that_sparse() -> None:
    model = _tiny_t5()
    neuroprune.shrink_(model, gpu_speed.even_plan(model, 0.5))
    assert sparsity(neuroprune.anatomy_of(model)).structural_sparsity == pytest.approx(0.5)


def test_every_workload_is_measured_at_every_sparsity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_speed, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_speed, "NEW_TOKENS", 3)
    shape = gpu_speed.Shape("tiny", _tiny_t5, decodes=True)
    rows = gpu_speed.measure(shape, "bf16", [2], tokens=8, repeats=3)
    assert len(rows) == 2 * len(gpu_speed.SPARSITIES)
    assert "speedup" not in rows["tiny generate bf16 batch 2 at 0%"]
    assert rows["tiny generate bf16 batch 2 at 95%"]["speedup"] > 0.0
    dense, small = (rows[f"tiny forward bf16 batch 2 at {s}"] for s in ("0%", "80%"))
    assert small["parameters_M"] < dense["parameters_M"]
    assert small["structural_sparsity"] > 0.6


@pytest.mark.parametrize(("budget", "measured"), [(1e9, 2), (0.0, 1)])
def test_parts_are_recorded_one_by_one_within_the_time_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget: float, measured: int
) -> None:
    """The first part always runs; how long the next takes is judged by it."""
    monkeypatch.setattr(gpu_speed, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_speed, "NEW_TOKENS", 3)
    monkeypatch.setattr(gpu_speed, "SHAPES", (gpu_speed.Shape("tiny", _tiny_t5, decodes=False),))
    options = argparse.Namespace(batches=[1], tokens=8, repeats=3, budget=budget, results=tmp_path)
    left_out = gpu_speed.measure_all(options, "A Device 9")
    assert left_out == ["tiny-fp32", "tiny-bf16"][measured:]
    written = sorted(tmp_path.rglob("*.json"))
    assert [path.parent.name for path in written] == sorted(["tiny-fp32", "tiny-bf16"][:measured])
    record = RunRecord.load(written[-1])
    assert written[-1].parent.parent.name == "a-device-9"
    assert len(record.speeds) == len(gpu_speed.SPARSITIES)
    assert record.environment["wall_seconds"] >= 0.0
    assert "| tiny forward fp32 batch 1 at 80% |" in measurement_table(tmp_path, "gpu_speed")
