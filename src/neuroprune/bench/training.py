"""One fine-tuning under the Hugging Face Trainer: dense, or with a method attached."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from neuroprune.bench.config import Optimizer, Precision, Schedule, TrainingConfig
from neuroprune.checkpoint import save_pretrained
from neuroprune.choices import DENSE, FINETUNED
from neuroprune.config import Config, ConfigError
from neuroprune.plan import ShrinkPlan
from neuroprune.pruner import NonFiniteError, attach
from neuroprune.snapshots import wants_snapshots

_OPTIMIZERS = {
    Optimizer.ADAMW: "adamw_torch_fused",  # the same update in one pass over the memory
    Optimizer.ADAFACTOR: "adafactor",
    Optimizer.SGD: "sgd",
}
_SCHEDULES = {
    Schedule.LINEAR: "linear",
    Schedule.COSINE: "cosine",
    Schedule.CONSTANT: "constant_with_warmup",
}
PARTS = 20  # of a training, whose pace is told; the first ends where ramps begin
OnStep = Callable[[int, int, float], None]  # steps done, of how many, last loss
Collate = Callable[[list[dict[str, Any]]], Any]


class RunError(RuntimeError):
    """A run failed; the message says what is kept, where, and what to change."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training took, and what it removed.

    Args:
        seconds: wall-clock time of the training; saving is not counted.
        steps: optimizer steps.
        step_seconds: median time of one step.
        first_loss: mean loss of the first tenth of the forward passes, as it was trained on: of the
            task, or mixed with what a teacher adds.
        last_loss: the same of the last tenth.
        removed: what a method removed, counting the dense model's units.
        reached: what was asked for, as text, and where the model stands.
        snapshots: of the models that were saved on the way, size, step and quality.
        pace: median time of a step in each twentieth of the training, in order.
    """

    seconds: float
    steps: int
    step_seconds: float
    first_loss: float
    last_loss: float
    removed: ShrinkPlan | None = None
    reached: Mapping[str, float] | None = None
    snapshots: Sequence[Mapping[str, Any]] = ()
    pace: Sequence[float] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; of what was removed, the numbers of units."""
        out: dict[str, Any] = {
            "seconds": self.seconds,
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
        }
        if self.pace:
            out["pace"] = list(self.pace)
        if self.removed is not None:
            out["removed_heads"] = self.removed.num_heads
            out["removed_neurons"] = self.removed.num_neurons
            if self.removed.num_inputs:
                out["removed_inputs"] = self.removed.num_inputs
            if self.removed.remove_hidden:
                out["removed_hidden"] = len(self.removed.remove_hidden)
        if self.reached:
            out["reached"] = dict(self.reached)
        if self.snapshots:
            out["snapshots"] = [
                {key: value for key, value in entry.items() if key != "path"}
                for entry in self.snapshots
            ]
        return out


def taught_by_start(method: Config) -> Config:
    """A method whose teacher is the model as it is, where it is the fine-tuned dense model.

    That one has the same shape, and is not there before it is trained.

    Args:
        method: the pruning method.
    """
    if getattr(method, "teacher", None) != FINETUNED:
        return method
    changed: Any = method
    return cast("Config", dataclasses.replace(changed, teacher=DENSE))


def rehearse(model: Any, config: TrainingConfig, method: Config, examples: int) -> None:
    """Attach a method as `fine_tune` will, and take it off again: wrong settings show at once.

    Args:
        model: a transformers model that may be thrown away.
        config: the `[training]` table.
        method: the pruning method.
        examples: training examples.

    Raises:
        ConfigError: the method asks for what cannot be reached, or its settings do not fit.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    steps = _optimizer_steps(config, examples)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "none" if wants_snapshots(method) else None
        attach(model, optimizer, taught_by_start(method), steps, snapshot_dir=place).detach()


def _optimizer_steps(config: TrainingConfig, examples: int) -> int:
    """As the Trainer counts them: what is left of an epoch's last accumulation is a step."""
    if config.max_steps:
        return config.max_steps
    batches = math.ceil(examples / config.batch_size)
    each = max(math.ceil(batches / config.gradient_accumulation), 1)
    return math.ceil((config.epochs or 1.0) * each)


class _Watch:
    """Trainer events: times the steps, reports progress, keeps the last good state of an epoch."""

    def __init__(self, keep: Path, on_step: OnStep | None) -> None:
        self.keep = keep
        self.on_step = on_step
        self.step_seconds: list[float] = []
        self.losses: list[float] = []
        self.saving = 0.0
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, report."""
        self.step_seconds.append(time.perf_counter() - self._start)
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps, self.losses[-1])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep this epoch's model, except at the very end."""
        if state.global_step < state.max_steps:
            start = time.perf_counter()
            save_pretrained(kwargs["model"], self.keep)
            self.saving += time.perf_counter() - start


