"""Remove neurons: fold what is constant, then cut rows of up and gate, columns of down."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.anatomy import MLPBlock
from neuroprune.surgery.linear import Replacements, keep_inputs_, keep_outputs_, kept_index


@torch.no_grad()
def constant_output(block: MLPBlock) -> tuple[Tensor, Tensor]:
    """Which neurons emit the same number whatever comes in, and that number.

    plain: an all-zero up row emits act(b_up). gated, act(gate) * up: an all-zero up row with zero
    bias emits 0, an all-zero gate row with act(b_gate) = 0 emits 0, and a neuron with both rows
    zero emits act(b_gate) * b_up.

    Args:
        block: the MLP.

    Returns:
        Mask of the constant neurons, shape (d_ff,), and their outputs (0 elsewhere).

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.3 (what can be removed).
    """
    zero_up = ~block.up_proj.weight.any(dim=1)
    bias_up = _bias(block.up_proj)
    if block.gate_proj is None:
        constant, output = zero_up, block.activation(bias_up)
    else:
        zero_gate = ~block.gate_proj.weight.any(dim=1)
        gate = block.activation(_bias(block.gate_proj))
        silent = (zero_up & (bias_up == 0)) | (zero_gate & (gate == 0))
        constant = silent | (zero_up & zero_gate)
        output = torch.where(silent, 0.0, gate * bias_up)
    return constant, torch.where(constant, output, 0.0)


@torch.no_grad()
def fold_constant_neurons_(block: MLPBlock, removed: tuple[int, ...]) -> None:
    """Move what removed constant neurons emit into the output bias: b += W_down[:, n] * output_n.

    Where the output layer has no bias there is nothing to fold into, and the constant is lost.

    Args:
        block: the MLP; only the bias of its output layer changes.
        removed: neurons about to be removed.
    """
    if block.down_proj.bias is None or not removed:
        return
    _, output = constant_output(block)
    chosen = torch.zeros_like(output)
    index = torch.tensor(removed, device=output.device)
    chosen[index] = output[index]
    block.down_proj.bias.add_(block.down_proj.weight @ chosen)


def remove_neurons_(block: MLPBlock, removed: tuple[int, ...]) -> Replacements:
    """Delete neurons physically.

    Args:
        block: the MLP; its layers change.
        removed: neurons to delete, counted as the block stands.

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    index = kept_index(block.d_ff, removed, block.up_proj.weight.device)
    done: Replacements = {}
    for layer in block.fan_in():
        done |= keep_outputs_(layer, index)
    return done | keep_inputs_(block.down_proj, index)


def _bias(layer: torch.nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
