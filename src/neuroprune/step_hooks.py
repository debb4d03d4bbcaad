"""Around an optimizer step: hooks that are called once, and whether the step can be taken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
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


def is_finite(gradients: list[Tensor]) -> bool:
    """Whether every entry is a finite number.

    The 2-norm is one fast pass and one synchronisation. Where it is not finite, as a sum of huge
    but finite squares, the entries themselves decide.

    Args:
        gradients: at least one.
    """
    if bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
        return True
    return all(bool(torch.isfinite(g).all()) for g in gradients)


def is_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler has told a fused optimizer to skip this step.

    Args:
        optimizer: the torch optimizer, not a wrapper.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)
