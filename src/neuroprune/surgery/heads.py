"""Remove heads: merge what reads them, then cut their rows and columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from neuroprune.anatomy import AttentionBlock
from neuroprune.plan import PlanError
from neuroprune.surgery.linear import (
    Replacements,
    feature_index,
    keep_inputs_,
    keep_outputs_,
    kept_index,
    without_heads_,
)


@torch.no_grad()
def merged_output_weight(block: AttentionBlock, merges: Mapping[int, int]) -> Tensor:
    """W_O after what reads head i is added to what reads head j: W_O[:, j] += W_O[:, i].

    The paper writes this as L_in,J += L_in,Hi; the matrix that reads a head's output is W_O. The
    block keeps its own matrix: a graph that is still alive may need it.

    Args:
        block: the attention.
        merges: {head i that goes: head j that stays}.

    Returns:
        Shape (d, num_heads * head_dim).

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 2.
    """
    weight = block.o_proj.weight.detach()
    if not merges:
        return weight
    weight = weight.clone()
    columns = weight.view(weight.shape[0], block.num_heads, -1)
    for i, j in merges.items():
        columns[:, j] += columns[:, i]
    return weight


@torch.no_grad()
def fold_constant_heads_(block: AttentionBlock, removed: tuple[int, ...]) -> None:
    """Move into the output bias what removed heads emit whatever they attend to.

    A head whose value rows are all zero emits b_v at every position (attention weights sum to
    one), so W_O b_v is a constant of the layer: b_O += W_O[:, H] b_v,H. Where the output layer has
    no bias there is nothing to fold into, and the constant is lost with the head.

    Args:
        block: the attention; only the bias of its output projection changes.
        removed: heads that are removed outright (merged ones are read by their dominator).
    """
    if block.o_proj.bias is None or block.v_proj.bias is None or not removed:
        return
    for head in removed:
        value_head = head * block.num_kv_heads // block.num_heads
        rows = slice(value_head * block.head_dim, (value_head + 1) * block.head_dim)
        if not block.v_proj.weight[rows].any():
            columns = slice(head * block.head_dim, (head + 1) * block.head_dim)
            block.o_proj.bias.add_(block.o_proj.weight[:, columns] @ block.v_proj.bias[rows])


def remove_heads_(
    block: AttentionBlock, removed: tuple[int, ...], merges: Mapping[int, int] | None = None
) -> Replacements:
    """Delete heads physically: rows of q, k, v and columns of W_O, merging first.

    Args:
        block: the attention; its layers and its owner's head attributes change.
        removed: heads to delete, counted as the block stands.
        merges: {head that goes: head that stays and takes its place}.

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    heads = kept_index(block.num_heads, removed, block.q_proj.weight.device)
    features = feature_index(heads, block.head_dim)
    kv_features = feature_index(kv_heads_kept(block, removed), block.head_dim)
    merged = merged_output_weight(block, merges or {})  # while the block still counts its heads
    done = keep_outputs_(block.q_proj, features)
    done |= keep_outputs_(block.k_proj, kv_features)
    done |= keep_outputs_(block.v_proj, kv_features)
    done |= keep_inputs_(block.o_proj, features, merged)
    if block.num_heads == 0:
        without_heads_(block.q_proj, block.k_proj, block.v_proj, block.o_proj, block.head_dim)
    running = max(block.num_heads, 1)  # an empty attention runs on one placeholder head
    for attribute in block.head_attributes:
        setattr(block.owner, attribute, running)
    for attribute in block.width_attributes:
        setattr(block.owner, attribute, running * block.head_dim)
    if block.group_attribute is not None:
        setattr(block.owner, block.group_attribute, block.group_size if block.num_heads else 1)
    return done


def kv_heads_kept(block: AttentionBlock, removed: tuple[int, ...]) -> Tensor:
    """Key/value heads that stay where query heads go.

    Args:
        block: the attention as it stands.
        removed: the query heads that go.

    Returns:
        int64 indices of the key/value heads to keep.

    Raises:
        PlanError: a key/value head would be left with some of its query heads only.
    """
    group = block.group_size
    gone = Counter(head // group for head in set(removed))
    if any(count != group for count in gone.values()):
        raise PlanError(
            f"{block.name!r} shares each key/value head among {group} query heads; remove whole "
            f"groups (heads {group}g to {group}g + {group - 1})."
        )
    return kept_index(block.num_kv_heads, tuple(gone), block.q_proj.weight.device)
