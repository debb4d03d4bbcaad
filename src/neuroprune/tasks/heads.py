"""The head of a saved classifier whose labels are not those of the task, or in another order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from neuroprune.distillation import label_names

_NUMBERED = re.compile(r"(label_)?\d+")


def reorder_head_(model: Any, names: Sequence[str]) -> bool:
    """Bring the outputs of a classifier into the order of the task's labels.

    Names are compared without regard to case. Numbers and "LABEL_0", "LABEL_1" and so on, which
    transformers gives where nobody named them, are taken as they stand; so is a head of one output.

    Args:
        model: the classifier; its output layer is the last linear one outside its body.
        names: names of the classes by number, each once.

    Returns:
        Whether the head is one of these labels now; False leaves it as it is.
    """
    have = [name.casefold() for name in label_names(model.config)]
    want = [name.casefold() for name in names]
    unnamed = any(all(map(_NUMBERED.fullmatch, names)) for names in (have, want))
    if unnamed or len(want) < 2 or have == want:
        return True
    layers = [m for m in _head(model) if isinstance(m, nn.Linear) and m.out_features == len(have)]
    if sorted(have) != sorted(want) or len(set(have)) < len(have) or not layers:
        return False
    order = [have.index(name) for name in want]
    with torch.no_grad():
        for values in layers[-1].parameters(recurse=False):
            values.copy_(values[order].clone())
    return True


def draw_head_(model: Any) -> None:
    """Random weights for everything outside a model's body, as transformers draws them.

    Args:
        model: a transformers model with a head.
    """
    parts: list[Any] = _head(model)
    for module in parts:
        for values in module.parameters(recurse=False):
            values._is_hf_initialized = False  # loaded, which transformers 5 would leave alone
    with torch.no_grad():
        for module in reversed(parts):  # T5's head draws its layers over their own drawing
            model._init_weights(module)


def _head(model: Any) -> list[nn.Module]:
    body = set(model.base_model.modules())
    return [m for m in model.modules() if m not in body and m is not model]
