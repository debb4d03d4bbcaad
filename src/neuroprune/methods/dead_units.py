"""Units that do nothing, and inputs that nothing reads: removing them changes no output."""

from __future__ import annotations

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery.inputs import can_gather
from neuroprune.surgery.neurons import constant_output

# Share of a layer's inputs that must be dead before they are dropped. A product of fewer columns
# needs its input gathered first: with a tenth dead that is hardly faster, with a quarter 1.3
# times as fast (benchmarks/results/gathered_inputs/, docs/design/0005-one-knob.md).
LEAST_DEAD_INPUTS = 0.25


def dead_units(anatomy: Anatomy) -> ShrinkPlan:
    """All heads and neurons that `shrink_` removes without changing the model's function.

    A unit is dead where its fan-out is all zero, or where it emits a constant that is zero or that
    an output bias can take up.

    Args:
        anatomy: the model's blocks.

    Returns:
        The plan that removes them.
    """
    return ShrinkPlan(
        {b.name: dead_heads(b).nonzero().squeeze(1).tolist() for b in anatomy.attentions},
        {b.name: dead_neurons(b).nonzero().squeeze(1).tolist() for b in anatomy.mlps},
    )


@torch.no_grad()
def dead_inputs(anatomy: Anatomy) -> ShrinkPlan:
    """Input dimensions that `shrink_` removes without changing the function, where that is faster.

    Input i of a group of matrices (q, k and v; up and gate) is dead where column i of every one is
    zero. A group drops its dead inputs where at least `LEAST_DEAD_INPUTS` of those that the dense
    model reads would then be gone; fewer stay as zeros. Biases play no part. None go from a model
    that has lost hidden dimensions: a plan has no place for both.

    Args:
        anatomy: the model's blocks, best without dead units, whose weights hide dead inputs.

    Returns:
        The plan that removes them.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, section 3.2 (rows of [Q, K, V] die
    whole).
    """
    removed: dict[str, dict[str, list[int]]] = {}
    for block in () if anatomy.lineage.plan.remove_hidden else anatomy.blocks():
        for group, layers in block.readers().items():
            if layers[0].weight.shape[0] == 0 or not all(map(can_gather, layers)):
                continue  # without units, nothing reads
            read = torch.stack([layer.weight.any(dim=0) for layer in layers]).any(dim=0)
            dead = (~read).nonzero().squeeze(1).tolist()
            dense = anatomy.lineage.inputs[block.name][group]
            gone = anatomy.lineage.removed_inputs(block.name, group) + len(dead)
            if dead and gone >= LEAST_DEAD_INPUTS * dense:
                removed.setdefault(block.name, {})[group] = dead
    return ShrinkPlan(remove_inputs=removed)


@torch.no_grad()
def dead_neurons(block: MLPBlock) -> Tensor:
    """Neurons with an all-zero column of down, or whose constant output can be folded.

    Args:
        block: the MLP.

    Returns:
        Mask, shape (d_ff,).
    """
    constant, output = constant_output(block)
    if block.down_proj.bias is None:
        constant &= output == 0
    return constant | ~block.down_proj.weight.any(dim=0)


@torch.no_grad()
def dead_heads(block: AttentionBlock) -> Tensor:
    """Heads with all-zero columns of W_O, or all-zero value rows whose bias can be folded.

    Where query heads share keys and values, a head is dead only together with its whole group.

    Args:
        block: the attention.

    Returns:
        Mask, shape (num_heads,).
    """
    heads, kv_heads, width = block.num_heads, block.num_kv_heads, block.head_dim
    if heads == 0:
        return torch.zeros(0, dtype=torch.bool, device=block.q_proj.weight.device)
    read = block.o_proj.weight.any(dim=0).reshape(heads, width).any(dim=1)
    silent = ~block.v_proj.weight.any(dim=1).reshape(kv_heads, width).any(dim=1)
    bias = block.v_proj.bias
    if bias is not None and block.o_proj.bias is None:
        silent &= ~bias.reshape(kv_heads, width).any(dim=1)
    dead = ~read | silent.repeat_interleave(block.group_size)
    groups = dead.reshape(kv_heads, -1).all(dim=1)
    return groups.repeat_interleave(block.group_size)
