"""The data of a task, as read (`RawTask`) and as a training loop takes them (`TaskData`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.tasks.config import TaskConfig
from neuroprune.tasks.presets import Kind


@dataclass(frozen=True)
class Split:
    """Examples as read, untokenised.

    Args:
        columns: role ("text", "text_pair", "label", "source", "target") -> one value per example.
            A target is a tuple of references; a label is a class number or a score.
    """

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: Sequence[int]) -> Split:
        """The examples of these row numbers, in this order."""
        return Split({role: [values[i] for i in rows] for role, values in self.columns.items()})


@dataclass(frozen=True)
class RawTask:
    """A task's examples, checked, cut to the limits, not yet tokenised.

    Args:
        config: the task.
        train: training examples; None where the source has no training split.
        evaluation: examples of `config.eval_split`.
        label_names: names of the classes by number; empty where there are none.
    """

    config: TaskConfig
    train: Split | None
    evaluation: Split
    label_names: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int | None:
        """Outputs of the classifier: classes, 1 for regression, None for the other kinds."""
        if self.config.task_kind is not Kind.CLASSIFICATION:
            return None
        return 1 if self.config.regression else len(self.label_names)

    def texts(self) -> Iterator[str]:
        """Every training text, to learn a tokenizer from; both sides of a translation."""
        columns = self.train.columns if self.train is not None else {}
        for role, values in columns.items():
            if role == "target":
                yield from (target[0] for target in values)
            elif role != "label":
                yield from values


@dataclass(frozen=True)
class TaskData:
    """A tokenised task.

    Args:
        config: the task.
        tokenizer: the tokenizer that was used.
        train: a `datasets.Dataset` with `labels`; None where there is no training split.
        evaluation: likewise.
        collator: makes a padded batch of a list of examples.
        num_labels: outputs of the classifier, 1 for regression, None for the other kinds.
        label_names: names of the classes by number.
        references: untokenised references of the evaluation examples, for generation; else empty.
    """

    config: TaskConfig
    tokenizer: Any
    train: Any
    evaluation: Any
    collator: Callable[[list[dict[str, Any]]], Any]
    num_labels: int | None = None
    label_names: tuple[str, ...] = ()
    references: tuple[tuple[str, ...], ...] = ()
