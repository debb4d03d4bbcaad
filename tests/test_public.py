"""What a user imports: these names, and nothing heavy until one is used."""

from __future__ import annotations

import pytest

import neuroprune

NAMES = {
    "AnatomyError",
    "CheckpointError",
    "ConfigError",
    "NonFiniteError",
    "OptimizerStateError",
    "PlanError",
    "PrunerError",
    "CoFi",
    "DSP",
    "Fisher",
    "Flops",
    "Heads",
    "Latency",
    "Parameters",
    "ProximalGroup",
    "Structural",
    "Weights",
    "L1",
    "Magnitude",
    "Movement",
    "NeuroPrune",
    "NeuroPruneCallback",
    "ShrinkPlan",
    "anatomy_of",
    "attach",
    "from_pretrained",
    "save_pretrained",
    "shrink_",
}


def test_the_public_names() -> None:
    assert set(neuroprune.__all__) == NAMES == set(dir(neuroprune))
    for name in NAMES:
        assert callable(getattr(neuroprune, name)), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        neuroprune.prune  # noqa: B018
