"""What attaching a method costs: time of a training step, of `prune()`, memory, and imports.

- step: MiniLM shape, batch 32 x 64 tokens, AdamW, clipping at 1.0; a plain step against a step with
  NeuroPrune attached in both apply modes and with a target of units or of weights. The variants
  take turns, each on a model of its own.
- prune: `Pruner.prune()` on a BERT-base shape with AdamW state, once where no head is redundant and
  once where nearly all are.
- memory: peak of what the penalty gradient and the proximal step allocate, as a multiple of the
  model's largest prunable matrix.
- imports: the modules that `import neuroprune` must not load.

Weights are random: none of this depends on their values. One RunRecord is written.

Usage: python benchmarks/step_overhead.py --threads 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import neuroprune
from neuroprune import NeuroPrune
from neuroprune.evaluation.speed import compare_steps
from neuroprune.record import RunRecord, environment

MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
HEAVY = ("transformers", "datasets", "matplotlib")
STEP_LIMIT, PRUNE_LIMIT_SECONDS, MEMORY_LIMIT = 1.05, 1.0, 1.0


def bert(**shape: int) -> Any:
    """A BERT classifier with random weights; BERT-base where no shape is given."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**shape)).train()


def trainer_of(method: NeuroPrune | None, batch: int, tokens: int) -> Callable[[], None]:
    """A function that takes one training step on a MiniLM shape of its own."""
    model = bert(**MINILM)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    if method is not None:
        # So long a training that target mode makes no cut while it is timed.
        neuroprune.attach(model, optimizer, method, total_steps=1_000_000)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (batch, tokens), generator=generator)
    labels = torch.randint(0, 2, (batch,), generator=generator)

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_times(repeats: int, batch: int, tokens: int) -> dict[str, dict[str, Any]]:
    """Step times, the variants in turns; `cost` is the ratio of medians to the plain step."""
    comparison = compare_steps(
        {
            "plain_step": trainer_of(None, batch, tokens),
            "step_penalty": trainer_of(NeuroPrune(apply="penalty"), batch, tokens),
            "step_prox": trainer_of(NeuroPrune(apply="prox"), batch, tokens),
            "step_target": trainer_of(NeuroPrune(target=0.8), batch, tokens),
            "step_weights": trainer_of(NeuroPrune(target="weights:0.8"), batch, tokens),
        },
        repeats,
    )
    out: dict[str, dict[str, Any]] = {}
    for name, timing in comparison.timings.items():
        out[name] = {
            "median_ms": 1e3 * timing.median,
            "iqr_ms": 1e3 * timing.iqr,
            "calls": timing.calls,
        }
        if name in comparison.costs:
            cost = comparison.costs[name]
            out[name] |= {"cost": cost.value, "cost_low": cost.low, "cost_high": cost.high}
    return out


def prune_times(repeats: int) -> dict[str, dict[str, Any]]:
    """`prune()` on a BERT-base shape whose optimizer has taken a step."""
    out = {}
    for name, theta in (("prune_no_redundant_head", 0.0), ("prune_all_heads_redundant", 10.0)):
        seconds = []
        for _ in range(repeats):
            model = bert()
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            pruner = neuroprune.attach(model, optimizer, NeuroPrune(theta=theta))
            start = time.perf_counter()
            pruner.prune()
            seconds.append(time.perf_counter() - start)
            heads = sum(b.num_heads for b in neuroprune.anatomy_of(model).attentions)
            del model, optimizer, pruner
        out[name] = {
            "median_ms": 1e3 * statistics.median(seconds),
            "calls": repeats,
            "heads_left": heads,
        }
    return out


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that `work` held at one time beyond what was held before it (CPU allocator)."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    )
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return peak


def temporary_memory() -> dict[str, dict[str, Any]]:
    """Peak allocations of the two ways a penalty acts, gradients being there already."""
    from neuroprune.methods.neuroprune import NeuroPruneMethod

    model = bert(**MINILM)
    anatomy = neuroprune.anatomy_of(model)
    largest = max(m.numel() * m.element_size() for m in anatomy.matrices())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    penalty = NeuroPruneMethod(NeuroPrune(apply="penalty"))
    prox = NeuroPruneMethod(NeuroPrune(apply="prox"))
    with torch.no_grad():
        work: Mapping[str, Callable[[], object]] = {
            "memory_penalty_gradient": lambda: penalty.add_penalty_grad_(anatomy, 1.0),
            "memory_prox": lambda: prox.prox_(anatomy, lambda _: 5e-5),
        }
        peaks = {}
        for name, call in work.items():
            call()  # what is allocated once and kept does not count
            peaks[name] = peak_bytes(call)
    return {
        name: {"peak_bytes": peak, "times_largest_matrix": peak / largest}
        for name, peak in peaks.items()
    }


def import_check() -> dict[str, dict[str, Any]]:
    """Heavy modules that `import neuroprune` loads in a fresh interpreter, and its time."""
    code = (
        "import json, sys, time; t = time.perf_counter(); import neuroprune; "
        "t = time.perf_counter() - t; "
        f"print(json.dumps([t, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    return {"import": {"median_ms": 1e3 * seconds, "loaded": ", ".join(loaded) or "none of them"}}


def failures(speeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What misses its limit, one line each."""
    out = []
    for name in ("step_penalty", "step_prox", "step_target", "step_weights"):
        ratio = speeds[name]["cost"]
        if ratio > STEP_LIMIT:
            out.append(f"{name}: {ratio:.3f}x a plain step, limit {STEP_LIMIT}x")
    for name, values in speeds.items():
        if name.startswith("prune") and values["median_ms"] > 1e3 * PRUNE_LIMIT_SECONDS:
            out.append(f"{name}: {values['median_ms']:.0f} ms, limit {PRUNE_LIMIT_SECONDS:g} s")
        if name.startswith("memory") and values["times_largest_matrix"] > MEMORY_LIMIT * 1.01:
            out.append(
                f"{name}: {values['times_largest_matrix']:.2f} of the largest matrix, limit "
                f"{MEMORY_LIMIT:g}"
            )
    if speeds["import"]["loaded"] != "none of them":
        out.append(f"import neuroprune loads {speeds['import']['loaded']}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 when every limit is kept, 1 otherwise."""
    parser = argparse.ArgumentParser(description="What attaching NeuroPrune costs.")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    parser.add_argument("--repeats", type=int, default=40, help="timed steps per variant")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    speeds = {
        **step_times(options.repeats, options.batch, options.tokens),
        **prune_times(3),
        **temporary_memory(),
        **import_check(),
    }
    record = RunRecord(
        config={"shape": MINILM, "batch": options.batch, "tokens": options.tokens},
        method="neuroprune",
        task="step_overhead",
        seed=0,
        metrics={"settings": dataclasses.asdict(NeuroPrune())},
        speeds=speeds,
        environment=environment(options.threads),
    )
    path = options.results / "step_overhead" / "minilm" / "seed-0.json"
    record.save(path)
    for name, values in speeds.items():
        shown = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in values.items()
        )
        print(f"{name}: {shown}")
    missed = failures(speeds)
    for line in missed:
        print(f"over the limit: {line}", file=sys.stderr)
    print(f"record: {path}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
