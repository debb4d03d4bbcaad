"""Attention over the heads that are left, where a stack shares one position bias.

T5 computes a bias per head of the dense model in block 0 and hands it to every block of the stack.
Once blocks keep different heads, each must pick its own columns. A registered attention function
does that and calls the stock one; the mask function is registered under the same name.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy

PREFIX = "neuroprune_"
_BUFFER = "neuroprune_kept_heads"


def install_(model: nn.Module, anatomy: Anatomy) -> None:
    """Make every block with a shared position bias use the columns of the heads it kept.

    Safe to call again after a further cut. Families without a shared bias need nothing.

    Args:
        model: the transformers model, already cut.
        anatomy: its blocks, with the lineage after the cut.
    """
    blocks = [b for b in anatomy.attentions if b.shares_position_bias]
    if not any(b.name in anatomy.lineage.plan.remove_heads for b in blocks):
        return
    for block in blocks:
        # An attention without heads runs on one placeholder head: any column will do.
        kept = anatomy.lineage.kept_heads(block.name) or (0,)
        index = torch.tensor(kept, device=block.q_proj.weight.device)
        block.owner.register_buffer(_BUFFER, index, persistent=False)
    configs: dict[int, Any] = {
        id(m.config): m.config for m in model.modules() if hasattr(m, "config")
    }
    for config in configs.values():
        stock = config._attn_implementation or "sdpa"
        if not stock.startswith(PREFIX):
            config._attn_implementation = _register(stock)


def stock_name(attn_implementation: str | None) -> str | None:
    """The stock implementation behind a registered one.

    Args:
        attn_implementation: a name as in `config._attn_implementation`.
    """
    if attn_implementation and attn_implementation.startswith(PREFIX):
        return attn_implementation.removeprefix(PREFIX)
    return attn_implementation


def _register(stock: str) -> str:
    """Register the ragged twin of a stock attention; returns its name.

    Raises:
        ValueError: the stock implementation takes no position bias.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if stock not in ("eager", "sdpa"):
        raise ValueError(
            f"heads of this family cannot be removed under attn_implementation={stock!r}, which "
            "takes no position bias per head. Load the model with 'sdpa' or 'eager'."
        )

    def ragged_attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        kept = getattr(module, _BUFFER, None)
        position_bias = kwargs.get("position_bias")
        if kept is not None and position_bias is not None:
            kwargs["position_bias"] = position_bias.index_select(1, kept)
        attend = (
            sys.modules[type(module).__module__].eager_attention_forward
            if stock == "eager"
            else ALL_ATTENTION_FUNCTIONS[stock]
        )
        output: tuple[Tensor, Tensor | None] = attend(
            module, query, key, value, attention_mask, **kwargs
        )
        return output

    name = PREFIX + stock
    AttentionInterface.register(name, ragged_attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[stock])
    return name
