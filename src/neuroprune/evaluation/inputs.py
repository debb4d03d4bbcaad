"""Made-up inputs for measuring FLOPs and speed, and the modes a model is measured in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def sample_inputs(
    model: Any, batch: int, length: int, target_length: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Random token ids without padding, as keyword arguments of the model.

    Args:
        model: a transformers model; an encoder-decoder is given decoder inputs, too.
        batch: sequences.
        length: tokens per sequence.
        target_length: tokens per decoder sequence; `length` where None.
        seed: of the token ids.

    Returns:
        Tensors on the model's device.
    """
    config, device = model.config, device_of(model)
    generator = torch.Generator().manual_seed(seed)
    # Special tokens stand first in every vocabulary; some models stop or pool at one.
    low = min(10, config.vocab_size - 1)

    def draw(columns: int) -> Tensor:
        ids = torch.randint(low, config.vocab_size, (batch, columns), generator=generator)
        return ids.to(device)

    inputs = {"input_ids": draw(length)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = draw(target_length or length)
    return inputs


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device."""
    return {name: value.to(device) for name, value in batch.items()}


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
