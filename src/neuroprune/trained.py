"""What an optimizer trains of a model, and whether pruning can work with it."""

from __future__ import annotations

import warnings
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError
from neuroprune.surgery.optimizer_state import OptimizerStateError, check_state


def parameters_of(optimizer: Optimizer) -> set[Tensor]:
    """Every parameter that an optimizer holds.

    Args:
        optimizer: the torch optimizer, not a wrapper.
    """
    return {p for group in optimizer.param_groups for p in group["params"]}


def count_trained(optimizer: Optimizer, anatomy: Anatomy) -> int:
    """How many prunable matrices an optimizer holds.

    Args:
        optimizer: the torch optimizer, not a wrapper.
        anatomy: the model's blocks.
    """
    held = parameters_of(optimizer)
    return sum(matrix in held for matrix in anatomy.matrices())


def warn_of_others(optimizer: Optimizer, anatomy: Anatomy) -> None:
    """Warn of parameters that a cut would replace, and that another optimizer may train.

    And of a model none of whose prunable matrices requires gradients: adapters that were merged
    leave it so.

    Args:
        optimizer: the torch optimizer, not a wrapper.
        anatomy: the model's blocks.
    """
    held = parameters_of(optimizer)
    if not any(matrix.requires_grad for matrix in anatomy.matrices()):
        warnings.warn(
            "no prunable matrix requires gradients: penalties do nothing to them, and what is "
            "removed is not made up for, unless they are unfrozen with requires_grad_(True).",
            stacklevel=4,
        )
    layers = [(block.name, layer) for block in anatomy.blocks() for layer in block.linears()]
    loose = {n for n, x in layers for p in x.parameters() if p.requires_grad and p not in held}
    if loose:
        warnings.warn(
            f"layers of {', '.join(sorted(loose))} require gradients, and this optimizer does not "
            "train all of them. If another one does, it will go on with parameters that a cut has "
            "replaced: put them into this one, or freeze them with requires_grad_(False).",
            stacklevel=4,
        )


def check_state_is_sliceable(optimizer: Optimizer, anatomy: Anatomy, cuts: bool) -> None:
    """Refuse an optimizer whose state cannot follow a cut, as soon as it has one.

    Args:
        optimizer: the torch optimizer, not a wrapper, after a step.
        anatomy: the model's blocks.
        cuts: whether the method cuts on a schedule. Otherwise it may never cut, and this warns.

    Raises:
        OptimizerStateError: with the state's name and shape.
    """
    try:
        for dim in (0, 1):
            check_state(optimizer, dict.fromkeys(anatomy.matrices(), dim))
    except OptimizerStateError as error:
        if cuts:
            raise
        warnings.warn(f"the first cut, if there is one, will fail: {error}", stacklevel=2)


def check_model(anatomy: Anatomy) -> None:
    """Refuse a model that is quantised, spread over devices, or trained by several processes.

    A quantised model could not be saved in the end. Units are compared with each other, and what
    gradients say of them differs from process to process; a wrapper that gathers gradients holds on
    to parameters that a cut replaces.

    Args:
        anatomy: the model's blocks.

    Raises:
        ConfigError: with the kind of quantisation, the devices, or the number of processes.
    """
    quantizer: Any = getattr(anatomy.model, "hf_quantizer", None)
    if quantizer is not None:
        kind = getattr(quantizer.quantization_config, "quant_method", "quantised")
        raise ConfigError(
            f"the model was loaded by a quantizer ({getattr(kind, 'value', kind)}), and what is "
            "left of it could not be saved. Load plain weights: of a GGUF file with "
            "from_pretrained(..., gguf_file=..., "
            "quantization_config=transformers.GgufConfig(dequantize=True)), of others with "
            "model.dequantize()."
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ConfigError(
            f"a model is pruned in one process, and this is one of {dist.get_world_size()}: each "
            "would choose other units, and DistributedDataParallel keeps parameters that a cut "
            "replaces. Prune on one device; train the finished model on many."
        )
    devices = sorted({str(matrix.device) for matrix in anatomy.matrices()})
    if len(devices) > 1:
        raise ConfigError(
            f"expected a model on one device, got one on {', '.join(devices)}. Load it without "
            "device_map, or move it: model.to(device), before the optimizer is made."
        )
