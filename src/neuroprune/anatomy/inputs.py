"""Running a model to measure it: made-up inputs, the mode it is measured in, its FLOPs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def sample_inputs(
    model: Any, batch: int, length: int, target_length: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Random token ids without padding, as keyword arguments of the model.

    Args:
        model: a transformers model; an encoder-decoder is given decoder inputs, too, and a decoder
            with cross-attention the states of an encoder.
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
    kind = type(model).__name__
    if "MultipleChoice" in kind:  # one choice each, so that so many sequences are read
        inputs["input_ids"] = inputs["input_ids"].unsqueeze(1)
    if "SequenceClassification" in kind and getattr(config, "is_encoder_decoder", False):
        inputs["input_ids"][:, -1] = config.eos_token_id  # where T5 and BART pool
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = draw(target_length or length)
    elif getattr(config, "add_cross_attention", False):
        states = torch.randn(batch, length, config.hidden_size, generator=generator)
        inputs["encoder_hidden_states"] = states.to(device, next(model.parameters()).dtype)
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


def count_flops(model: nn.Module, sample_inputs: Mapping[str, Tensor]) -> int:
    """Floating-point operations of one forward pass: 2 for each multiply-add of a matrix product.

    Attention is counted as its two matrix products, whatever kernel the device would use. Zeros in
    a dense matrix count like any other weight: only what was removed lowers the number.

    Args:
        model: the model; its mode is kept.
        sample_inputs: keyword arguments of the forward pass.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The fused kernel of CPUs has no entry in the counter's table; the plain one is counted.
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**sample_inputs)
    return int(counter.get_total_flops())


def _is_surgerys(hook: Any) -> bool:
    kind: Any = hook if isinstance(hook, FunctionType) else type(hook)
    return str(kind.__module__).startswith("neuroprune.surgery.")


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the model, in eval mode.

    Of hooks it has those alone that surgery left, which act on the module they are called with. The
    others belong to whoever watches the model, and would be told of, or copied with, the copy.

    Args:
        model: the model.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for name, hooks in vars(module).items():
            if name in _HOOKS:
                own = {key: hook for key, hook in hooks.items() if _is_surgerys(hook)}
                memo[id(hooks)] = type(hooks)(own)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        # What replaced a forward on the instance (accelerate does, for mixed precision) still runs
        # the original's layers; the class's own forward runs those of the copy.
        module.__dict__.pop("forward", None)
    return copied.eval()
