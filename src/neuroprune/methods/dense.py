"""The model as it was before any cut: its numbers of units, and a twin to measure."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from neuroprune.anatomy import Anatomy, family_of
from neuroprune.anatomy.inputs import device_of
from neuroprune.config import ConfigError
from neuroprune.surgery.ragged_attention import PREFIX


def dense_counts(anatomy: Anatomy) -> dict[str, int]:
    """Units that every block of the dense model has: query heads and neurons.

    Args:
        anatomy: the model's blocks, cut or not.
    """
    heads, neurons = anatomy.lineage.heads, anatomy.lineage.neurons
    return {b.name: heads[b.name] for b in anatomy.attentions} | {
        b.name: neurons[b.name] for b in anatomy.mlps
    }


def dense_twin(model: Any, anatomy: Anatomy) -> nn.Module:
    """A model of the dense sizes, in eval mode, to be measured: its weights are random.

    The configuration of a model that was cut describes the dense one, but for the hidden width. The
    state of the random generators is left alone.

    Args:
        model: the whole model, cut before.
        anatomy: its blocks.

    Returns:
        A model of the same class, device and precision.

    Raises:
        ConfigError: the class cannot be made from its configuration alone.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "neuroprune"):
        del config.neuroprune
    config._attn_implementation = (config._attn_implementation or "eager").removeprefix(PREFIX)
    stream = family_of(model).stream
    if anatomy.lineage.plan.remove_hidden and stream is not None:
        setattr(config, stream.width_key, anatomy.lineage.width)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            twin: nn.Module = type(model)(config)
        except TypeError as error:
            raise ConfigError(
                f"the target is a share of the dense model, which has to be measured, and a "
                f"{type(model).__name__} cannot be made from its configuration ({error}). Ask for "
                "a Structural(...) target, which is counted."
            ) from error
    return twin.to(device_of(model), next(model.parameters()).dtype).eval()
