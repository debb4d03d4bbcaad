"""Where a stock config can describe a shrunk model, and what it then says.

A stock config knows one number of heads and one MLP width; that a layer reads some features of its
input alone, no stock config can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, Family, anatomy_of, family_of
from neuroprune.lineage import Lineage


def stock_settings(anatomy: Anatomy, family: Family) -> dict[str, int] | None:
    """Config values that make a stock model of the shrunk shape; None where there are none.

    A stock config knows one number of heads and one MLP width, and no layer that reads a part of
    its input. Where head_dim is computed as hidden / heads, fewer heads would mean other heads, so
    only MLP cuts can be described. A shared position bias needs the same original heads in every
    self-attention of a stack. A narrower residual stream is described by none: the heads would
    have to be narrower with it.
    """
    lineage, settings = anatomy.lineage, {}
    if lineage.plan.remove_inputs or lineage.plan.remove_hidden:
        return None
    widths = {b.d_ff for b in anatomy.mlps}
    if lineage.plan.remove_neurons:
        if len(widths) > 1 or 0 in widths:
            return None
        settings[family.d_ff_key] = widths.pop()
    if lineage.plan.remove_heads:
        counts = {b.num_heads for b in anatomy.attentions}
        if family.fixed_head_dim or len(counts) > 1 or 0 in counts:
            return None
        if any(len(kept) > 1 for kept in kept_by_stack(anatomy).values()):
            return None
        settings |= _head_counts(anatomy.attentions[0], family)
    return settings


def _head_counts(block: AttentionBlock, family: Family) -> dict[str, int]:
    """What a config says of one attention: its query heads, and the key/value heads they share."""
    counts = {family.heads_key: block.num_heads}
    return counts | ({family.kv_heads_key: block.num_kv_heads} if family.kv_heads_key else {})


def kept_by_stack(anatomy: Anatomy) -> dict[str, set[tuple[int, ...]]]:
    """First part of the block names ("encoder", "decoder") -> kept heads of its self-attentions."""
    kept: dict[str, set[tuple[int, ...]]] = {}
    for block in anatomy.attentions:
        if not block.is_cross:
            stack = block.name.split(".", 1)[0]
            kept.setdefault(stack, set()).add(anatomy.lineage.kept_heads(block.name))
    return kept


def stock_state(
    model: nn.Module, anatomy: Anatomy, family: Family, overrides: Mapping[str, int]
) -> dict[str, Tensor] | None:
    """The state dict with shared position biases cut to the kept heads; None if nothing differs."""
    if family.heads_key not in overrides or not family.position_bias:
        return None
    state = dict(model.state_dict())
    owners = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = kept_by_stack(anatomy)
    for path in family.position_bias:
        stack = path.split(".", 1)[0]
        if stack in kept:
            bias: Any = anatomy.root.get_submodule(path)
            name = owners[id(bias.weight)]
            state[name] = state[name][:, list(next(iter(kept[stack])))].contiguous()
    return state


def widen_position_bias_(model: Any, lineage: Lineage) -> None:
    """Undo the cut of `_stock_state`: a bias per head of the dense model, so that cuts compose."""
    if not lineage.plan.remove_heads:
        return
    root = anatomy_of(model).root
    for path in family_of(model).position_bias:
        try:
            bias: Any = root.get_submodule(path)
        except AttributeError:
            continue  # an encoder without its decoder
        block = path.rpartition(".")[0]
        kept, total = lineage.kept_heads(block), lineage.heads[block]
        if bias.weight.shape[1] == total:
            continue
        wide = bias.weight.new_zeros(bias.weight.shape[0], total)
        wide[:, list(kept)] = bias.weight.detach()
        bias.weight = nn.Parameter(wide, requires_grad=bias.weight.requires_grad)
        bias.embedding_dim = total
        for attention in anatomy_of(model).attentions:
            if attention.shares_position_bias:  # n_heads is the width of the bias
                setattr(attention.owner, "n_heads", lineage.heads[attention.name])  # noqa: B010


def per_layer(anatomy: Anatomy, family: Family) -> dict[str, dict[str, int]]:
    """Sizes per layer in the official schema, for readers of the config; our plan is the truth."""
    layers: dict[str, dict[str, int]] = {}
    for block in anatomy.attentions:
        if not block.is_cross:
            layers.setdefault(layer_number(block.name), {}).update(_head_counts(block, family))
    for mlp in anatomy.mlps:
        layers.setdefault(layer_number(mlp.name), {})[family.d_ff_key] = mlp.d_ff
    return layers


def layer_number(name: str) -> str:
    return next(part for part in name.split(".") if part.isdigit())
