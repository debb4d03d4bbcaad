"""Whether a step's forward passes were made in training mode: what is measured on them needs it."""

from __future__ import annotations

import torch
from torch import nn

from neuroprune.errors import ConfigError


class TrainingPasses:
    """Tells forward passes of training from those of evaluation, and notices if there are none.

    A pass is one of training where the layer or the whole model is in training mode: parts of a
    model may be in eval mode, and blocks may be left out of a step.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._ever = False  # whether there was one in any step
        self._trained = False  # whether there was one in this step
        self._evaluated = False  # whether gradients were computed in eval mode in this step

    def of(self, model: nn.Module) -> None:
        """Say which model the layers belong to.

        Args:
            model: the whole model.
        """
        self._model = model

    def counts(self, layer: nn.Module) -> bool:
        """Whether the pass that runs through a layer now is one of training.

        Args:
            layer: part of the model.
        """
        training = layer.training or (self._model is not None and self._model.training)
        if training:
            self._trained = self._ever = True
        elif torch.is_grad_enabled():
            self._evaluated = True
        return training

    def check_(self, what: str) -> None:
        """End a step.

        Args:
            what: what is measured on the passes, for the message.

        Raises:
            ConfigError: the step was taken on passes in eval mode alone, or none was ever seen.
        """
        blind = not self._trained and (self._evaluated or not self._ever)
        self._trained = self._evaluated = False
        if blind:
            raise ConfigError(
                f"{what} had nothing to see in this step: no forward pass in training mode went "
                "through the blocks. Train in training mode: call model.train() before the "
                "forward pass. To train without dropout, load the model with dropout rates of 0."
            )
