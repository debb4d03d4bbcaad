"""Self-distillation: the logits of a teacher, by default of the user's own dense start."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from neuroprune.anatomy.inputs import copy_of, device_of
from neuroprune.checkpoint import from_pretrained
from neuroprune.checkpoint.files import PLAN_FILE
from neuroprune.choices import DENSE, FINETUNED
from neuroprune.errors import ConfigError
from neuroprune.plan import ShrinkPlan

WEIGHT = 0.5  # of the teacher in the loss
TEMPERATURE = 2.0
IGNORED = -100  # label that transformers' losses pass over
# Not asked of the teacher: its loss and states are not used.
_UNASKED = ("output_hidden_states", "output_attentions", "num_items_in_batch", "return_dict")


class Distillation:
    """Mixes the teacher's answers into the loss of every training step.

        loss <- (1 - w) * loss + w * T^2 * KL( softmax(teacher / T) || softmax(student / T) )

    with w = 0.5, as a mean over the examples, or over the positions that have a label.
    Regression is compared by mean squared error, independent labels by their own probabilities.
    It acts in a forward hook, so a plain loop and the Trainer need no change, and only in training
    mode, where a gradient is wanted and the model returned a loss. The teacher costs one forward
    pass a step and its weights in memory; it runs in eval mode and gets no gradient.

    Args:
        model: the student.
        teacher: the teacher. One on another device or in another precision is copied.
        is_start: whether it is a copy of the student as training began.
        temperature: T.

    Raises:
        ConfigError: the two do not answer the same question.

    Reference: Hinton, Vinyals and Dean (2015), arXiv 1503.02531, section 2.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        is_start: bool = False,
        temperature: float = TEMPERATURE,
    ) -> None:
        _check_same_question(model, teacher)
        self.teacher = _beside(model, teacher).eval()
        self.is_start = is_start
        self.temperature = temperature
        self.answered = 0  # forward passes since the last step
        self._hook = model.register_forward_hook(self._mix, with_kwargs=True)

    def after_shrink_(self, plan: ShrinkPlan) -> None:
        """Follow a cut of the student; answers do not change their size with it.

        Args:
            plan: what was removed.
        """

    def detach(self) -> None:
        """Take the hook away."""
        self._hook.remove()

    def _mix(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not (model.training and torch.is_grad_enabled()):
            return output
        loss, logits = _parts(output)
        if loss is None or logits is None:
            return output
        answer = self._answer(model, args, kwargs, logits)
        distance = _distance(model, logits, answer, args, kwargs, self.temperature)
        mixed = self._mixture(loss, distance, model, args, kwargs)
        self.answered += 1
        if isinstance(output, tuple):
            return (mixed, *output[1:])
        output["loss"] = mixed
        return output

    def _mixture(
        self, loss: Tensor, distance: Tensor, model: Any, args: Any, kwargs: Mapping[str, Any]
    ) -> Tensor:
        """The loss that is trained on, of the task's and the distance of the answers."""
        return (1.0 - WEIGHT) * loss + WEIGHT * distance

    def skip_(self) -> None:
        """Forget a step that the optimizer skipped."""
        self.answered = 0

    def step_(self, optimizer: Optimizer) -> None:
        """After an optimizer step: let learn what the distillation itself has to learn.

        Args:
            optimizer: the user's, which has made its step.
        """
        self.answered = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state; the teacher is not in it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote.

        Args:
            state: the state.
        """

    @torch.no_grad()
    def _answer(self, model: Any, args: Any, kwargs: Mapping[str, Any], logits: Tensor) -> Tensor:
        asked = {k: v for k, v in kwargs.items() if k not in _UNASKED}
        if not getattr(model.config, "is_encoder_decoder", False):
            asked.pop("labels", None)  # a decoder's inputs are made from them
        if self.teacher.training:
            self.teacher.eval()
        answer = self.teacher(*args, **asked, return_dict=True).get("logits")
        if not isinstance(answer, Tensor) or answer.shape != logits.shape:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else "no logits"
            raise ConfigError(
                f"expected logits of shape {tuple(logits.shape)} from the teacher, as the model "
                f"gives, got {got}. Use a teacher with the same head, labels and vocabulary."
            )
        return answer


def teacher_for(model: nn.Module, teacher: nn.Module | Path | str) -> nn.Module:
    """The teacher that a user names.

    Args:
        model: the student, before it is changed.
        teacher: a model; "dense", a copy of the student as it is; or a directory or hub name.

    Raises:
        ConfigError: it cannot be loaded, a part of it would be random, or there is no such run.
    """
    if isinstance(teacher, nn.Module):
        return teacher
    if teacher == DENSE:
        return copy_of(model)
    if teacher == FINETUNED:
        raise ConfigError(
            f"the teacher {FINETUNED!r} is the dense run of an experiment, and there is none here. "
            "Give the directory of a fine-tuned model, or a model as attach(..., teacher=model)."
        )
    try:
        if (Path(teacher) / PLAN_FILE).is_file():
            loaded: nn.Module = from_pretrained(teacher)
            return loaded
        kind: Any = type(model)
        loaded, report = kind.from_pretrained(teacher, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the teacher {str(teacher)!r} could not be loaded: {error} Give 'dense', a directory, "
            "a hub name, or a model as attach(..., teacher=model)."
        ) from error
    if report["missing_keys"]:
        raise ConfigError(
            f"the teacher {str(teacher)!r} has no weights for "
            f"{', '.join(sorted(report['missing_keys']))}: its answers would be random. Give a "
            f"model that was trained as {kind.__name__}."
        )
    return loaded


def _beside(model: nn.Module, teacher: nn.Module) -> nn.Module:
    """The teacher on the student's device and in its precision; a copy where that changes it."""
    device, dtype = device_of(model), next(model.parameters()).dtype
    if all(p.device == device and p.dtype == dtype for p in teacher.parameters()):
        return teacher
    return copy_of(teacher).to(device=device, dtype=dtype)


def _check_same_question(model: Any, teacher: Any) -> None:
    if teacher is model or {*model.parameters()} & {*teacher.parameters()}:
        raise ConfigError(
            "the teacher is the model itself, or shares weights with it, which training changes. "
            'Use teacher="dense" for a copy of the model as it is.'
        )
    if not hasattr(teacher, "config"):
        raise ConfigError(
            f"expected a transformers model as teacher, got {type(teacher).__name__}."
        )
    kind = type(model).__name__
    if any(words in kind for words in ("QuestionAnswering", "ForPreTraining")):
        raise ConfigError(
            f"a teacher is distilled by its logits, and {kind} gives none under that name. Leave "
            "the teacher out, or train a head with one set of logits."
        )
    classifies = "Classification" in type(model).__name__
    for name in ("num_labels", "vocab_size") if classifies else ("vocab_size",):
        mine, other = (getattr(m.config, name, None) for m in (model, teacher))
        if mine != other:
            raise ConfigError(
                f"the teacher has {name} {other!r}, the model {mine!r}: their answers cannot be "
                "compared. Use a teacher for the same task that reads the same tokens."
            )
    if classifies:
        mine, other = (label_names(m.config) for m in (model, teacher))
        if mine != other and sorted(mine) == sorted(other):
            raise ConfigError(
                f"the teacher has the labels in the order {other}, the model {mine}. Set id2label "
                "of both configs to one order, and train on that."
            )


def label_names(config: Any) -> list[str]:
    """Names of a classifier's labels, by number.

    Args:
        config: of a transformers model.
    """
    names = getattr(config, "id2label", None) or {}
    return [str(names[i]) for i in sorted(names)]


def _parts(output: Any) -> tuple[Tensor | None, Tensor | None]:
    """Loss and logits of a model's output; None where it has none."""
    if isinstance(output, tuple):
        return (output[0], output[1]) if len(output) > 1 and output[0].ndim == 0 else (None, None)
    return output.get("loss"), output.get("logits")


def _distance(
    model: Any,
    student: Tensor,
    teacher: Tensor,
    args: Any,
    kwargs: Mapping[str, Any],
    temperature: float,
) -> Tensor:
    """What the teacher adds to the loss, reduced as the model reduces its own."""
    wide = torch.promote_types(student.dtype, torch.float32)
    problem = getattr(model.config, "problem_type", None)
    if student.shape[-1] == 1 or problem == "regression":
        return functional.mse_loss(student.to(wide), teacher.to(wide))
    labels, number = argument(model, "labels", args, kwargs), None
    if problem == "multi_label_classification":  # sigmoid(z) = softmax((z, 0))
        student, teacher = (torch.stack([z, torch.zeros_like(z)], -1) for z in (student, teacher))
    elif student.ndim == 3 and labels is not None and labels.shape == student.shape[:2]:
        if predicts_next(model):
            student, teacher, labels = student[:, :-1], teacher[:, :-1], labels[:, 1:]
            # Under gradient accumulation the Trainer counts the labels of all batches of a step.
            number = kwargs.get("num_items_in_batch")
        counted = (labels != IGNORED).to(student.device)
        student, teacher = student[counted], teacher[counted]
    student, teacher = (
        z.reshape(-1, z.shape[-1]).to(wide) / temperature for z in (student, teacher)
    )
    divergence = functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True
    )
    return temperature**2 * divergence / (max(len(student), 1) if number is None else number)


def predicts_next(model: nn.Module) -> bool:
    """Whether position t of the model's answers is about label t + 1.

    Args:
        model: the model.
    """
    return any(word in type(model).__name__ for word in ("CausalLM", "LMHead"))


def argument(model: nn.Module, name: str, args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """A tensor that a forward pass was given, also where it was given by position.

    Args:
        model: the model.
        name: of the argument.
        args: those given by position.
        kwargs: those given by name.
    """
    value = kwargs.get(name)
    if value is None and args:
        bound = inspect.signature(type(model).forward).bind_partial(model, *args)
        value = bound.arguments.get(name)
    return value if isinstance(value, Tensor) else None
