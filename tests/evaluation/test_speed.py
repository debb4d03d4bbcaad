from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from neuroprune.evaluation import compare_speed, compare_steps, sample_inputs
from neuroprune.evaluation.speed import Ratio, Timing, ratio_of_medians
from tests.zoo import make_model


class Clock:
    """A clock that only the timed functions move forward."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr("neuroprune.control.stopwatch.time.perf_counter", lambda: self.now)

    def function(self, name, *durations):
        turns = iter(durations)

        def run():
            self.calls.append(name)
            self.now += next(turns, durations[-1])

        return run


def test_calls_take_turns_after_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    steps = {"a": clock.function("a", 100.0, 2.0), "b": clock.function("b", 100.0, 1.0)}
    result = compare_steps(steps, repeats=3, warmup=1)
    assert clock.calls == ["a", "b"] * 4
    assert result.timings["a"].median == pytest.approx(2.0)  # the warm-up is not counted
    assert result.timings["b"].calls == 3
    assert result.baseline == "a"
    assert result.speedups["b"].value == pytest.approx(2.0)
    assert result.costs["b"].value == pytest.approx(0.5)
    assert "a" not in result.speedups


def test_medians_and_quartiles(monkeypatch):
    clock = Clock(monkeypatch)
    result = compare_steps({"a": clock.function("a", 5.0, 1.0, 3.0, 2.0, 4.0)}, 5, 0)
    timing = result.timings["a"]
    assert (timing.q25, timing.median, timing.q75) == pytest.approx((2.0, 3.0, 4.0))
    assert timing.iqr == pytest.approx(2.0)
    assert timing == Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])


def test_what_slows_a_whole_turn_cancels_out_of_the_interval():
    noise = [1.0 + (i * 37 % 11) for i in range(40)]
    paired = ratio_of_medians([2 * n for n in noise], noise)
    assert (paired.low, paired.value, paired.high) == pytest.approx((2.0, 2.0, 2.0))
    shuffled = ratio_of_medians([2 * n for n in noise], noise[7:] + noise[:7])
    assert shuffled.low < shuffled.value < shuffled.high
    assert shuffled.high - shuffled.low > 0.1


def test_the_interval_is_narrower_with_more_turns_and_reproducible():
    def spread(turns):
        first = [2.0 + (i * 7 % 5) / 10 for i in range(turns)]
        second = [1.0 + (i * 3 % 4) / 10 for i in range(turns)]
        ratio = ratio_of_medians(first, second)
        assert ratio == ratio_of_medians(first, second)
        return ratio.high - ratio.low

    assert spread(400) < spread(12)


def test_the_inverse_swaps_the_ends():
    assert Ratio(2.0, 1.6, 2.5).inverse == Ratio(0.5, 0.4, 0.625)


def test_models_are_compared_at_every_batch_size(monkeypatch):
    models = {"dense": make_model("bert").train(), "pruned": make_model("bert", seed=1)}
    seen = []

    def call(model, inputs):
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(("dense" if model is models["dense"] else "pruned", inputs["input_ids"].shape))
        return model(**inputs)

    make = partial(sample_inputs, models["dense"])
    report = compare_speed(models, make, ((1, 4), (3, 5)), repeats=2, warmup=1, call=call)
    assert (
        seen
        == [("dense", (1, 4)), ("pruned", (1, 4))] * 3
        + [
            ("dense", (3, 5)),
            ("pruned", (3, 5)),
        ]
        * 3
    )
    assert models["dense"].training
    assert not models["pruned"].training
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert set(data["dense"]) == {"1", "3"}
    assert data["pruned"]["3"]["tokens"] == 5
    assert data["pruned"]["3"]["calls"] == 2
    assert data["dense"]["1"]["median"] > 0
    assert set(data["speedup"]["pruned"]["1"]) == {"value", "low", "high"}
    assert data["conditions"] == {
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "dtype": "float32",
    }


def test_the_same_batch_size_at_two_lengths_is_told_apart():
    model = make_model("opt")
    report = compare_speed(
        {"one": model}, partial(sample_inputs, model), ((2, 4), (2, 6)), repeats=1, warmup=0
    )
    assert set(report.to_dict()["one"]) == {"2x4", "2x6"}


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    model = make_model("bert")
    seen = []

    def call(model, inputs):
        seen.append(torch.get_num_threads())

    make = partial(sample_inputs, model)
    report = compare_speed({"m": model}, make, ((1, 4),), 1, 0, threads=before + 1, call=call)
    assert seen == [before + 1]
    assert report.threads == before + 1
    assert torch.get_num_threads() == before


def test_what_cannot_be_compared_is_refused():
    model = make_model("bert")
    make = partial(sample_inputs, model)
    with pytest.raises(ValueError, match="no model"):
        compare_speed({}, make)
    with pytest.raises(ValueError, match="repeats = 0"):
        compare_speed({"m": model}, make, ((1, 4),), repeats=0)
    with pytest.raises(ValueError, match="got 0 to time"):
        compare_steps({})
    with pytest.raises(ValueError, match=r"models on one device, got \['cpu', 'meta'\]"):
        compare_speed({"m": model, "other": make_model("bert").to("meta")}, make)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_timed_with_events():
    model = make_model("bert").cuda()
    report = compare_speed({"m": model}, partial(sample_inputs, model), ((2, 8),), 3, 1)
    assert report.device.startswith("cuda: ")
    matrix = torch.randn(2000, 2000, device="cuda")
    timing = compare_steps({"m": lambda: matrix @ matrix}, 3, 1, device="cuda").timings["m"]
    assert timing.median > 1e-5
