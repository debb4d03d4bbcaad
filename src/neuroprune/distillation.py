"""Self-distillation: the logits of a teacher, by default of the user's own dense start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.anatomy.inputs import copy_of, device_of
from neuroprune.checkpoint import from_pretrained
from neuroprune.checkpoint.files import PLAN_FILE
from neuroprune.errors import ConfigError

WEIGHT = 0.5  # of the teacher in the loss
TEMPERATURE = 2.0
_IGNORED = -100  # label that transformers' losses pass over


class Distillation:
    """Mixes the teacher's answers into the loss of every training step.

        loss <- (1 - w) * loss + w * T^2 * KL( softmax(teacher / T) || softmax(student / T) )

    with w = 0.5 and T = 2; a model with one output is compared by mean squared error. Only
    positions with a label count. It acts in a forward hook, so a plain loop and the Trainer need no
    change, and only where a gradient is wanted and the model returned a loss. The teacher costs one
    forward pass a step and its weights in memory.

    Args:
        model: the student.
        teacher: the teacher; it is frozen and put into eval mode.

    Raises:
        ConfigError: the two do not answer the same question.

    Reference: Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module) -> None:
        _check_same_question(model, teacher)
        self.teacher = teacher.to(device_of(model)).eval().requires_grad_(False)
        self._hook = model.register_forward_hook(self._mix, with_kwargs=True)

    def detach(self) -> None:
        """Take the hook away and let the teacher go."""
        self._hook.remove()

    def _mix(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        loss, logits = _parts(output)
        if not model.training or loss is None or logits is None or not loss.requires_grad:
            return output
        with torch.no_grad():
            answer = _parts(self.teacher(*args, **kwargs))[1]
        assert answer is not None
        mixed = (1.0 - WEIGHT) * loss + WEIGHT * _distance(model, logits, answer, kwargs)
        if isinstance(output, tuple):
            return (mixed, *output[1:])
        output["loss"] = mixed
        return output


def teacher_for(model: nn.Module, teacher: nn.Module | str) -> nn.Module:
    """The teacher that a user names.

    Args:
        model: the student, before it is changed.
        teacher: a model; "dense", a copy of the student as it is; or a directory or hub name.

    Raises:
        ConfigError: it cannot be loaded.
    """
    if isinstance(teacher, nn.Module):
        return teacher
    if teacher == "dense":
        return copy_of(model)
    try:
        if (Path(teacher) / PLAN_FILE).is_file():
            loaded: nn.Module = from_pretrained(teacher)
        else:
            kind: Any = type(model)
            loaded = kind.from_pretrained(teacher)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the teacher {teacher!r} could not be loaded: {error} Give 'dense', a directory, a "
            "hub name, or a model as attach(..., teacher=model)."
        ) from error
    return loaded


def _check_same_question(model: Any, teacher: Any) -> None:
    for name in ("num_labels", "vocab_size", "model_type"):
        mine, other = (getattr(m.config, name, None) for m in (model, teacher))
        if mine != other:
            raise ConfigError(
                f"the teacher has {name} {other!r}, the model {mine!r}: their answers cannot be "
                "compared. Use a teacher for the same task and of the same family."
            )
    if teacher is model:
        raise ConfigError('the teacher is the model itself. Use teacher="dense" for a copy of it.')


def _parts(output: Any) -> tuple[Tensor | None, Tensor | None]:
    """Loss and logits of a model's output; None where it has none."""
    if isinstance(output, tuple):
        return (output[0], output[1]) if len(output) > 1 and output[0].ndim == 0 else (None, None)
    return output.get("loss"), output.get("logits")


def _distance(model: Any, student: Tensor, teacher: Tensor, kwargs: dict[str, Any]) -> Tensor:
    student, teacher = student.float(), teacher.float()
    if student.shape[-1] == 1:
        return functional.mse_loss(student, teacher)
    counted = None
    labels = kwargs.get("labels")
    if student.ndim == 3 and isinstance(labels, Tensor) and labels.shape == student.shape[:2]:
        if any(word in type(model).__name__ for word in ("CausalLM", "LMHead")):
            student, teacher, labels = student[:, :-1], teacher[:, :-1], labels[:, 1:]
        counted = (labels != _IGNORED).reshape(-1)
    student = student.reshape(-1, student.shape[-1]) / TEMPERATURE
    teacher = teacher.reshape(-1, teacher.shape[-1]) / TEMPERATURE
    if counted is not None:
        student, teacher = student[counted], teacher[counted]
    divergence = functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True
    )
    return TEMPERATURE**2 * divergence / max(len(student), 1)
