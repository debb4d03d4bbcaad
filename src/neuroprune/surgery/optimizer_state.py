"""Keep the optimizer's memory: slice every state tensor with its parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

# State tensors that lack one of the parameter's dimensions, by name: the dimension that is missing.
# transformers' Adafactor factors a matrix into a row and a column vector.
_FACTORED = {"exp_avg_sq_row": -1, "exp_avg_sq_col": -2}


class OptimizerStateError(ValueError):
    """A state tensor does not follow its parameter's shape in any known way."""


@dataclass(frozen=True)
class Replacement:
    """A parameter's successor: the old one with only `index` left along `dim`.

    Args:
        new: the parameter that takes the old one's place.
        dim: the dimension that was cut.
        index: int64 indices that were kept, shape (kept,).
    """

    new: nn.Parameter
    dim: int
    index: Tensor


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside a wrapper such as accelerate's.

    Args:
        optimizer: a torch optimizer, or an object that holds one as `.optimizer`.

    Raises:
        TypeError: there is no torch optimizer inside.
    """
    inner = optimizer
    if hasattr(optimizer, "get_last_lr"):
        raise TypeError("expected an optimizer, got a learning-rate scheduler.")
    while isinstance(getattr(inner, "optimizer", None), Optimizer):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise TypeError(
            f"expected a torch.optim.Optimizer or a wrapper around one, got {type(inner).__name__}."
        )
    return inner


def check_state(optimizer: Optimizer, cuts: Mapping[Tensor, int]) -> None:
    """Find out, before anything is changed, whether every state tensor can be sliced.

    Args:
        optimizer: the optimizer.
        cuts: parameter -> dimension it is about to be cut along.

    Raises:
        OptimizerStateError: a state tensor of unknown shape, or an optimizer that cannot be cut.
    """
    if isinstance(optimizer, LBFGS):
        raise OptimizerStateError(
            "LBFGS keeps its parameters and its history flattened, which cannot be cut. Use AdamW, "
            "SGD or Adafactor, or shrink without the optimizer and make a new one afterwards."
        )
    for parameter, dim in cuts.items():
        for name, value in optimizer.state.get(parameter, {}).items():
            _state_dim(name, value, parameter, dim)


def rebind_(optimizer: Optimizer, replacements: Mapping[Tensor, Replacement]) -> None:
    """Put new parameters in the place of the old, with the state sliced alike.

    A state tensor v of a parameter p cut along dim is sliced iff v.ndim == p.ndim and
    v.shape[dim] == p.shape[dim]; step counters and broadcast factors are kept whole.

    Args:
        optimizer: the optimizer; its param groups and state are changed in place.
        replacements: old parameter -> its successor.

    Raises:
        OptimizerStateError: a state tensor of unknown shape (nothing is changed then).
    """
    check_state(optimizer, {p: r.dim for p, r in replacements.items()})
    for group in optimizer.param_groups:
        group["params"] = [replacements[p].new if p in replacements else p for p in group["params"]]
    for old, replacement in replacements.items():
        state = optimizer.state.pop(old, None)
        if state is not None:
            for name, value in state.items():
                dim = _state_dim(name, value, old, replacement.dim)
                if dim is not None:
                    state[name] = value.index_select(dim, replacement.index)
            optimizer.state[replacement.new] = state


def _state_dim(name: str, value: Any, parameter: Tensor, dim: int) -> int | None:
    """Dimension of a state tensor that follows the parameter's `dim`; None to keep it whole."""
    if not isinstance(value, Tensor):
        if _holds_tensors(value):
            raise OptimizerStateError(
                f"cannot slice the optimizer state {name!r}, a {type(value).__name__} of tensors. "
                "Use AdamW, SGD or Adafactor, or shrink without the optimizer and make a new one "
                "afterwards."
            )
        return None  # a plain number
    if value.ndim == 0:
        return None
    if value.shape == (1,) != parameter.shape:
        return None  # a counter
    if name in _FACTORED and value.ndim == parameter.ndim - 1:
        missing = _FACTORED[name] % parameter.ndim
        left = [d for d in range(parameter.ndim) if d != missing]
        if tuple(value.shape) == tuple(parameter.shape[d] for d in left):
            return left.index(dim) if dim in left else None
    elif value.ndim == parameter.ndim:
        if value.shape[dim] == parameter.shape[dim]:
            return dim
        if value.shape[dim] == 1:
            return None  # a factor that is broadcast along this dimension
    raise OptimizerStateError(
        f"cannot slice the optimizer state {name!r} of shape {tuple(value.shape)} with its "
        f"parameter of shape {tuple(parameter.shape)} cut along dimension {dim}. Use AdamW, SGD or "
        "Adafactor, or shrink without the optimizer and make a new one afterwards."
    )


def _holds_tensors(value: Any) -> bool:
    """Whether a list, a tuple or a mapping holds a tensor that has dimensions."""
    if isinstance(value, Tensor):
        return value.ndim > 0
    inside = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, Mapping | list | tuple) and any(map(_holds_tensors, inside))
