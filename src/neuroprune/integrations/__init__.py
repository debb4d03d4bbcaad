"""Where neuroprune meets training frameworks. Importing this imports none of them."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _callback() -> Any:
    from neuroprune.integrations.trainer import callback_class

    return callback_class()


def __getattr__(name: str) -> Any:
    if name == "NeuroPruneCallback":
        return _callback()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
