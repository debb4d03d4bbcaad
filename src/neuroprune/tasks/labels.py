"""From label values as they stand in the data to class numbers or scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.tasks.errors import DataError


@dataclass(frozen=True)
class LabelMap:
    """Which class a label value is.

    Args:
        names: names of the classes by number.
        numbers: label value, as text -> class number.
    """

    names: tuple[str, ...]
    numbers: Mapping[str, int]

    def apply(self, values: Sequence[Any], where: str) -> list[int]:
        """Class numbers of label values.

        Args:
            values: labels as read.
            where: file or split, for the message.

        Raises:
            DataError: a value is none of the known labels.
        """
        out = []
        for row, value in enumerate(values, 1):
            number = self.numbers.get(_key(value))
            if number is None:
                unlabelled = _key(value) == "-1"
                hint = (
                    "-1 marks examples without a label, as in GLUE's test sets: set eval_split to "
                    "a labelled split."
                    if unlabelled
                    else "Correct the data, or list all classes in labels = [...] (regression = "
                    "true for scores)."
                )
                raise DataError(
                    f"{where}, example {row}: unknown label {value!r}; known: "
                    f"{', '.join(self.numbers)}. {hint}"
                )
            out.append(number)
        return out


def label_map(values: Sequence[Any], names: Sequence[str] | None, where: str) -> LabelMap:
    """The classes of a task.

    Args:
        values: labels of the training split (of the evaluation split where there is none).
        names: the task's `labels`; the data then hold these names, or numbers counting them
            from 0. Without them, the distinct values are the classes, in sorted order.
        where: file or split, for the message.

    Raises:
        DataError: fewer than two classes, or numbers that are scores and no classes.
    """
    if names is not None:
        numbers = {str(i): i for i in range(len(names))}
        return LabelMap(tuple(names), numbers | {name: i for i, name in enumerate(names)})
    found = {_key(value) for value in values}
    for value in sorted(found):
        if _is_fraction(value):
            raise DataError(
                f"{where}: the label {value!r} is not a class number. Set regression = true to "
                "predict it as a score, or list the classes in labels = [...]."
            )
    if "-1" in found:
        raise DataError(
            f"{where}: the label -1 marks examples without a label. Use a labelled split."
        )
    if len(found) < 2:
        raise DataError(
            f"{where}: every label is {next(iter(found))!r}; expected at least two classes. Check "
            "label_column, or list the classes in labels = [...]."
        )
    integers = all(_is_integer(value) for value in found)
    ordered = sorted(found, key=int) if integers else sorted(found)
    return LabelMap(tuple(ordered), {value: i for i, value in enumerate(ordered)})


def scores(values: Sequence[Any], where: str) -> list[float]:
    """Labels of a regression.

    Args:
        values: labels as read.
        where: file or split, for the message.

    Raises:
        DataError: a value is no finite number, or all are -1: the split has no labels.
    """
    out = []
    for row, value in enumerate(values, 1):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise DataError(
                f"{where}, example {row}: the label {value!r} is not a finite number, which "
                "regression = true needs. Correct the data, or set regression = false."
            )
        out.append(number)
    if out and set(out) == {-1.0}:
        raise DataError(
            f"{where}: every label is -1, which marks examples without a label, as in the test set "
            "of STS-B. Set eval_split to a labelled split."
        )
    return out


def _key(value: Any) -> str:
    """A label value as text; True, 1.0 and 1 are the same class."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _is_integer(value: str) -> bool:
    return value.removeprefix("-").isdecimal()


def _is_fraction(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    return not number.is_integer()
