"""Training time against dense, fairly: dense and pruned trainings take turns, step by step.

A model is trained densely and, beside it on the same batches, once for each method and target, with
the whole schedule squeezed into `--steps`. Every turn takes one step of each training, so that a
busy machine slows all alike. Reported for each: the ratio of the summed step times (cuts included),
and the share that the method's own work has (connectivity, controller, ranking, gates).

Usage: python benchmarks/training_time.py --data-dir DATA --methods neuroprune cofi --steps 100
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

import neuroprune
from neuroprune.bench.config import RunConfig
from neuroprune.config import Config, method_config
from neuroprune.evaluation.size import size_report
from neuroprune.record import RunRecord, environment
from neuroprune.tasks.models import load_model_and_tokenizer
from neuroprune.tasks.preparation import prepare_task
from neuroprune.tasks.reading import read_task

METHOD_WORK = ("observe_", "prox_", "cut_now", "before_shrink_", "after_shrink_")


class Training:
    """One of the trainings that take turns.

    Args:
        model: the model; trained in place.
        steps: optimizer steps of the whole training.
        rate: learning rate.
        method: what prunes it; None trains densely.
    """

    def __init__(self, model: Any, steps: int, rate: float, method: Config | None = None) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        self.seconds: Counter[str] = Counter()
        self.pruner = None
        if method is not None:
            self.pruner = neuroprune.attach(model, self.optimizer, method, steps)
            for name in METHOD_WORK:
                call = getattr(self.pruner.method, name)
                setattr(self.pruner.method, name, self._timed("method", call))

    def _timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = call(*args, **kwargs)
            self.seconds[what] += time.perf_counter() - start
            return out

        return timed

    def step(self, batch: dict[str, Any]) -> None:
        """One optimizer step, on the clock."""
        start = time.perf_counter()
        self.model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds["all"] += time.perf_counter() - start


def measure(
    config: RunConfig, data_dir: Path, methods: Mapping[str, Config], steps: int
) -> RunRecord:
    """Train all of them in turns, and compare.

    Args:
        config: gives model, task, batch size and learning rate.
        data_dir: what its files are relative to.
        methods: by the name that the record gives them.
        steps: of each training.
    """
    raw = read_task(config.task, data_dir, config.training.seed)
    trainings, data = {}, None
    for name, method in {"dense": None, **methods}.items():
        model, tokenizer = load_model_and_tokenizer(
            config.model.origin(config.training.seed),
            config.task,
            num_labels=raw.num_labels,
            seed=config.training.seed,
            texts=raw.texts(),
            label_names=raw.label_names,
        )
        data = data or prepare_task(raw, tokenizer)
        trainings[name] = Training(model, steps, config.training.learning_rate, method)
    loader = DataLoader(
        data.train,
        config.training.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=data.collator,
        generator=torch.Generator().manual_seed(config.training.seed),
    )
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))  # shuffled anew every time
    batches = itertools.islice(epochs, steps)
    for batch in track(batches, "steps", steps, console=Console(stderr=True), transient=True):
        for training in trainings.values():
            training.step(dict(batch))
    dense = trainings["dense"].seconds["all"]
    speeds: dict[str, dict[str, Any]] = {"dense": {"seconds": dense, "steps": steps}}
    for name, training in trainings.items():
        if training.pruner is not None:
            training.pruner.finish()
            total = training.seconds["all"]
            speeds[name] = {
                "seconds": total,
                "steps": steps,
                "times_dense": total / dense,
                "method_share": training.seconds["method"] / total,
                "reached": size_report(training.model).structural_sparsity,
            }
    threads = torch.get_num_threads()
    return RunRecord(
        config={**config.to_dict(), "steps": steps, "trainings": list(methods)},
        method="neuroprune",
        task="training_time",
        seed=config.training.seed,
        metrics={},
        sizes={},
        speeds=speeds,
        training={},
        environment=environment(threads),
    )


def main() -> None:
    """Read the command line, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("benchmarks/experiments/sst2-target/target-80/config.toml"),
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["neuroprune"])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.8, 0.95])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/training_time/minilm/seed-0.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = RunConfig.load(options.config).with_seed(0)
    methods = {
        f"{name}, structural {target:g}": method_config(name, {"target": target})
        for name in options.methods
        for target in options.targets
    }
    record = measure(config, options.data_dir, methods, options.steps)
    record.save(options.out)
    print(json.dumps(record.speeds, indent=2))


if __name__ == "__main__":
    main()
