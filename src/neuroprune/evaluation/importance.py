"""How much a trained model needs each of its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import anatomy_of
from neuroprune.anatomy.inputs import device_of, evaluating, to_device
from neuroprune.core.importance import gate_gradient
from neuroprune.evaluation.quality import EvaluationError
from neuroprune.tasks.data import TaskData

EXAMPLES = 128  # that heads are asked about: a percent of a short training
_DIGITS = 6


def head_importance(
    model: Any, data: TaskData, examples: int = EXAMPLES
) -> Mapping[str, list[float]]:
    """Mean absolute first-order change of the loss when one head goes.

        I_h = (1 / N) * sum over examples x of | dL(x) / dm_h |

    with a gate m_h = 1 on what head h hands to W_O, and the model's own loss of one example at a
    time. The model is in eval mode meanwhile; its mode and its gradients stay as they were.

    Args:
        model: a transformers model with the head of the task.
        data: the task; a fixed sample of its training examples is used, or of its evaluation
            examples where there are none.
        examples: N, or all where there are fewer.

    Returns:
        Name of every attention block -> I_h of its query heads, in order, >= 0.

    Raises:
        EvaluationError: a gradient is not finite, there are no examples, or `examples` is below 1.

    Reference: Michel et al. (2019), arXiv 1905.10650, section 4.1.
    """
    if examples < 1:
        raise EvaluationError(f"examples must be at least 1, got {examples}.")
    blocks = anatomy_of(model).attentions
    weights = [block.o_proj.weight for block in blocks]
    source = data.evaluation if data.train is None else data.train
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    rows = order[:examples].tolist()
    if not rows:
        raise EvaluationError(
            f"the task {data.config.name!r} has no examples, so no head has an importance."
        )
    totals = [torch.zeros(block.num_heads, device=device_of(model)) for block in blocks]
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_()
    try:
        # A collator that masks tokens draws which: the same ones every time.
        with evaluating(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for row in rows if blocks else ():
                batch = to_device(data.collator([source[row]]), device_of(model))
                loss = model(**batch).loss
                gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
                for i, (block, gradient) in enumerate(zip(blocks, gradients, strict=True)):
                    change = gate_gradient(block.o_proj.weight, gradient, block.head_dim)
                    totals[i] += change.abs()
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    return {
        block.name: _finite(total / len(rows)) for block, total in zip(blocks, totals, strict=True)
    }


def tell_importance_(structure: Mapping[str, Any], importance: Mapping[str, list[float]]) -> None:
    """Write the importance of heads into what a record says of the dense model, in place.

    Args:
        structure: as `topology.structure.structure` gives it.
        importance: of `head_importance`.
    """
    for block in structure["blocks"]:
        if block["name"] in importance:
            block["importance"] = importance[block["name"]]


def _finite(values: Tensor) -> list[float]:
    if not bool(torch.isfinite(values).all()):
        raise EvaluationError(
            "the gradients of the loss are not finite (NaN or infinite), so no head has an "
            "importance. The model's training diverged: lower the learning rate."
        )
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
