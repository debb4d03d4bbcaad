"""What can be asked for: texts, ranges, contradictions, and the round trip of configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune import Flops, Heads, Latency, NeuroPrune, Parameters, Structural, Weights
from neuroprune.config import ConfigError
from neuroprune.targets import Target, parse_target

share = st.floats(0.01, 0.99)
count = st.integers(1, 10**9)
shape = st.tuples(share, st.integers(1, 64), st.integers(1, 512))
targets = st.one_of(
    share.map(Structural),
    share.map(Weights),
    count.map(Parameters),
    count.map(Heads),
    shape.map(lambda x: Flops(*x)),
    shape.map(lambda x: Latency(*x)),
)


@given(targets)
def test_the_text_of_a_target_is_read_back(target: Target) -> None:
    assert parse_target(str(target)) == target
    config = NeuroPrune(target=target)
    assert NeuroPrune.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0.8, Structural(0.8)),
        ("0.8", Structural(0.8)),
        (0, Structural(0.0)),
        ("weights:0.5", Weights(0.5)),
        ("parameters:5e6", Parameters(5_000_000)),
        ("flops:0.25", Flops(0.25, batch=1, length=128)),
        (" Latency:0.3@32x64 ", Latency(0.3, batch=32, length=64)),
        ("heads:24", Heads(24)),
        (np.float32(0.5), Structural(0.5)),
        (np.int64(0), Structural(0.0)),
    ],
)
def test_what_may_be_written(written: Any, meant: Target) -> None:
    assert parse_target(written) == meant


@pytest.mark.parametrize(
    "wrong",
    [
        "big", "0.8x", "flops", "flops:", "speed:0.5", "heads:2.5", "structural:1.0",
        "structural:-0.1", "parameters:0", "flops:0", "flops:1.5", "latency:0.3@0x5",
        "heads:3@1x2", "heads:nan", "heads:1e400", "parameters:inf", "weights:nan", "inf", True,
        None, [], {}, -0.5, 1, 1.0, float("nan"),
        [0.5, 0.6], ["heads:1", "heads:2"], ["weights:0.5", "heads:2"],
        [0.5, "flops:0.5", "heads:3"],
    ],
    ids=repr,
)  # fmt: skip
def test_what_may_not(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        NeuroPrune(target=wrong if wrong is not None else {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": 0.5, "alpha": 1.0}, "paper's mode"),
        ({"target": 0.5, "apply": "prox"}, "paper's mode"),
        ({"target": 0.5, "dominating": "exact"}, "paper's mode"),
        ({"target": 0.5, "theta": 0.3}, "unless redundancy"),
        ({"target": 0.5, "begin": 0.5, "end": 0.5}, "before end"),
        ({"target": 0.5, "end": 1.5}, r"in \[0, 1\]"),
        ({"target": 0.5, "connectivity": "size"}, "connectivity"),
        ({"target": 0.5, "redundancy": "size"}, "redundancy"),
        ({"target": 0.5, "teacher": 3}, "teacher"),
        ({"target": 0.5, "uniform": "yes"}, "uniform"),
        ({"target": 0.5, "snapshots": 0.3}, "snapshots"),
        ({"uniform": True}, "target mode"),
        ({"teacher": "dense"}, "target mode"),
        ({"snapshots": [0.5]}, "target mode"),
    ],
    ids=str,
)
def test_settings_that_contradict(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NeuroPrune(**settings)


def test_the_papers_mode_is_written_as_before() -> None:
    expected = {"alpha": 1e-4, "beta": 1e-3, "theta": 0.15, "eps": 1e-4, "apply": "penalty"}
    assert NeuroPrune().to_dict() == expected
