"""Remove input dimensions: a layer that reads some features of its input alone.

    y = x[..., index] W[:, index]^T + b

The features themselves stay: others in the model read them. What is smaller is the product.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.plan import PlanError, ShrinkPlan
from neuroprune.surgery.linear import NoHeadsProjection, Replacements, keep_inputs_, kept_index


class GatheredLinear(nn.Linear):
    """A linear layer that reads the features `index` of its input.

    Its weight has a column per feature that it reads, shape (out, kept), and `in_features` is
    their number; what comes in is as wide as ever. The index is int64, shape (kept,), ascending, a
    buffer that moves with the model and is in no state dict: it follows from the lineage.
    """

    index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """W x[..., index] + b, of shape (..., out)."""
        # Flattened: gathering from three dimensions takes ten times as long, which is as much as
        # a quarter fewer columns save (benchmarks/results/gathered_inputs/).
        rows = input.reshape(-1, input.shape[-1]).index_select(1, self.index)
        output = functional.linear(rows, self.weight, self.bias)
        return output.reshape(*input.shape[:-1], self.weight.shape[0])


def can_gather(layer: nn.Linear) -> bool:
    """Whether a layer can be made to read a part of its input.

    Not where it is of a class with a forward of its own, or was given one (accelerate's device
    hooks do that to layers): that forward would go on and read everything.

    Args:
        layer: the layer.
    """
    known = type(layer) in (nn.Linear, GatheredLinear, NoHeadsProjection)
    return known and "forward" not in vars(layer)


def check_layers(anatomy: Anatomy, plan: ShrinkPlan) -> None:
    """Find out, before anything is changed, whether every layer can read a part of its input.

    Args:
        anatomy: the model's blocks.
        plan: what is about to be removed.

    Raises:
        PlanError: a layer cannot.
    """
    for block in anatomy.blocks():
        for group in plan.remove_inputs.get(block.name, {}):
            for layer in block.readers()[group]:
                if not can_gather(layer):
                    raise PlanError(
                        f"inputs {group!r} of {block.name!r} cannot be removed: expected plain "
                        f"nn.Linear layers, got a {type(layer).__name__} with a forward of its "
                        "own. Take hooks and wrappers of layers away first, or leave the inputs."
                    )


def remove_inputs_(
    block: AttentionBlock | MLPBlock, removed: Mapping[str, tuple[int, ...]]
) -> Replacements:
    """Delete columns of the layers that share an input; `gather_` makes them read the rest.

    Args:
        block: the block; its layers change.
        removed: group of layers -> columns to delete, counted as the block stands.

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    done: Replacements = {}
    readers = block.readers()
    for group, columns in removed.items():
        for layer in readers[group]:
            weight = layer.weight
            done |= keep_inputs_(layer, kept_index(weight.shape[1], columns, weight.device))
    return done


def gather_(anatomy: Anatomy) -> None:
    """Make every layer whose columns were removed read the features that are left.

    Safe to call again after a further cut, or once a model is loaded.

    Args:
        anatomy: the blocks of a model already cut, with the lineage after the cut.
    """
    for block in anatomy.blocks():
        for group, layers in block.readers().items():
            if anatomy.lineage.removed_inputs(block.name, group):
                kept = torch.tensor(anatomy.lineage.kept_inputs(block.name, group))
                for layer in layers:
                    read_(layer, kept)


def read_(layer: nn.Linear, kept: Tensor) -> None:
    """Make a layer whose columns were removed read the features that belong to the others.

    Args:
        layer: a plain or gathered layer, or one of an attention without heads, which reads nothing.
        kept: int64 indices of the features, shape (kept,).
    """
    if isinstance(layer, NoHeadsProjection):
        layer._buffers.pop("index", None)  # it lost its heads after its inputs, and reads nothing
    else:
        layer.__class__ = GatheredLinear
        index = kept.to(layer.weight.device, torch.int64)
        layer.register_buffer("index", index, persistent=False)
