"""The overhead benchmark: what it counts, and the limits on memory and imports. No timing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks import step_overhead

import neuroprune


def _measured(**changes: Any) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {
        "step_penalty": {"cost": 1.04},
        "step_prox": {"cost": 1.0},
        "step_target": {"cost": 1.02},
        "step_weights": {"cost": 1.03},
        "prune_no_redundant_head": {"median_ms": 100.0},
        "memory_prox": {"times_largest_matrix": 1.005},
        "import": {"loaded": "none of them"},
    }
    return values | changes


def test_within_the_limits_nothing_is_reported() -> None:
    assert step_overhead.failures(_measured()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_prox": {"cost": 1.06}}, "step_prox: 1.060x a plain step, limit 1.05x"),
        ({"prune_all": {"median_ms": 1500.0}}, "prune_all: 1500 ms, limit 1 s"),
        ({"memory_prox": {"times_largest_matrix": 2.0}}, "memory_prox: 2.00 of the largest"),
        ({"import": {"loaded": "datasets"}}, "import neuroprune loads datasets"),
    ],
)
def test_each_limit_is_checked(change: dict[str, Any], message: str) -> None:
    (line,) = step_overhead.failures(_measured(**change))
    assert message in line


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_peak_is_the_most_held_at_one_time() -> None:
    size = 4 * 100_000

    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(100_000)

    def at_the_same_time() -> None:
        _ = [torch.zeros(100_000) for _ in range(3)]

    assert size <= step_overhead.peak_bytes(one_after_the_other) < 2 * size
    assert 3 * size <= step_overhead.peak_bytes(at_the_same_time) < 4 * size


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_penalty_and_prox_hold_one_temporary_of_the_largest_matrix() -> None:
    peaks = step_overhead.temporary_memory()
    for name in ("memory_penalty_gradient", "memory_prox"):
        assert 0.5 < peaks[name]["times_largest_matrix"] < 1.01, name


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert step_overhead.import_check()["import"]["loaded"] == "none of them"


def test_a_step_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroprune import NeuroPrune

    pruners: list[Any] = []
    attach = neuroprune.attach

    def watched(*args: Any, **kwargs: Any) -> Any:
        pruners.append(attach(*args, **kwargs))
        return pruners[-1]

    monkeypatch.setattr(neuroprune, "attach", watched)
    torch.manual_seed(0)
    step = step_overhead.trainer_of(NeuroPrune(apply="prox"), batch=1, tokens=4)
    weight = pruners[0].anatomy.mlps[0].up_proj.weight
    before = weight.detach().clone()
    step()
    step()
    assert pruners[0].steps == 2 and not torch.equal(weight, before)
