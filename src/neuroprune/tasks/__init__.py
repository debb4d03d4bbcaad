"""Tasks: data, metrics and models, from a `TaskConfig` to what a training loop takes.

    raw = read_task(config, data_dir)
    model, tokenizer = load_model_and_tokenizer(source, config, num_labels=raw.num_labels)
    data = prepare_task(raw, tokenizer)
    Trainer(model, train_dataset=data.train, data_collator=data.collator, ...)

Names are resolved on first use: reading a configuration loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroprune.tasks.config import Kind, TaskConfig
    from neuroprune.tasks.data import RawTask, Split, TaskData
    from neuroprune.tasks.errors import DataError, MissingExtraError, ModelSourceError
    from neuroprune.tasks.metrics import METRICS, Metric
    from neuroprune.tasks.models import load_model_and_tokenizer, resolve_source
    from neuroprune.tasks.preparation import load_task, prepare_task
    from neuroprune.tasks.reading import read_task
    from neuroprune.tasks.tokenizers import learn_tokenizer
    from neuroprune.tasks.trainer import compute_metrics, preprocess_logits

_LAZY = {
    "METRICS": "metrics",
    "DataError": "errors",
    "Kind": "config",
    "Metric": "metrics",
    "MissingExtraError": "errors",
    "ModelSourceError": "errors",
    "RawTask": "data",
    "Split": "data",
    "TaskConfig": "config",
    "TaskData": "data",
    "compute_metrics": "trainer",
    "learn_tokenizer": "tokenizers",
    "load_model_and_tokenizer": "models",
    "load_task": "preparation",
    "prepare_task": "preparation",
    "preprocess_logits": "trainer",
    "read_task": "reading",
    "resolve_source": "models",
}

__all__ = [
    "METRICS",
    "DataError",
    "Kind",
    "Metric",
    "MissingExtraError",
    "ModelSourceError",
    "RawTask",
    "Split",
    "TaskConfig",
    "TaskData",
    "compute_metrics",
    "learn_tokenizer",
    "load_model_and_tokenizer",
    "load_task",
    "prepare_task",
    "preprocess_logits",
    "read_task",
    "resolve_source",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
