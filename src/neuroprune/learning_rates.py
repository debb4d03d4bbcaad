"""Learning rates that hold for one optimizer step."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class LearningRates:
    """Scales the learning rates of an optimizer for a step and gives the user's own back.

    Schedulers and logs, which look between steps, never see the scaled ones, unless a step raises
    and is passed over: then the user's own come back before the next. Groups without a learning
    rate of their own (relative steps) are left as they are.

    Args:
        optimizer: the torch optimizer, not a wrapper.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._own: list[tuple[dict[str, Any], Any, Any]] = []  # group, its own rate, the scaled

    def scale_(self, factor: float) -> None:
        """Multiply every learning rate, until `restore_`.

        Args:
            factor: > 0.
        """
        self.restore_()
        if factor == 1.0:
            return
        shared: set[int] = set()  # groups may hold one and the same tensor
        for group in self.optimizer.param_groups:
            own = group.get("lr")
            if isinstance(own, Tensor):  # a captured step reads this very tensor
                if id(own) in shared:
                    continue
                shared.add(id(own))
                self._own.append((group, own.clone(), own.mul_(factor).clone()))
            elif own is not None:
                group["lr"] = own * factor
                self._own.append((group, own, group["lr"]))

    def restore_(self) -> None:
        """Give the user's own learning rates back; nothing happens where none was scaled."""
        for group, own, scaled in self._own:
            if not bool(group["lr"] == scaled):
                continue  # set by a scheduler since, after a step that raised
            if isinstance(own, Tensor):
                group["lr"].copy_(own)
            else:
                group["lr"] = own
        self._own = []
