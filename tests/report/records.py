"""Made-up records of one experiment, as many settings and seeds as a test asks for."""

from __future__ import annotations

from typing import Any

from neuroprune.record import RunRecord


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
            "pruned": {"structural_sparsity": sparsity},
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
