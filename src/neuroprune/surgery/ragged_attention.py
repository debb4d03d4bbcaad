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
from neuroprune.plan import PlanError, ShrinkPlan

PREFIX = "neuroprune_"
_BUFFER = "neuroprune_kept_heads"
_STOCK = ("eager", "sdpa")  # implementations that take a position bias per head


def check_implementation(anatomy: Anatomy, plan: ShrinkPlan) -> None:
    """Find out, before anything is changed, whether the attention can run on ragged heads.

    Args:
        anatomy: the model's blocks.
        plan: what is about to be removed.

    Raises:
        PlanError: heads of blocks with a shared position bias would go, under an implementation
            that takes no bias per head.
    """
    for block in anatomy.attentions:
        if block.shares_position_bias and block.name in plan.remove_heads:
            config: Any = block.owner.config
            _check_stock((config._attn_implementation or "eager").removeprefix(PREFIX))


def install_(anatomy: Anatomy) -> None:
    """Make every block with a shared position bias use the columns of the heads it kept.

    Safe to call again after a further cut. Families without a shared bias need nothing.

    Args:
        anatomy: the blocks of a model already cut, with the lineage after the cut.

    Raises:
        PlanError: the attention implementation takes no position bias.
    """
    blocks = [b for b in anatomy.attentions if b.shares_position_bias]
    if not any(b.name in anatomy.lineage.plan.remove_heads for b in blocks):
        return
    for block in blocks:
        # An attention without heads runs on one placeholder head: any column will do.
        kept = anatomy.lineage.kept_heads(block.name) or (0,)
        index = torch.tensor(kept, device=block.q_proj.weight.device)
        if not hasattr(block.owner, _BUFFER):
            block.owner.register_forward_pre_hook(_FollowImplementation())
        block.owner.register_buffer(_BUFFER, index, persistent=False)
        _FollowImplementation()(block.owner, ())


class _FollowImplementation:
    """Before each forward: a stock implementation chosen meanwhile gives way to its ragged twin."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        config: Any = module.config
        stock = config._attn_implementation or "eager"
        if not stock.startswith(PREFIX):
            config._attn_implementation = _register(stock)

    def __reduce__(self) -> tuple[Any, ...]:
        """A model that comes from another process has its twins registered before it runs."""
        return _in_this_process, ()


def _in_this_process() -> _FollowImplementation:
    for stock in _STOCK:
        _register(stock)
    return _FollowImplementation()


def _check_stock(stock: str) -> None:
    if stock not in _STOCK:
        raise PlanError(
            f"heads of this family cannot be removed under attn_implementation={stock!r}, which "
            "takes no position bias per head. Load the model with 'sdpa' or 'eager'."
        )


def _register(stock: str) -> str:
    """Register the ragged twin of a stock attention; returns its name.

    Raises:
        PlanError: the stock implementation takes no position bias.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    _check_stock(stock)

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
