"""Made-up records of one experiment, as many settings and seeds as a test asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroprune.record import RunRecord

HEADS, NEURONS, GRID, BINS = 4, 8, 2, 4  # of a made-up layer, and of what is told of its matrices


def made_up(
    seed: int, accuracy: float, sparsity: float, speedup: float, method: str = "neuroprune"
) -> RunRecord:
    """A record whose dense model has an accuracy of 0.88 + 0.01 * seed."""
    dense = 0.88 + 0.01 * seed
    values: dict[str, Any] = {
        "metrics": {
            "names": ["accuracy"],
            "dense": {"accuracy": dense},
            "pruned": {"accuracy": accuracy},
        },
        "sizes": {
            "dense": {"structural_sparsity": 0.0},
            "pruned": {"structural_sparsity": sparsity, "weight_sparsity": sparsity},
        },
        "speeds": {
            "dense": {"32": {"median": 0.2, "tokens": 64}},
            "conditions": {"timed": "forward pass"},
            "speedup": {"pruned": {"32": {"value": speedup}}},
        },
        "training": {"dense": {"seconds": 100.0}, "pruned": {"seconds": 60.0 + 10.0 * seed}},
    }
    config = {"method": {"name": method}}
    return RunRecord(config=config, method=method, task="sst2", seed=seed, **values)


def experiment() -> dict[str, list[RunRecord]]:
    """Three settings of one method, two of another, and a method without settings."""
    ours = {
        f"neuroprune-{percent}": [
            made_up(seed, 0.88 - drop + 0.005 * seed, percent / 100, fast + 0.1 * seed)
            for seed in (1, 2, 3)
        ]
        for percent, drop, fast in ((50, 0.0, 1.7), (80, 0.02, 3.4), (95, 0.06, 6.0))
    }
    units = {
        f"magnitude-units{percent}": [
            made_up(seed, 0.84 - drop + 0.01 * seed, percent / 100, fast, "magnitude")
            for seed in (1, 2, 3)
        ]
        for percent, drop, fast in ((50, 0.0, 1.7), (80, 0.05, 3.3))
    }
    return {**ours, **units, "l1": [made_up(1, 0.78, 0.0, 1.0, "l1")]}


def structure(
    heads: Sequence[Sequence[int]], neurons: Sequence[int], stack: str = "encoder"
) -> dict[str, Any]:
    """What is left of a made-up model: per layer, the heads that stay and how many neurons do."""
    everything = [list(range(HEADS))] * len(heads), [NEURONS] * len(heads)
    found = {
        side: {"grid": GRID, "bins": BINS, "eps": 0.0, "blocks": _blocks(stack, *kept)}
        for side, kept in (("dense", everything), ("pruned", (heads, neurons)))
    }
    for layer, block in enumerate(found["dense"]["blocks"][::2]):  # 1 to HEADS, times the layer
        block["importance"] = [(layer + 1.0) * (head + 1.0) for head in range(HEADS)]
    return found


def _blocks(
    stack: str, heads: Sequence[Sequence[int]], neurons: Sequence[int]
) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for layer, (kept, count) in enumerate(zip(heads, neurons, strict=True)):
        name = f"{stack}.layer.{layer}"
        rows = [int(head in kept) for head in range(HEADS)]
        attention = {role: _matrix(rows) for role in "qkvo"}
        mlp = {role: _matrix([1] * count + [0] * (NEURONS - count)) for role in ("up", "down")}
        blocks += [
            {
                "name": f"{name}.attention",
                "kind": "attention",
                "dense_units": HEADS,
                "kept": list(kept),
                "matrices": attention,
            },
            {
                "name": f"{name}.mlp",
                "kind": "mlp",
                "dense_units": NEURONS,
                "kept": count,
                "matrices": mlp,
            },
        ]
    return blocks


def _matrix(rows: Sequence[int]) -> dict[str, Any]:
    """Rows that are whole or gone."""
    density = sum(rows) / len(rows)
    return {
        "density": density,
        "degree_mean": density,
        "degree_sd": (density * (1.0 - density)) ** 0.5,
        "degree_histogram": [len(rows) - sum(rows), *[0] * (BINS - 2), sum(rows)],
        "pattern": bytes([round(255 * density)] * GRID**2).hex(),
    }


def whole(
    seed: int,
    accuracy: float,
    heads: Sequence[Sequence[int]],
    neurons: Sequence[int],
    method: str = "neuroprune",
) -> RunRecord:
    """A record with structure, whose sparsities are those of its units."""
    gone = 1.0 - (sum(map(len, heads)) / HEADS + sum(neurons) / NEURONS) / (2 * len(heads))
    record = made_up(seed, accuracy, gone, 1.0 / (1.001 - gone), method)
    return dataclasses.replace(record, structure=structure(heads, neurons))


def save_experiment(root: Path, name: str = "sst2") -> None:
    """Records of NeuroPrune, l1 and DSP with three seeds each, as `bench run` leaves them."""
    for seed in (1, 2, 3):
        cells = {
            "neuroprune-50": whole(seed, 0.86 + 0.001 * seed, [[0, 1], [2, 3]], [4, 4]),
            "neuroprune-75": whole(seed, 0.84 + 0.002 * seed, [[0], [2]], [3, 1]),
            "l1-50": whole(seed, 0.85 + 0.001 * seed, [[0, 3], [1, 3]], [4, 4], "l1"),
            "dsp-heads4": whole(seed, 0.83, [[0, 1, 2], [seed % 4]], [8, 8], "dsp"),
        }
        for label, record in cells.items():
            record.save(root / name / label / f"seed-{seed}.json")
