"""Indices of units and input dimensions: reading them, and counting them before and after a cut.

Standard library only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any


class PlanError(ValueError):
    """A plan contradicts itself or does not fit the model it is applied to."""


def read_indices(where: str, values: Iterable[int]) -> tuple[int, ...]:
    """Indices counted from 0, ascending, each once.

    Args:
        where: what they are of, for the message.
        values: integers, or an array of them.

    Raises:
        PlanError: not a list, or an entry that is negative or no integer.
    """
    out = []
    if hasattr(
        values, "tolist"
    ):  # an array: its dtype decides, so that a mask is not read as indices
        values = values.tolist()
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise PlanError(f"{where}: expected a list of indices, got {values!r}.")
    for value in values:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise PlanError(f"{where}: expected integer indices, got {value!r}.")
        index = value.__index__()
        if index < 0:
            raise PlanError(
                f"{where}: index {index} is negative. Count units from 0, as "
                "`neuroprune inspect` lists them."
            )
        out.append(index)
    return tuple(sorted(set(out)))


def read_groups(where: str, groups: Any) -> Mapping[str, tuple[int, ...]]:
    """Indices of the input dimensions of a block, group by group; groups without any are left out.

    Args:
        where: what they are of, for the message.
        groups: group of matrices -> indices.

    Raises:
        PlanError: not a mapping, or indices that are none.
    """
    if not isinstance(groups, Mapping):
        raise PlanError(f"{where}: expected groups of matrices -> indices, got {groups!r}.")
    found = {group: read_indices(f"{where}[{group!r}]", v) for group, v in groups.items()}
    return MappingProxyType({group: found[group] for group in sorted(found) if found[group]})


def read_count(where: str, value: Any) -> int:
    """A number of units or input dimensions.

    Args:
        where: of what, for the message.
        value: the number.

    Raises:
        PlanError: no integer >= 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanError(
            f"the lineage is damaged: {where} has {value!r} units; expected a count >= 0."
        )
    return value


def frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mapping that cannot be changed, layer 2 before layer 10.

    Args:
        mapping: block name -> anything.
    """
    return MappingProxyType(dict(sorted(mapping.items(), key=lambda item: _natural(item[0]))))


def to_earlier(gone: Iterable[int], indices: Iterable[int]) -> list[int]:
    """Positions among the survivors of `gone` -> positions before `gone` was removed.

    Args:
        gone: what was removed.
        indices: positions among what is left.
    """
    # The n-th removed one has (itself - n) survivors before it: those at or after it move by more.
    before = [removed - n for n, removed in enumerate(sorted(gone))]
    return [index + bisect_right(before, index) for index in indices]


def kept(total: int, removed: Iterable[int]) -> tuple[int, ...]:
    """0..total-1 without `removed`.

    Args:
        total: how many there were.
        removed: which are gone.
    """
    gone = set(removed)
    return tuple(i for i in range(total) if i not in gone)


def _natural(name: str) -> list[tuple[int, str]]:
    parts = str(name).split(".")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
