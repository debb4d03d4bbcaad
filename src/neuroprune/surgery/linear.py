"""Slicing linear layers: a small pair of functions, rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune.surgery.optimizer_state import Replacement

Replacements = dict[Tensor, Replacement]
_DROPPED = "_neuroprune_drops_gradient"  # attribute of an empty parameter


def keep_outputs_(linear: nn.Linear, index: Tensor) -> Replacements:
    """Keep only the output features `index` of a linear layer: rows of its weight, its bias.

    Args:
        linear: weight (out, in), bias (out,) or None; its parameters are replaced.
        index: int64 indices of the features to keep, shape (kept,).

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    done = replace_(linear, "weight", 0, index)
    if linear.bias is not None:
        done |= replace_(linear, "bias", 0, index)
    linear.out_features = index.numel()
    return done


def keep_inputs_(linear: nn.Linear, index: Tensor, weight: Tensor | None = None) -> Replacements:
    """Keep only the input features `index` of a linear layer: columns of its weight.

    Args:
        linear: weight (out, in); its weight is replaced.
        index: int64 indices of the features to keep, shape (kept,).
        weight: values to take the columns from, where they are not the layer's own.

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    linear.in_features = index.numel()
    return replace_(linear, "weight", 1, index, weight)


def replace_(
    module: nn.Module, name: str, dim: int, index: Tensor, value: Tensor | None = None
) -> Replacements:
    """Put a parameter with only `index` left along `dim` in the place of another.

    Args:
        module: it holds the parameter.
        name: of the parameter.
        dim: the dimension that is cut.
        index: int64 indices to keep, shape (kept,).
        value: values to take the slice from, where they are not the parameter's own.

    Returns:
        Old parameter -> replacement, for the optimizer.
    """
    # A new Parameter, not a resized old one: a graph that is still alive keeps the old shape.
    old: nn.Parameter = getattr(module, name)
    index = index.to(old.device)
    value = old.detach() if value is None else value
    new = nn.Parameter(value.index_select(dim, index), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = old.grad.index_select(dim, index)
    setattr(module, name, new)
    return {old: Replacement(new, dim, index)}


class NoHeadsProjection(nn.Linear):
    """A query, key or value layer of an attention without heads.

    It owns a weight of shape (0, d) and emits zeros of one head's width, so that every family's
    forward, cache and mask code runs unchanged on one head that carries nothing.
    """

    placeholder_features: int

    def forward(self, input: Tensor) -> Tensor:
        """Zeros of shape (..., head_dim)."""
        zeros = input.new_zeros(*input.shape[:-1], self.placeholder_features)
        return zeros + _nothing(self, input)


class NoHeadsOutput(nn.Linear):
    """The output layer of an attention without heads: its bias, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        """The bias (or zeros), broadcast to shape (..., d)."""
        zeros = input.new_zeros(*input.shape[:-1], self.weight.shape[0]) + _nothing(self, input)
        return zeros if self.bias is None else zeros + self.bias


def _nothing(linear: nn.Linear, input: Tensor) -> Tensor:
    """0, as a sum over no entry of the input and of the layer's empty parameters.

    So they, and all that the input comes from, have a gradient, if of 0:
    DistributedDataParallel waits for one of every parameter that requires it.
    """
    empty = [p.sum() for p in linear.parameters(recurse=False) if not p.numel()]
    return sum(empty, start=input[..., :0].sum())


def skip_empty_gradients_(linear: nn.Linear) -> None:
    """Let parameters without entries get no gradient, so that optimizers pass them over.

    Some optimizers divide by the number of entries. The parameter stays in its group, which keeps
    a saved optimizer state loadable.

    Args:
        linear: the layer; only its empty parameters are touched.
    """
    for parameter in linear.parameters(recurse=False):
        if parameter.numel() == 0 and parameter.is_leaf and parameter.requires_grad:
            parameter.grad = None
            if not getattr(parameter, _DROPPED, False):  # one hook, however often it is cut
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
                setattr(parameter, _DROPPED, True)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def without_heads_(q: nn.Linear, k: nn.Linear, v: nn.Linear, o: nn.Linear, head_dim: int) -> None:
    """Turn four emptied layers into the layers of an attention without heads.

    Args:
        q: query layer with no output features left; likewise k, v.
        k: key layer.
        v: value layer.
        o: output layer with no input features left.
        head_dim: width of the placeholder head.
    """
    for layer in (q, k, v):
        layer.__class__ = NoHeadsProjection
        layer.placeholder_features = head_dim  # type: ignore[assignment]
    o.__class__ = NoHeadsOutput


def feature_index(units: Tensor, width: int) -> Tensor:
    """Features of the given units, each `width` wide: [u * width, ..., u * width + width - 1].

    Args:
        units: int64 unit indices, shape (n,).
        width: features per unit.

    Returns:
        int64, shape (n * width,).
    """
    offsets = torch.arange(width, device=units.device)
    return (units.unsqueeze(1) * width + offsets).reshape(-1)


def kept_index(total: int, removed: tuple[int, ...], device: torch.device) -> Tensor:
    """The indices 0..total-1 without `removed`, int64, ascending.

    Args:
        total: number of units.
        removed: indices to leave out.
        device: where the index is made.
    """
    gone = set(removed)
    # Made from a list, not by nonzero(): the meta device knows no values.
    kept = [i for i in range(total) if i not in gone]
    return torch.tensor(kept, dtype=torch.int64, device=device)
