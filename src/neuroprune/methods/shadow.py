"""Weights that are trained behind a mask, and what that asks of gradients and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.config import ConfigError


class Shadow:
    """The weights w behind those that the forward pass uses, w' = w * mask.

    Between two optimizer steps the parameters hold w'; the optimizer is given w.
    """

    def __init__(self) -> None:
        self._own: dict[Tensor, Tensor] = {}
        self._behind = False  # whether the parameters hold w', so that w is here alone

    def of(self, parameter: Tensor) -> Tensor:
        """w of a parameter.

        Args:
            parameter: the parameter.
        """
        behind = self._behind and parameter in self._own
        return self._own[parameter] if behind else parameter.detach()

    @torch.no_grad()
    def save(self, parameters: Iterable[Tensor]) -> None:
        """Remember w, which is about to be masked.

        Args:
            parameters: hold w.
        """
        for parameter in parameters:
            if parameter in self._own:
                self._own[parameter].copy_(parameter)
            else:
                self._own[parameter] = parameter.detach().clone()
            self._behind = True

    @torch.no_grad()
    def restore_(self) -> None:
        """Write w into the parameters, if it is behind them; the copies' memory is kept."""
        for parameter, own in self._own.items() if self._behind else ():
            parameter.copy_(own)
        self._behind = False

    def release_(self) -> None:
        """Write w into the parameters, if it is behind them, and let go of the copies."""
        self.restore_()
        self._own = {}


def loss_scale(optimizer: Optimizer | None) -> float:
    """The scale that gradients carry at this point: that of a GradScaler, with a fused optimizer.

    Args:
        optimizer: the torch optimizer.
    """
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def check_resumable(step: int, first: int, end: int) -> None:
    """Refuse to go on in the middle of a ramp.

    Args:
        step: where the state was saved.
        first: first step whose state is not all in a checkpoint.
        end: the step at which the mask becomes final.

    Raises:
        ConfigError: with the steps at which a run can be resumed.
    """
    if first <= step < end:
        before = f", or of step {first - 1} or before" if first > 1 else ""
        raise ConfigError(
            f"the state is of step {step}, and Movement cannot go on from steps {first} to "
            f"{end - 1}: the checkpoint holds the masked weights, but neither those behind the "
            f"mask nor all of their scores. Resume from a checkpoint of step {end} or after"
            f"{before}; or start the training anew."
        )
