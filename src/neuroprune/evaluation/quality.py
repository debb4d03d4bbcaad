"""`evaluate`: a model's metrics on a task, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.anatomy.inputs import device_of, evaluating, to_device
from neuroprune.tasks.data import TaskData
from neuroprune.tasks.metrics import score, score_logits
from neuroprune.tasks.presets import Kind
from neuroprune.tasks.trainer import decode, token_losses

Batch = dict[str, Tensor]


class EvaluationError(ValueError):
    """A model cannot be evaluated on a task; the message says why and what to change."""


def evaluate(
    model: Any, data: TaskData, batch_size: int = 32, progress: bool = False
) -> dict[str, float]:
    """The task's metrics of a model, on the task's evaluation split.

    Batches hold examples of similar length, so that little is padded. Generation is a beam or
    greedy search of the task's `num_beams` and `max_target_length`. The model is measured on the
    device where it is, in eval mode, and is left in the mode it was in.

    Args:
        model: a transformers model with the head of the task.
        data: the task.
        batch_size: examples in one forward pass.
        progress: show a bar on standard error.

    Returns:
        Metric name -> value, in the order of the task's `metrics`.

    Raises:
        EvaluationError: the model has another number of labels, or its outputs are not finite.
        MissingExtraError: a metric's package is not installed.

    Example:
        >>> evaluate(model, data)  # doctest: +SKIP
        {'accuracy': 0.85}
    """
    if batch_size < 1:
        raise EvaluationError(f"batch_size must be at least 1, got {batch_size}.")
    kind = data.config.task_kind
    names = tuple(data.config.metrics or ())
    if kind is Kind.CLASSIFICATION:
        _check_labels(model, data)
        run = _logits
    else:
        run = _generated if kind.is_generation else _losses
    order = _by_length(data.evaluation)
    outputs: list[Any] = [None] * len(order)
    with evaluating(model):
        for rows in _shown(list(_chunks(order, batch_size)), progress, data.config.name):
            batch = to_device(data.collator([data.evaluation[i] for i in rows]), device_of(model))
            for row, value in zip(rows, run(model, batch, data), strict=True):
                outputs[row] = value
    if kind.is_generation:
        return score(names, outputs, data.references)
    values = np.asarray(outputs)
    if kind.predicts_tokens:
        return score(names, values[:, 0], values[:, 1])
    labels = np.asarray(data.evaluation["labels"])
    return score_logits(names, values, labels, bool(data.config.regression))


def _logits(model: Any, batch: Batch, data: TaskData) -> Sequence[Any]:
    batch.pop("labels", None)
    return _finite(model(**batch).logits.float()).tolist()


def _losses(model: Any, batch: Batch, data: TaskData) -> Sequence[Any]:
    labels = batch.pop("labels")
    return _finite(token_losses(model(**batch).logits, labels, data.config.task_kind)).tolist()


def _generated(model: Any, batch: Batch, data: TaskData) -> Sequence[Any]:
    ids = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=data.config.max_target_length,
        num_beams=data.config.num_beams,
        do_sample=False,
    )
    return decode(data.tokenizer, ids.cpu().numpy())


def _finite(values: Tensor) -> Tensor:
    if bool(torch.isfinite(values).all()):
        return values
    raise EvaluationError(
        "the model's outputs are not finite (NaN or infinite), so it has no quality to measure. "
        "Its training diverged: lower the learning rate or the strengths, or use float32."
    )


def _check_labels(model: nn.Module, data: TaskData) -> None:
    have: Any = getattr(getattr(model, "config", None), "num_labels", None)
    if have != data.num_labels:
        raise EvaluationError(
            f"the model has {have} labels, the task {data.config.name!r} has {data.num_labels}. "
            "Evaluate a model that was fine-tuned for this task, or correct the task's labels."
        )


def _by_length(examples: Any) -> list[int]:
    """Row numbers, longest example first: a batch that does not fit fails at once."""
    lengths = [len(ids) for ids in examples["input_ids"]]
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _chunks(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _shown(batches: list[Any], progress: bool, name: str) -> Iterable[Any]:
    if not progress:
        return batches
    from rich.console import Console
    from rich.progress import track

    return track(batches, f"evaluating {name}", console=Console(stderr=True), transient=True)
