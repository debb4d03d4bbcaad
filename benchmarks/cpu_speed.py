"""How much faster target mode's shapes are on a CPU: BERT-base and MiniLM, 50, 80 and 95 % removed.

Weights are random, since speed does not depend on them; the shapes are those that
`NeuroPrune(target=..., uniform=True)` makes of them. Dense and pruned models take turns. One
RunRecord.

Usage: python benchmarks/cpu_speed.py --threads 1
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from step_overhead import MINILM, bert

import neuroprune
from neuroprune import NeuroPrune
from neuroprune.anatomy.inputs import sample_inputs
from neuroprune.evaluation.size import size_report
from neuroprune.evaluation.speed import compare_speed
from neuroprune.record import RunRecord, environment

SHAPES: dict[str, dict[str, int]] = {"minilm": MINILM, "bert-base": {}}
TARGETS = (0.5, 0.8, 0.95)
TOKENS = 128


def pruned(shape: dict[str, int], target: float) -> Any:
    """A model of equal layers with `target` of its prunable weights removed."""
    model = bert(**shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner = neuroprune.attach(model, optimizer, NeuroPrune(target=target, uniform=True), 10)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    pruner.finish()
    return model.eval()


def measure(repeats: dict[int, int]) -> dict[str, dict[str, Any]]:
    """Row title -> sizes, speed-up and its interval."""
    rows: dict[str, dict[str, Any]] = {}
    for name, shape in SHAPES.items():
        models = {"dense": bert(**shape).eval()} | {
            f"{target:.0%}": pruned(shape, target) for target in TARGETS
        }
        make = partial(sample_inputs, models["dense"])
        for batch, count in repeats.items():
            report = compare_speed(models, make, [(batch, TOKENS)], count, 1)
            for key, ratio in report.comparisons[batch, TOKENS].speedups.items():
                block = neuroprune.anatomy_of(models[key])
                rows[f"{name} {key}, batch {batch}"] = {
                    "structural_sparsity": size_report(models[key]).structural_sparsity,
                    "heads": block.attentions[0].num_heads,
                    "neurons": block.mlps[0].d_ff,
                    "speedup": ratio.value,
                    "low": ratio.low,
                    "high": ratio.high,
                }
    return rows


def main() -> None:
    """Read the command line, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9, help="timed calls at batch 1")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/cpu_speed/uniform/seed-0.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure({1: options.repeats, 32: max(3, options.repeats // 2)})
    RunRecord(
        config={"shapes": SHAPES, "targets": list(TARGETS), "tokens": TOKENS},
        method="neuroprune",
        task="cpu_speed",
        seed=0,
        speeds=rows,
        environment=environment(options.threads),
    ).save(options.out)
    for name, row in rows.items():
        print(f"{name}: {row['speedup']:.2f}x ({row['low']:.2f} to {row['high']:.2f})")


if __name__ == "__main__":
    main()
