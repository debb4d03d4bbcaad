"""Dense against structurally shrunk models on a CUDA device.

Shapes of BERT-base, T5-base and OPT-125m with random weights (speed does not depend on them), from
which heads and neurons are removed, as many in every layer, until 50, 80 and 95 % of the prunable
weights are gone.
Dense and shrunk model take turns; times are medians of CUDA events, in float32 and bfloat16, for a
forward pass and, where the model generates, for 32 new tokens. One RunRecord per shape and type is
written as soon as it is measured. What does not fit into the time given is left out and named.

Exit codes: 0 all is measured; 1 the time given was too short; 3 there is no CUDA device.

Usage: python benchmarks/gpu_speed.py
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import neuroprune
from neuroprune import ShrinkPlan
from neuroprune.anatomy.inputs import sample_inputs
from neuroprune.evaluation.size import size_report
from neuroprune.evaluation.speed import compare_speed
from neuroprune.record import RunRecord, environment

DEVICE = "cuda"
NO_DEVICE, TOO_SHORT = 3, 1
SPARSITIES = (0.0, 0.5, 0.8, 0.95)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NEW_TOKENS = 32


@dataclass(frozen=True)
class Shape:
    """One architecture to time.

    Args:
        name: row title.
        build: makes the dense model with random weights.
        decodes: whether it generates text.
    """

    name: str
    build: Callable[[], Any]
    decodes: bool


def _bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig())


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def _opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig())


SHAPES = (
    Shape("bert-base", _bert, decodes=False),
    Shape("t5-base", _t5, decodes=True),
    Shape("opt-125m", _opt, decodes=True),
)


def even_plan(model: Any, sparsity_wanted: float) -> ShrinkPlan:
    """A plan of equal layers that removes the share of the prunable weights that is asked for.

    Heads go by that share, rounded; neurons make up for what the rounding left or took too much.
    """
    anatomy = neuroprune.anatomy_of(model)
    share = 1.0 - sparsity_wanted
    heads = {a.name: max(1, round(share * a.num_heads)) for a in anatomy.attentions}
    in_heads = sum(heads[a.name] * a.weights_per_head for a in anatomy.attentions)
    in_neurons = sum(m.d_ff * m.weights_per_neuron for m in anatomy.mlps)
    left = (share * anatomy.dense_weights - in_heads) / in_neurons
    return ShrinkPlan(
        {a.name: range(heads[a.name], a.num_heads) for a in anatomy.attentions},
        {m.name: range(max(1, round(left * m.d_ff)), m.d_ff) for m in anatomy.mlps},
    )


def generate(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Generation of a fixed number of tokens."""
    return model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )


def build_models(shape: Shape, dtype: str) -> dict[str, Any]:
    """The dense model first, then one for each sparsity, on the device."""
    models = {}
    for wanted in SPARSITIES:
        torch.manual_seed(0)
        model = shape.build().eval()
        if wanted:
            neuroprune.shrink_(model, even_plan(model, wanted))
        models[f"{wanted:.0%}"] = model.to(DEVICE, DTYPES[dtype])
    return models


def measure(
    shape: Shape, dtype: str, batches: Sequence[int], tokens: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Every workload of one shape: row title -> times, speed-up and its 95% interval."""
    models = build_models(shape, dtype)
    dense = models[f"{0.0:.0%}"]
    rows: dict[str, dict[str, Any]] = {}
    for work in ("forward", "generate") if shape.decodes else ("forward",):
        report = compare_speed(
            models,
            partial(sample_inputs, dense),
            [(batch, tokens) for batch in batches],
            repeats if work == "forward" else max(3, repeats // 5),
            call=generate if work == "generate" else None,
        )
        for (batch, _), comparison in report.comparisons.items():
            for name, timing in comparison.timings.items():
                size = size_report(models[name])
                row = {
                    "structural_sparsity": size.structural_sparsity,
                    "parameters_M": size.parameters / 1e6,
                    "median_ms": 1e3 * timing.median,
                    "iqr_ms": 1e3 * timing.iqr,
                }
                if name in comparison.speedups:
                    ratio = comparison.speedups[name]
                    row |= {"speedup": ratio.value, "low": ratio.low, "high": ratio.high}
                rows[f"{shape.name} {work} {dtype} batch {batch} at {name}"] = row
    return rows


def measure_all(options: argparse.Namespace, device: str) -> list[str]:
    """Measure and record part by part, within the time given; names of the parts left out.

    A part begins while as much time is left as the longest one took so far.
    """
    folder = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    began, longest, left_out = time.perf_counter(), 0.0, []
    for shape in SHAPES:
        for dtype in DTYPES:
            start = time.perf_counter()
            name = f"{shape.name}-{dtype}"
            if longest and start - began + longest > options.budget:
                left_out.append(name)
                continue
            rows = measure(shape, dtype, options.batches, options.tokens, options.repeats)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            seconds = time.perf_counter() - start
            longest = max(longest, seconds)
            path = options.results / "gpu_speed" / folder / name / "seed-0.json"
            _record(options, device, rows, seconds).save(path)
            for title, row in rows.items():
                print(f"{title}: {row['median_ms']:.2f} ms, {row.get('speedup', 1.0):.2f}x")
            print(f"record: {path}, after {seconds:.0f} s", flush=True)
    return left_out


def _record(
    options: argparse.Namespace, device: str, rows: Mapping[str, Any], seconds: float
) -> RunRecord:
    return RunRecord(
        config={
            "batches": options.batches,
            "tokens": options.tokens,
            "repeats": options.repeats,
            "new_tokens": NEW_TOKENS,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        method="shrink",
        task="gpu_speed",
        seed=0,
        speeds=rows,
        environment={
            **environment(torch.get_num_threads()),
            "device": device,
            "wall_seconds": round(seconds, 1),
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 all was measured, 1 not all fitted, 3 where there is no CUDA device."""
    parser = argparse.ArgumentParser(description="Dense against shrunk models on a CUDA device.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds in all")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "no CUDA device: this benchmark compares models on a GPU. Run it on a machine with "
            "one, with a CUDA build of torch.",
            file=sys.stderr,
        )
        return NO_DEVICE
    left_out = measure_all(options, torch.cuda.get_device_name())
    if left_out:
        print(
            f"left out, to stay within {options.budget:g} s: {', '.join(left_out)}. Give more as "
            "--budget, or fewer --batches or --repeats.",
            file=sys.stderr,
        )
    return TOO_SHORT if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
