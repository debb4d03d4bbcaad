"""Metrics inside the Hugging Face `Trainer` and `Seq2SeqTrainer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neuroprune.tasks.data import TaskData
from neuroprune.tasks.errors import DataError
from neuroprune.tasks.metrics import score, score_logits
from neuroprune.tasks.preparation import IGNORED
from neuroprune.tasks.presets import Kind


def compute_metrics(data: TaskData) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` argument of a trainer, for the task's own evaluation split.

    Classification: `Trainer`. Generation: `Seq2SeqTrainer` with `predict_with_generate=True`.
    Language modelling, masked or not: `Trainer` with
    `preprocess_logits_for_metrics=preprocess_logits(data)`.

    Args:
        data: the task.

    Returns:
        A function of an `EvalPrediction`, giving the task's metrics.

    Raises:
        DataError: (the function) predictions of another split than the task's.

    Example:
        >>> Trainer(..., compute_metrics=compute_metrics(data))  # doctest: +SKIP
    """
    names = tuple(data.config.metrics or ())
    kind = data.config.task_kind

    def classification(output: Any) -> dict[str, float]:
        logits = np.asarray(_first(output.predictions))
        labels = np.asarray(output.label_ids)
        return score_logits(names, logits, labels, bool(data.config.regression))

    def generation(output: Any) -> dict[str, float]:
        ids = np.asarray(_first(output.predictions))
        if len(ids) != len(data.references):
            raise DataError(
                f"got {len(ids)} generated texts for {len(data.references)} references; evaluate "
                "on data.evaluation, whole and in order."
            )
        return score(names, decode(data.tokenizer, ids), data.references)

    def language_modelling(output: Any) -> dict[str, float]:
        sums = np.asarray(_first(output.predictions))
        if sums.ndim != 2 or sums.shape[1] != 2:
            raise DataError(
                "expected summed losses and token counts: pass "
                "preprocess_logits_for_metrics=preprocess_logits(data) to the trainer."
            )
        return score(names, sums[:, 0], sums[:, 1])

    if kind is Kind.CLASSIFICATION:
        return classification
    return generation if kind.is_generation else language_modelling


def preprocess_logits(data: TaskData) -> Callable[[Any, Any], Any] | None:
    """The `preprocess_logits_for_metrics` argument of a trainer, which keeps memory small.

    Args:
        data: the task.

    Returns:
        For language modelling, masked or not, a function (logits, labels) -> (batch, 2), the summed
        loss and the token count of each block; else None.
    """
    kind = data.config.task_kind
    if not kind.predicts_tokens:
        return None
    return lambda logits, labels: token_losses(_first(logits), labels, kind)


def token_losses(logits: Any, labels: Any, kind: Kind = Kind.LANGUAGE_MODELLING) -> Any:
    """Summed losses of each block, and how many tokens they are over.

    Args:
        logits: shape (batch, length, vocabulary).
        labels: token ids, shape (batch, length); -100 is not counted.
        kind: a position predicts the next token, or with masks the token of its own place.

    Returns:
        Tensor of shape (batch, 2): the sum in nats, the count.
    """
    import torch
    from torch.nn import functional

    targets = labels
    if kind is not Kind.MASKED_LANGUAGE_MODELLING:
        logits, targets = logits[:, :-1], labels[:, 1:]
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    counts = (targets != IGNORED).sum(1)
    return torch.stack([losses.sum(1), counts.to(losses.dtype)], dim=1)


def decode(tokenizer: Any, ids: Any) -> list[str]:
    """Generated token ids as texts.

    Args:
        tokenizer: the task's tokenizer.
        ids: shape (n, length); -100 counts as padding.
    """
    ids = np.where(np.asarray(ids) == IGNORED, tokenizer.pad_token_id, np.asarray(ids))
    texts = tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
    return [str(text).strip() for text in texts]


def _first(value: Any) -> Any:
    """The logits, where a model also returns its hidden states."""
    return value[0] if isinstance(value, tuple) else value
