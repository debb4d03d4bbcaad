"""`read_task`: from a `TaskConfig` to checked examples, whatever the source."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuroprune.tasks.config import TaskConfig
from neuroprune.tasks.data import RawTask, Split
from neuroprune.tasks.errors import DataError
from neuroprune.tasks.files import locate, pick, read_columns
from neuroprune.tasks.hub import load_hub_dataset
from neuroprune.tasks.labels import label_map, scores
from neuroprune.tasks.packages import read_package
from neuroprune.tasks.presets import Kind

TRAIN = "train"
_EVALUATION_SEED = 0  # the evaluation examples do not depend on the run
_MISSING = "is missing (null)"
_Numbering = Callable[[Sequence[Any], str], Sequence[Any]]  # labels, where they stand


def read_task(
    config: TaskConfig,
    data_dir: Path | str | None = None,
    seed: int = 0,
    with_train: bool = True,
) -> RawTask:
    """Read and check the examples of a task.

    Args:
        config: the task.
        data_dir: what relative paths of `config.files` are relative to; `$NEUROPRUNE_DATA` where
            None.
        seed: picks the training examples where `config.train_limit` is set.
        with_train: False leaves the training split out, to evaluate a model only. It is still read
            where the classes are to be learnt from it.

    Returns:
        The training split, where there is one, and the evaluation split.

    Raises:
        DataError: a file, split or column is missing, a split is empty, a file is not UTF-8, a
            label is unknown, or the hub cannot be reached; the message holds the remedy.
        MissingExtraError: a package that this source needs is not installed.

    Example:
        >>> raw = read_task(config, data_dir="data")  # doctest: +SKIP
    """
    source = _source(config, data_dir)
    evaluation = source.read(str(config.eval_split))
    is_classes = config.task_kind is Kind.CLASSIFICATION and not config.regression
    known = config.labels or source.class_names
    train = None
    if TRAIN in source.splits and (with_train or (is_classes and known is None)):
        train = source.read(TRAIN)
    names: tuple[str, ...] = ()
    number: _Numbering | None = scores if config.regression else None
    if is_classes:
        first, place = (evaluation, config.eval_split) if train is None else (train, TRAIN)
        mapping = label_map(first.columns["label"], known, source.place(str(place)))
        names, number = mapping.names, mapping.apply
    if number is not None:
        evaluation = _relabelled(evaluation, number, source.place(str(config.eval_split)))
        train = None if train is None else _relabelled(train, number, source.place(TRAIN))
    if train is not None:
        train = _limited(train, config.train_limit, seed, keep_order=False)
    evaluation = _limited(evaluation, config.eval_limit, _EVALUATION_SEED, keep_order=True)
    return RawTask(config, train if with_train else None, evaluation, names)


def _source(config: TaskConfig, data_dir: Path | str | None) -> _Source:
    if config.files is not None:
        return _Files(config, data_dir)
    return _Package(config) if config.package is not None else _Hub(config)


def _relabelled(split: Split, number: _Numbering, place: str) -> Split:
    return Split({**split.columns, "label": number(split.columns["label"], place)})


class _Source(ABC):
    """Where splits come from. Subclasses say which there are and read one."""

    splits: tuple[str, ...]
    class_names: tuple[str, ...] | None = None

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    def read(self, split: str) -> Split:
        """One split by role, checked."""
        if split not in self.splits:
            raise DataError(
                f"the task {self.config.name!r} has no split {split!r}; it has "
                f"{', '.join(self.splits)}. Set eval_split to one of them, or add it."
            )
        columns = self._columns(split)
        if not len(next(iter(columns.values()))):
            raise DataError(
                f"the split {split!r} of the task {self.config.name!r} is empty: "
                f"{self.place(split)} has no rows. Give a source with examples."
            )
        return Split(columns)

    @abstractmethod
    def _columns(self, split: str) -> dict[str, list[Any]]:
        """Role -> values of one split."""

    def place(self, split: str) -> str:
        """Where a split is, for messages."""
        return f"{self.config.dataset or self.config.package}, split {split!r}"


class _Files(_Source):
    def __init__(self, config: TaskConfig, data_dir: Path | str | None) -> None:
        super().__init__(config)
        self.data_dir = data_dir
        self.splits = tuple(config.files or ())

    def _listed(self, split: str) -> list[str]:
        value = (self.config.files or {})[split]
        return [value] if isinstance(value, str) else list(value)

    def _columns(self, split: str) -> dict[str, list[Any]]:
        roles = self.config.columns
        out: dict[str, list[Any]] = {role: [] for role in roles}
        for name in self._listed(split):
            path = locate(name, self.data_dir)
            numbers, values = read_columns(path, list(dict.fromkeys(roles.values())))
            for role, column in roles.items():
                checked = _checked(role, column, values[column], str(path), numbers)
                out[role].extend(checked)
        return out

    def place(self, split: str) -> str:
        return ", ".join(str(locate(name, self.data_dir)) for name in self._listed(split))


class _Package(_Source):
    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.data = read_package(str(config.package))
        self.splits = tuple(self.data)

    def _columns(self, split: str) -> dict[str, list[Any]]:
        columns, place = self.data[split], self.place(split)
        return {
            role: _checked(role, column, pick(columns, column, place), place)
            for role, column in self.config.columns.items()
        }


class _Hub(_Source):
    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.data = load_hub_dataset(str(config.dataset))
        self.splits = tuple(self.data)
        feature = self.data[self.splits[0]].features.get(config.label_column)
        self.class_names = tuple(feature.names) if hasattr(feature, "names") else None

    def _columns(self, split: str) -> dict[str, list[Any]]:
        data, place = self.data[split], self.place(split)
        out = {}
        for role, column in self.config.columns.items():
            parent = column if column in data.column_names else column.partition(".")[0]
            if parent not in data.column_names:
                pick(dict.fromkeys(data.column_names), column, place)  # raises, listing them
            values = list(data[parent])
            if parent != column:
                values = [pick({parent: value}, column, place) for value in values]
            out[role] = _checked(role, column, values, place)
        return out


def _checked(
    role: str, column: str, values: Sequence[Any], where: str, numbers: Sequence[int] | None = None
) -> list[Any]:
    """Values of a role in the form the rest relies on; see `Split`."""
    out = []
    for i, value in enumerate(values):
        try:
            out.append(_value(role, value))
        except ValueError as error:
            row = numbers[i] if numbers is not None else i + 1
            raise DataError(
                f"{where}, row {row}: the column {column!r} {error}. Correct the row, or set "
                f"{role}_column to another column."
            ) from None
    return out


def _value(role: str, value: Any) -> Any:
    if value is None:
        raise ValueError(_MISSING)
    if role == "label":
        return value
    if role == "target":
        references = (
            (value,)
            if isinstance(value, str)
            else tuple(value)
            if isinstance(value, list | tuple)
            else ()
        )
        if not references or not all(isinstance(r, str) for r in references):
            raise ValueError(f"must hold a text or a list of texts, got {value!r}")
        return references
    if role == "source" and isinstance(value, list) and all(isinstance(s, str) for s in value):
        return " ".join(value)  # a document as a list of sentences
    if not isinstance(value, str):
        raise ValueError(f"must hold a text, got {value!r}")
    return value


def _limited(split: Split, limit: int | None, seed: int, keep_order: bool) -> Split:
    """The first `limit` examples of a shuffle that the seed fixes."""
    if limit is None or limit >= len(split):
        return split
    rows = list(range(len(split)))
    random.Random(seed).shuffle(rows)
    chosen = rows[:limit]
    return split.take(sorted(chosen) if keep_order else chosen)
