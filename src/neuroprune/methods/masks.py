"""Single weights that are held at zero: what magnitude pruning and weight targets share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.core.selection import lowest_masks
from neuroprune.methods.method import StepSizeOf, trained


class ZeroMask:
    """Weights that have become zero and stay so.

    The mask is read off the weights, so a checkpoint need not keep it.
    """

    def __init__(self) -> None:
        self._keep: dict[Tensor, Tensor] = {}

    def remember(self, anatomy: Anatomy) -> None:
        """From now on, what is zero stays zero.

        Args:
            anatomy: the model's blocks.
        """
        self._keep = {}  # before the new ones are made, which take as much again
        self._keep = {w: w.detach() != 0 for w in anatomy.matrices() if w.requires_grad}

    @torch.no_grad()
    def hold_(self) -> None:
        """Undo what an optimizer step made of the masked weights."""
        for w, keep in self._keep.items():
            w.mul_(keep)

    @torch.no_grad()
    def grow_(
        self,
        anatomy: Anatomy,
        step_size_of: StepSizeOf,
        gone: int,
        level: Callable[[Tensor], Tensor],
    ) -> None:
        """Zero the trained weights of the lowest level.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
            gone: how many of the dense model's weights are to be zero or removed.
            level: matrix -> level of each of its weights, at least 0, a new tensor of its shape.
        """
        matrices = [w for w in trained(tuple(anatomy.matrices()), step_size_of) if w.numel()]
        count = gone - (anatomy.dense_weights - anatomy.kept_weights)
        # Zeros count already, so they go before others whose level is 0.
        levels = partial(map, lambda w: level(w).masked_fill_(w == 0, -1.0), matrices)
        for w, lowest in zip(matrices, lowest_masks(levels, count), strict=True):
            w.masked_fill_(lowest, 0.0)
        self.remember(anatomy)


def magnitude(weight: Tensor) -> Tensor:
    """|w|, in float32.

    Args:
        weight: the matrix.
    """
    return weight.detach().abs().float()
