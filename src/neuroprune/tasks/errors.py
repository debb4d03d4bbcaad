"""Errors of the tasks, and the check for optional packages."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class DataError(ValueError):
    """The data are not what the task needs; the message says where, and what to change."""


class ModelSourceError(ValueError):
    """A model cannot be found, or does not fit the task; the message says what to give."""


class MissingExtraError(ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


def require(module: str, purpose: str) -> Any:
    """Import a module of the `[bench]` extra.

    Args:
        module: dotted name.
        purpose: what it is needed for, as the subject of the message.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package {package!r}: pip install 'neuroprune[bench]'."
        ) from error
