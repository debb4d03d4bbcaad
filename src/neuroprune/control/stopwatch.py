"""Interleaved timing: every function is called in turn, so that a busy machine slows all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, the functions taking turns: A, B, A, B, ...

    Args:
        calls: by name; each is called without arguments.
        repeats: timed calls of each.
        warmup: untimed calls before them.
        device: where they run; CUDA is timed with events.

    Returns:
        Name -> seconds of its calls; turn i of all names was taken together.

    Raises:
        ValueError: no function, or no calls.
    """
    if not calls or repeats < 1 or warmup < 0:
        raise ValueError(
            f"expected something to time, repeats >= 1 and warmup >= 0; got {len(calls)} to time, "
            f"repeats = {repeats}, warmup = {warmup}."
        )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup):
        for function in calls.values():
            function()
    gc.collect()
    for _ in range(repeats):
        for name, function in calls.items():
            seconds[name].append(timed(function, device))
    return seconds


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call.

    Args:
        function: what to call, without arguments.
        device: where it runs; CUDA is timed with events.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        function()
        end_event.record()
        torch.cuda.synchronize()
        milliseconds: float = start_event.elapsed_time(end_event)
    return milliseconds / 1e3
