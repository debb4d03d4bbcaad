"""The measurement of peak memory runs, and tells a method from none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from neuroprune.config import NeuroPrune

TOOL = Path(__file__).parents[2] / "benchmarks" / "peak_memory.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peak_memory", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_training_has_a_valid_method(tool: ModuleType) -> None:
    given = [tool._method(settings) for settings in tool.TRAININGS.values() if settings]
    assert given and all(isinstance(config, NeuroPrune) for config in given)


@pytest.mark.slow
def test_it_measures(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BATCH": 2, "TOKENS": 4, "STEPS": 10}.items():
        monkeypatch.setattr(tool, name, value)
    found = tool.train({"name": "neuroprune", "target": 0.5}, 1)
    assert found["peak_bytes"] >= 0  # 0 where this process has been larger before
