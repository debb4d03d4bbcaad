"""Interleaved timing: every variant is called in turn, so that a busy machine slows all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from neuroprune.anatomy.inputs import device_of, evaluating
from neuroprune.control.stopwatch import interleaved

CONFIDENCE = 0.95
_RESAMPLES = 2000
MakeInputs = Callable[[int, int], Mapping[str, Any]]  # batch, length -> keyword arguments


@dataclass(frozen=True)
class Timing:
    """Time of one call, in seconds.

    Args:
        median: median over the calls.
        q25: first quartile.
        q75: third quartile.
        calls: number of timed calls.
    """

    median: float
    q25: float
    q75: float
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise the calls."""
        low, median, high = np.quantile(np.asarray(seconds), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(seconds))

    @property
    def iqr(self) -> float:
        """Inter-quartile range."""
        return self.q75 - self.q25

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return asdict(self) | {"iqr": self.iqr}


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its 95% bootstrap interval.

    Args:
        value: the ratio of the medians.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def inverse(self) -> Ratio:
        """The same comparison the other way round."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Variants that were called in turns.

    Args:
        baseline: the variant the others are compared to, the first one given.
        timings: time of a call, by variant.
        speedups: median of the baseline / median of the variant; above 1 is faster.
    """

    baseline: str
    timings: Mapping[str, Timing]
    speedups: Mapping[str, Ratio]

    @property
    def costs(self) -> dict[str, Ratio]:
        """Median of the variant / median of the baseline; above 1 is slower."""
        return {name: ratio.inverse for name, ratio in self.speedups.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "baseline": self.baseline,
            "timings": {name: timing.to_dict() for name, timing in self.timings.items()},
            "speedups": {name: ratio.to_dict() for name, ratio in self.speedups.items()},
        }


@dataclass(frozen=True)
class SpeedReport:
    """Latency of models at several batch sizes, and what they were measured on.

    Args:
        comparisons: one for each (batch, length).
        threads: compute threads.
        device: where the models ran, such as "cpu" or "cuda: NVIDIA H100".
        dtype: of the models' parameters.
    """

    comparisons: Mapping[tuple[int, int], Comparison]
    threads: int
    device: str
    dtype: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: model -> batch size -> timing, "speedup" -> model -> batch size.

        A batch size that was measured at several lengths is written as BATCHxLENGTH.
        """
        out: dict[str, Any] = {}
        speedups: dict[str, Any] = {}
        batches = [batch for batch, _ in self.comparisons]
        for (batch, length), comparison in self.comparisons.items():
            key = str(batch) if batches.count(batch) == 1 else f"{batch}x{length}"
            for name, timing in comparison.timings.items():
                out.setdefault(name, {})[key] = {"tokens": length, **timing.to_dict()}
            for name, ratio in comparison.speedups.items():
                speedups.setdefault(name, {})[key] = ratio.to_dict()
        conditions = {"threads": self.threads, "device": self.device, "dtype": self.dtype}
        return {**out, "speedup": speedups, "conditions": conditions}


def compare_speed(
    models: Mapping[str, nn.Module],
    make_inputs: MakeInputs,
    batches: Sequence[tuple[int, int]] = ((1, 128), (32, 128)),
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    call: Callable[[Any, Mapping[str, Any]], Any] | None = None,
) -> SpeedReport:
    """Latency of models, called in turns: A, B, A, B, ...

    Args:
        models: by name; the first is the baseline. All on one device.
        make_inputs: (batch, length) -> keyword arguments of a forward pass.
        batches: (sequences, tokens per sequence) to measure.
        repeats: timed calls of each model.
        warmup: untimed calls before them.
        threads: compute threads while measuring; None leaves them as they are.
        call: what to time, `call(model, inputs)`; a forward pass where None.

    Returns:
        Medians, quartiles and speed-ups with their intervals.

    Raises:
        ValueError: no model, models on several devices, or no calls.

    Example:
        >>> report = compare_speed(
        ...     {"dense": dense, "pruned": pruned}, partial(sample_inputs, dense)
        ... )  # doctest: +SKIP
    """
    devices = {device_of(model) for model in models.values()}
    if len(devices) != 1:
        raise ValueError(
            f"expected models on one device, got {sorted(map(str, devices)) or 'no model'}. Move "
            "them to the same device first."
        )
    device = devices.pop()
    call = call or _forward
    comparisons = {}
    with _threads(threads) as count, evaluating(*models.values()):
        for batch, length in batches:
            inputs = make_inputs(batch, length)
            calls = {name: partial(call, model, inputs) for name, model in models.items()}
            comparisons[batch, length] = _compare(calls, repeats, warmup, device)
    dtypes = sorted({str(next(m.parameters()).dtype) for m in models.values()})
    kinds = "/".join(name.removeprefix("torch.") for name in dtypes)
    return SpeedReport(comparisons, count, _describe(device), kinds)


def compare_steps(
    steps: Mapping[str, Callable[[], Any]],
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    device: torch.device | str = "cpu",
) -> Comparison:
    """Time of functions, such as training steps, called in turns: A, B, A, B, ...

    Args:
        steps: by name; the first is the baseline. Each is called without arguments.
        repeats: timed calls of each.
        warmup: untimed calls before them.
        threads: compute threads while measuring; None leaves them as they are.
        device: where they run; CUDA is timed with events.

    Returns:
        Medians, quartiles, speed-ups and `costs` with their intervals.

    Raises:
        ValueError: no function, or no calls.

    Example:
        >>> compare_steps({"plain": plain, "attached": attached}).costs["attached"]
        ... # doctest: +SKIP
        Ratio(value=1.02, low=1.01, high=1.04)
    """
    with _threads(threads):
        return _compare(steps, repeats, warmup, torch.device(device))


def _forward(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model(**inputs)


def _compare(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warmup: int, device: torch.device
) -> Comparison:
    seconds = interleaved(calls, repeats, warmup, device)
    baseline = next(iter(calls))
    return Comparison(
        baseline,
        {name: Timing.of(values) for name, values in seconds.items()},
        {
            name: ratio_of_medians(seconds[baseline], values)
            for name, values in seconds.items()
            if name != baseline
        },
    )


def ratio_of_medians(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> Ratio:
    """median(first) / median(second), with a percentile bootstrap interval.

    Turn i of both is resampled together, so that what slowed a whole turn cancels out.

    Args:
        first: seconds of each call.
        second: seconds of each call, as many.
        confidence: of the interval.

    Reference: Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    pairs = np.asarray([first, second], dtype=float)
    turns = pairs.shape[1]
    rows = np.random.default_rng(0).integers(0, turns, (_RESAMPLES, turns))
    medians = np.median(pairs[:, rows], axis=2)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians[0] / medians[1], (tail, 1 - tail))
    value = np.median(pairs[0]) / np.median(pairs[1])
    return Ratio(float(value), float(low), float(high))


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device.type