def fine_tune(
    model: Any,
    dataset: Any,
    collate: Collate,
    config: TrainingConfig,
    keep: Path,
    method: Config | None = None,
    on_step: OnStep | None = None,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    teacher: Path | None = None,
) -> TrainingResult:
    """Train a model in place.

    Args:
        model: a transformers model.
        dataset: examples by index, each a mapping of token ids and labels.
        collate: makes a batch of examples.
        config: the `[training]` table.
        keep: a directory that does not exist; should the run fail, the last good state is left
            there, otherwise nothing.
        method: the pruning method; None trains densely.
        on_step: called after every optimizer step.
        evaluate: model -> metrics, for the snapshots that a method takes.
        teacher: directory of the teacher, in place of the method's.

    Raises:
        RunError: the loss or a gradient is no number. The message names what was kept.
        ConfigError: "fp16" without a CUDA device.
    """
    from transformers import TrainerCallback

    class Watch(_Watch, TrainerCallback):
        """`_Watch` as a callback of the Trainer."""

    from neuroprune.integrations import NeuroPruneCallback

    watch = Watch(keep, on_step)
    watched: dict[str, Any] = (
        {"snapshot_dir": keep.with_name("snapshots"), "evaluate": evaluate}
        if wants_snapshots(method)
        else {}
    )
    pruning = None if method is None else NeuroPruneCallback(method, teacher=teacher, **watched)
    callbacks = [c for c in (pruning, watch) if c is not None]
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(model, dataset, collate, config, Path(folder), callbacks, watch.losses)
        start = time.perf_counter()
        try:
            trainer.train()
        except NonFiniteError as error:
            raise RunError(f"{error} {_kept(model, keep)}") from error
        seconds = time.perf_counter() - start - watch.saving
    shutil.rmtree(keep, ignore_errors=True)
    tenth = max(1, len(watch.losses) // 10)
    return TrainingResult(
        seconds,
        len(watch.step_seconds),
        statistics.median(watch.step_seconds),
        statistics.fmean(watch.losses[:tenth]),
        statistics.fmean(watch.losses[-tenth:]),
        None if pruning is None else pruning.removed,
        None if pruning is None else pruning.reached,
        () if pruning is None else pruning.snapshots,
        pace(watch.step_seconds),
    )


def pace(step_seconds: Sequence[float]) -> list[float]:
    """Median of each of `PARTS` equal parts of a training, or of each step where there are fewer.

    Args:
        step_seconds: time of every step, in order.
    """
    steps = len(step_seconds)
    parts = min(PARTS, steps)
    ends = [part * steps // parts for part in range(parts + 1)] if parts else []
    return [statistics.median(step_seconds[a:b]) for a, b in itertools.pairwise(ends)]


def _trainer(
    model: Any,
    dataset: Any,
    collate: Collate,
    config: TrainingConfig,
    folder: Path,
    callbacks: list[Any],
    losses: list[float],
) -> Any:
    from transformers import PrinterCallback, Trainer

    class FiniteTrainer(Trainer):
        """Stops before the optimizer step of a loss that is no number."""

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = super().training_step(*args, **kwargs)
            value = float(loss) * self.current_gradient_accumulation_steps
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"the loss became {value} at step {self.state.global_step + 1}; the step was "
                    "not taken. Lower the learning rate or the strength of the penalty, or check "
                    "the data for empty targets."
                )
            losses.append(value)
            return loss

    trainer = FiniteTrainer(
        model=model,
        args=_arguments(config, folder),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=callbacks,
    )
    # A model's loss is the mean over its batch. Models that take extra keyword arguments and ignore
    # them are otherwise trusted to have divided it by the accumulation steps, which they have not.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(config: TrainingConfig, folder: Path) -> Any:
    from transformers import TrainingArguments

    if config.precision is Precision.FP16 and not torch.cuda.is_available():
        raise ConfigError('precision = "fp16" needs a CUDA device; use "bf16" or "fp32" here.')
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs or 1.0,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        optim=_OPTIMIZERS[Optimizer(config.optimizer)],
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_ratio,
        lr_scheduler_type=_SCHEDULES[Schedule(config.lr_schedule)],
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision is Precision.BF16,
        fp16=config.precision is Precision.FP16,
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _kept(model: Any, keep: Path) -> str:
    """Save the model as it stands, if it is sound; say what there is."""
    if all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        save_pretrained(model, keep)
        return f"The model as it was before that step is saved in {keep}."
    if keep.is_dir():
        return f"The model of the last completed epoch is saved in {keep}."
    return "No epoch was completed; the model that was started from is unchanged."
