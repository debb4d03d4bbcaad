"""Heads and neurons as units of one ranking: their outgoing weights, sizes and plans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery.linear import kept_index

Block = AttentionBlock | MLPBlock


def fan_out(block: Block) -> nn.Linear:
    """The layer that reads the block's units: the columns of its weight belong to them.

    Args:
        block: the block.
    """
    return block.o_proj if isinstance(block, AttentionBlock) else block.down_proj


def heads_per_unit(block: Block) -> int:
    """Query heads that stand or fall together: those that share keys and values. 1 for neurons.

    Args:
        block: the block.
    """
    if isinstance(block, MLPBlock):
        return 1
    return block.group_size


def unit_width(block: Block) -> int:
    """Columns of the fan-out that belong to one unit.

    Args:
        block: the block.
    """
    return block.head_dim * heads_per_unit(block) if isinstance(block, AttentionBlock) else 1


def unit_number(block: Block) -> int:
    """Units of a block: groups of heads, or neurons.

    Args:
        block: the block.
    """
    return block.num_kv_heads if isinstance(block, AttentionBlock) else block.d_ff


def unit_weights(block: Block) -> int:
    """Weights that one unit has, in and out: what turns a mean over them into a sum.

    Args:
        block: the block.
    """
    if isinstance(block, MLPBlock):
        return block.weights_per_neuron
    return block.weights_per_group


def plan_of(anatomy: Anatomy, gone: Mapping[str, Tensor], hidden: Iterable[int] = ()) -> ShrinkPlan:
    """The plan that removes the marked units.

    Args:
        anatomy: the model's blocks.
        gone: block name -> boolean mask over its units.
        hidden: hidden dimensions that go with them.
    """
    heads = {}
    for block in anatomy.attentions:
        if block.name in gone:
            mask = gone[block.name].repeat_interleave(heads_per_unit(block))
            heads[block.name] = mask.nonzero().squeeze(1).tolist()
    neurons = {
        b.name: gone[b.name].nonzero().squeeze(1).tolist() for b in anatomy.mlps if b.name in gone
    }
    return ShrinkPlan(heads, neurons, remove_hidden=hidden)


def masks_of(anatomy: Anatomy, plan: ShrinkPlan) -> dict[str, Tensor]:
    """Block name -> mask over its units, true for those that a plan removes.

    Args:
        anatomy: the model's blocks, before the cut.
        plan: the cut.
    """
    masks = {}
    for block in anatomy.blocks():
        mask = torch.zeros(unit_number(block), dtype=torch.bool)
        plans = plan.remove_heads if isinstance(block, AttentionBlock) else plan.remove_neurons
        size = heads_per_unit(block)
        mask[[i // size for i in plans.get(block.name, ())]] = True
        masks[block.name] = mask
    return masks


def kept_units(block: Block, plan: ShrinkPlan) -> Tensor | None:
    """Indices of the units of a block, as it was before a plan, that the plan leaves.

    Args:
        block: the block after the cut.
        plan: the cut.

    Returns:
        int64 indices, or None where the plan does not touch the block.
    """
    if isinstance(block, AttentionBlock):
        removed = plan.remove_heads.get(block.name, ())
        size = heads_per_unit(block)
        total = block.num_heads + len(removed)
        removed = tuple(sorted({i // size for i in removed}))
        total //= size
    else:
        removed = plan.remove_neurons.get(block.name, ())
        total = block.d_ff + len(removed)
    if not removed:
        return None
    return kept_index(total, removed, torch.device("cpu"))


def units_left(
    counts: Mapping[str, int], gone: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> dict[str, int]:
    """Query heads and neurons that every block keeps.

    Args:
        counts: block name -> query heads or neurons it has.
        gone: block name -> mask of the units that go.
        sizes: block name -> query heads of one unit; 1 for neurons.
    """
    return {name: n - int(gone[name].sum()) * sizes[name] for name, n in counts.items()}


def unit_columns(block: Block, units: Tensor) -> Tensor:
    """The columns of a block's output layer that belong to units.

    Args:
        block: the block.
        units: their indices, int64, shape (n,).

    Returns:
        Indices, shape (n * width,), in the order of the units, on their device.
    """
    width = unit_width(block)
    return (units.unsqueeze(1) * width + torch.arange(width, device=units.device)).reshape(-1)
