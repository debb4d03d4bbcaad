"""Training time against dense, fairly: dense and pruned trainings take turns, step by step.

A model is trained densely and, beside it on the same batches, once for each of the named cells of a
matrix, with the whole schedule squeezed into `--steps`. Every turn takes one step of each training,
so that a busy machine slows all alike. Reported for each: the ratio of the summed step times (cuts
included), and the share that the method's own work has outside the forward pass (connectivity,
controller, ranking, gates). A teacher that is the fine-tuned dense model is here a copy of the
model at the start, which takes the same time; what its own training takes is not in the figures.

Usage: python benchmarks/training_time.py --data-dir DATA
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
from transformers.trainer_pt_utils import LengthGroupedSampler

import neuroprune
from neuroprune.bench.config import Precision, RunConfig, TrainingConfig
from neuroprune.bench.matrix import Matrix
from neuroprune.bench.training import taught_by_start
from neuroprune.config import Config, ConfigError
from neuroprune.evaluation.size import size_report
from neuroprune.record import RunRecord, environment
from neuroprune.tasks.data import TaskData
from neuroprune.tasks.models import load_model_and_tokenizer
from neuroprune.tasks.preparation import prepare_task
from neuroprune.tasks.reading import read_task

METHOD_WORK = (
    "add_penalty_grad_",
    "observe_",
    "prox_",
    "cut_now",
    "before_shrink_",
    "after_shrink_",
)
CELLS = (
    "neuroprune-50 neuroprune-80 neuroprune-95 l1-80 magnitude-80 movement-80 proximal-group-80 "
    "fisher-80 cofi-80 cofi-distilled-80 cofi-distilled-95 cofi-hidden-80"
).split()


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
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
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


def batches_of(data: TaskData, training: TrainingConfig) -> DataLoader:
    """Batches as the Trainer makes them, shuffled anew in every epoch.

    Args:
        data: the task.
        training: batch size, seed and whether inputs of like length go together.
    """
    generator = torch.Generator().manual_seed(training.seed)
    grouped = None
    if training.group_by_length:
        grouped = LengthGroupedSampler(training.batch_size, data.train, generator=generator)
    return DataLoader(
        data.train,
        training.batch_size,
        shuffle=grouped is None,
        sampler=grouped,
        drop_last=True,
        collate_fn=data.collator,
        generator=generator,
    )


def measure(
    config: RunConfig, data_dir: Path, methods: Mapping[str, Config], steps: int
) -> RunRecord:
    """Train all of them in turns, and compare.

    Args:
        config: gives model, task, batches and learning rate.
        data_dir: what its files are relative to.
        methods: by the name that the record gives them.
        steps: of each training.

    Raises:
        ConfigError: the precision is another than float32.
    """
    if config.training.precision != Precision.FP32:
        raise ConfigError(
            f"trainings take turns in fp32, the matrix has {config.training.precision}."
        )
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
    loader = batches_of(data, config.training)
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
        config={
            **{table: config.to_dict()[table] for table in ("model", "task", "training")},
            "steps": steps,
            "trainings": {name: method.to_dict() for name, method in methods.items()},
        },
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
    parser.add_argument("--matrix", type=Path, default=Path("benchmarks/matrices/sst2.toml"))
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", default=CELLS, help="settings of the matrix")
    parser.add_argument("--steps", type=int, default=157)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/training_time/minilm/seed-0.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cells = Matrix.load(options.matrix).cells
    unknown = sorted(set(options.cells) - set(cells))
    if unknown:
        parser.error(f"{options.matrix} has no {', '.join(unknown)}, only {', '.join(cells)}.")
    methods = {name: taught_by_start(cells[name].method) for name in options.cells}
    config = cells[options.cells[0]].with_seed(0)
    record = measure(config, options.data_dir, methods, options.steps)
    record.save(options.out)
    print(json.dumps(record.speeds, indent=2))


if __name__ == "__main__":
    main()
