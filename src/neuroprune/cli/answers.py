"""What was asked for, and what was reached: the lines a run in target mode ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuroprune.record import RunRecord
from neuroprune.targets import (
    Flops,
    Heads,
    Latency,
    Parameters,
    Structural,
    Target,
    Weights,
    parse_target,
)


def answers(record: RunRecord) -> list[tuple[str, str]]:
    """Every target that was asked for, and what was reached, for people.

    Args:
        record: of any method; one without a target asked for nothing.
    """
    asked = record.config.get("method", {}).get("target", ())
    if not isinstance(asked, list | tuple):  # a share that a method without targets was given
        return []
    return [(text, _answer(parse_target(text), record)) for text in asked]


def _answer(target: Target, record: RunRecord) -> str:
    """The training's own figure where it left one, otherwise that of the saved models.

    A time is both: what the training planned with its calibration, and what the clock says.
    """
    pruned = record.training.get("pruned", {})
    own = pruned.get("reached")
    value, where = own.get(str(target)) if isinstance(own, Mapping) else None, ""
    if value is None and isinstance(target, Heads):
        return f"removed {pruned.get('removed_heads', 0)}"
    if value is None:
        value, where = _measured(target, record)
    elif isinstance(target, Latency):
        clock, where = _measured(target, record)
        told = "not measured" if clock is None else f"measured {clock:.1%}{where}"
        return f"planned {value:.1%}, {told}"
    if value is None:
        return "not measured"
    form = ",.0f" if isinstance(target, Heads | Parameters) else ".1%"
    return f"reached {value:{form}}{where}"


def _measured(target: Target, record: RunRecord) -> tuple[float | None, str]:
    """A number in the target's own unit, and on which shape it was taken."""
    dense, pruned = record.sizes.get("dense", {}), record.sizes.get("pruned", {})
    if isinstance(target, Latency):
        return _latency(target, record)
    if isinstance(target, Flops):
        share = pruned["flops"] / dense["flops"] if "flops" in pruned else None
        return share, _shape(1, record.config.get("evaluation", {}).get("speed_tokens"))
    names: dict[type[Target], str] = {
        Structural: "structural_sparsity",
        Weights: "weight_sparsity",
        Parameters: "parameters",
    }
    return pruned.get(names[type(target)]), ""


def _latency(target: Latency, record: RunRecord) -> tuple[float | None, str]:
    """The share of the dense latency that is left, at the batch size nearest to the target's."""
    found: Mapping[str, Any] = record.speeds.get("speedup", {}).get("pruned", {})
    if not found:
        return None, ""
    batch = min(found, key=lambda key: (abs(int(key) - target.batch), int(key)))
    tokens = record.speeds.get("dense", {}).get(batch, {}).get("tokens")
    return 1.0 / found[batch]["value"], _shape(int(batch), tokens)


def _shape(batch: int, tokens: int | None) -> str:
    return f" at {batch}x{tokens}" if tokens else f" at batch {batch}"
