"""Peak memory of a training, dense and with a method attached.

Each training runs in a process of its own (a process's peak never falls), on the same random
batches and a model of the MiniLM shape with random weights. Reported is the peak of resident
memory above what the process held before the model was made.

Usage: python benchmarks/peak_memory.py --out results/seed-0.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from neuroprune.config import Config, method_config
from neuroprune.record import RunRecord, environment

BATCH, TOKENS, STEPS = 16, 64, 40
TRAININGS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "paper mode, penalty": {"name": "neuroprune"},
    "paper mode, prox": {"name": "neuroprune", "apply": "prox", "alpha": 1.0, "beta": 1.0},
    "target 0.5": {"name": "neuroprune", "target": 0.5},
    "target 0.8": {"name": "neuroprune", "target": 0.8},
    "weights 0.8": {"name": "neuroprune", "target": "weights:0.8"},
    "target 0.8, outputs compared": {"name": "neuroprune", "target": 0.8, "redundancy": "output"},
}


def _peak() -> int:
    """Peak resident memory of this process, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def train(settings: dict[str, Any] | None, threads: int) -> dict[str, float]:
    """Train in this process, and say what it took.

    Args:
        settings: name and settings of the method; None trains densely.
        threads: compute threads.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    import neuroprune

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = _peak()
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    model = BertForSequenceClassification(BertConfig(num_attention_heads=12, **shape)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pruner = None
    if settings is not None:
        pruner = neuroprune.attach(model, optimizer, _method(settings), STEPS)
    for _ in range(STEPS):
        ids = torch.randint(1000, 30000, (BATCH, TOKENS))
        labels = torch.randint(0, 2, (BATCH,))
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if pruner is not None:
        pruner.finish()
    return {"peak_bytes": float(_peak() - before)}


def _method(settings: dict[str, Any]) -> Config:
    rest = {key: value for key, value in settings.items() if key != "name"}
    return method_config(settings["name"], rest)


def measure(threads: int) -> dict[str, dict[str, float]]:
    """Every training in a process of its own, and its peak as a multiple of the dense one's.

    Args:
        threads: compute threads of each.
    """
    rows = {}
    for name, settings in TRAININGS.items():
        request = json.dumps(settings)
        command = [sys.executable, __file__, "--child", request, "--threads", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        rows[name]["times_dense"] = rows[name]["peak_bytes"] / rows["dense"]["peak_bytes"]
    return rows


def main() -> None:
    """Read the command line, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/peak_memory/minilm/seed-0.json")
    )
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(train(json.loads(options.child), options.threads)))
        return
    rows = measure(options.threads)
    RunRecord(
        config={"batch": BATCH, "tokens": TOKENS, "steps": STEPS, "trainings": TRAININGS},
        method="neuroprune",
        task="peak_memory",
        seed=0,
        speeds=rows,
        environment=environment(options.threads),
    ).save(options.out)
    for name, row in rows.items():
        print(f"{name}: {row['peak_bytes'] / 1e6:.0f} MB, {row['times_dense']:.3f}x dense")


if __name__ == "__main__":
    main()
