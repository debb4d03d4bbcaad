"""Hooks around an optimizer step that are called once a step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

StepHook = Callable[[Optimizer, Any, Any], None]


def around_step(optimizer: Optimizer, before: StepHook, after: StepHook) -> list[RemovableHandle]:
    """Call `before` and `after` around every step of an optimizer, once each.

    torch calls step hooks from the `step` of every class that it has seen an instance of. Where
    `step` of a subclass calls `super().step()`, that is twice in one step; here the outermost
    counts. A step that raises leaves nothing behind.

    Args:
        optimizer: the torch optimizer, not a wrapper.
        before: called with the optimizer and the arguments of `step`.
        after: the same.

    Returns:
        Handles that take the hooks away again.
    """

    def first(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not _is_stepping(optimizer):
            before(optimizer, args, kwargs)

    def last(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not _is_stepping(optimizer):
            after(optimizer, args, kwargs)

    return [optimizer.register_step_pre_hook(first), optimizer.register_step_post_hook(last)]


def _is_stepping(optimizer: Optimizer) -> bool:
    """Whether the caller runs inside the body of a `step` of this optimizer."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "step" and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False
