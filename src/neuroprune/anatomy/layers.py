"""The layers of a model: what its blocks are numbered by, in stacks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from neuroprune.anatomy.blocks import Anatomy

_LAYER = re.compile(r"(?P<stack>.*?)\.\d+(?=\.|$)")  # a block's name up to its layer's number


@dataclass(frozen=True)
class Layer:
    """One layer of a stack.

    Args:
        name: dotted path inside the family's root module.
        module: the module; it returns the hidden states, alone or first.
        mlps: names of its MLP blocks.
    """

    name: str
    module: nn.Module
    mlps: tuple[str, ...]


def stacks_of(anatomy: Anatomy) -> tuple[tuple[Layer, ...], ...]:
    """The layers of a model, stack by stack: one, or the encoder's and the decoder's.

    Args:
        anatomy: the model's blocks.
    """
    stack_of: dict[str, str] = {}
    mlps: dict[str, list[str]] = {}
    for block in anatomy.blocks():
        found = _LAYER.match(block.name)
        assert found is not None  # every pattern of a family has one number
        stack_of[found[0]] = found["stack"]
        mlps.setdefault(found[0], [])
    for mlp in anatomy.mlps:
        mlps[next(n for n in mlps if f"{mlp.name}.".startswith(f"{n}."))].append(mlp.name)
    stacks: dict[str, list[Layer]] = {}
    for name, module in anatomy.root.named_modules():
        if name in stack_of:
            stacks.setdefault(stack_of[name], []).append(Layer(name, module, tuple(mlps[name])))
    return tuple(map(tuple, stacks.values()))
