"""Distillation of hidden states: each teaching layer teaches the student layer closest to it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.anatomy.layers import Layer, stacks_of
from neuroprune.baselines import CoFi
from neuroprune.choices import Distill
from neuroprune.config import NeuroPrune
from neuroprune.core.matching import closest, state_error, teaching_layers
from neuroprune.distillation import IGNORED, Distillation, argument, predicts_next
from neuroprune.errors import ConfigError
from neuroprune.methods.method import step_sizes
from neuroprune.plan import ShrinkPlan
from neuroprune.settings import Config
from neuroprune.surgery.linear import kept_index
from neuroprune.surgery.optimizer_state import Replacement, rebind_


def asked_teacher(
    config: Config, teacher: nn.Module | Path | str | None
) -> nn.Module | Path | str | None:
    """The teacher that is asked for, by the call or by the configuration.

    Args:
        config: the method's.
        teacher: what `attach` was given, which goes before the configuration.

    Returns:
        A model, "dense", a directory or a hub name; None without a teacher.

    Raises:
        ConfigError: the method takes no teacher, or settings of distillation are given without one.
    """
    if teacher is not None and isinstance(config, NeuroPrune) and config.target is None:
        raise ConfigError(
            "a teacher belongs to target mode: give a target, such as NeuroPrune(target=0.8), or "
            "leave the teacher out."
        )
    asked = getattr(config, "teacher", None) if teacher is None else teacher
    idle = config.teaching if asked is None and isinstance(config, CoFi) else {}
    if idle:
        raise ConfigError(
            f"CoFi.{', '.join(idle)} would do nothing without a teacher. Leave it out, or give a "
            'teacher, such as CoFi(teacher="dense").'
        )
    if asked is None or isinstance(asked, nn.Module | Path | str):
        return asked
    raise ConfigError(
        f'expected a model, "dense", a directory or a hub name as teacher, got {asked!r}.'
    )


def distillation_for(
    config: Config,
    model: nn.Module,
    teacher: nn.Module,
    is_start: bool,
    open_mlps: Callable[[], Collection[str]],
) -> Distillation:
    """How a method learns from a teacher: by its answers, or as its configuration says.

    Args:
        config: of the method.
        model: the student.
        teacher: the teacher.
        is_start: whether it is a copy of the student as training began.
        open_mlps: names of the MLP blocks that have a say in the step to come.

    Raises:
        ConfigError: teacher and student cannot be compared.
    """
    if not isinstance(config, CoFi):
        return Distillation(model, teacher, is_start)
    if config.distill is Distill.LOGITS:
        return Distillation(model, teacher, is_start, config.temperature)
    return LayerDistillation(model, teacher, is_start, config, open_mlps)


class LayerDistillation(Distillation):
    """Puts a teacher's answers and hidden states in the place of the task's loss.

        loss <- (1 - w) * L_pred + w * sum over i in T of MSE(W H_s^m(i), H_t^i)
        m(i) = argmin over student layers j whose MLP is open of MSE(W H_s^j, H_t^i)

    L_pred is the distance of the answers, as in `Distillation`. H^j is what layer j returns, at the
    positions that are no padding. An encoder-decoder has a T, an m and a W for each of its two
    stacks, and both sums count. W begins as the identity and learns by Adam, with the learning rate
    that the user's optimizer has in its first group. Its columns are the student's hidden
    dimensions, and go with them.

    Args:
        model: the student.
        teacher: the teacher, of the same dense width.
        is_start: whether it is a copy of the student as training began.
        config: with temperature, layer_weight, teacher_layers and ordered.
        open_mlps: names of the MLP blocks that have a say in the step to come.

    Raises:
        ConfigError: the two cannot be compared, layer by layer.

    Reference: Xia, Zhong and Chen (2022), arXiv 2204.00408, section 3.2.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        is_start: bool,
        config: CoFi,
        open_mlps: Callable[[], Collection[str]],
    ) -> None:
        ours, theirs = anatomy_of(model), anatomy_of(teacher)
        _check_layers(model, ours, theirs)
        numbers = [_teaching(len(stack), config.teacher_layers) for stack in stacks_of(theirs)]
        super().__init__(model, teacher, is_start, config.temperature)
        self.config = config
        self.open_mlps = open_mlps
        self._student = stacks_of(ours)
        stacks = stacks_of(anatomy_of(self.teacher))
        self._teaching = [
            [stack[n - 1] for n in t] for stack, t in zip(stacks, numbers, strict=True)
        ]
        self.matched: list[list[int]] = []  # m of the last forward pass, by stack
        self._ours = _States([layer for stack in self._student for layer in stack])
        self._theirs = _States([layer for stack in self._teaching for layer in stack], False)
        first = next(model.parameters())
        wide = torch.promote_types(first.dtype, torch.float32)
        mine, other = (torch.tensor(_dimensions(a), device=first.device) for a in (ours, theirs))
        eye = (other[:, None] == mine).to(wide)  # the identity, on the dimensions both have
        self.transforms = tuple(nn.Parameter(eye.clone()) for _ in stacks)
        self._adam = torch.optim.Adam(self.transforms)

    def after_shrink_(self, plan: ShrinkPlan) -> None:
        """W and its moments lose the columns of the hidden dimensions that went."""
        if not plan.remove_hidden:
            return
        new: dict[Tensor, Replacement] = {}
        for old in self.transforms:
            index = kept_index(old.shape[1], plan.remove_hidden, old.device)
            new[old] = Replacement(nn.Parameter(old.detach().index_select(1, index)), 1, index)
        self.transforms = tuple(new[old].new for old in self.transforms)
        rebind_(self._adam, new)

    def detach(self) -> None:
        """Take the hooks away."""
        super().detach()
        self._ours.detach()
        self._theirs.detach()

    def _mix(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        try:
            return super()._mix(model, args, kwargs, output)
        finally:  # they hold the whole graph
            self._ours.found.clear()
            self._theirs.found.clear()

    def _answer(self, model: Any, args: Any, kwargs: Mapping[str, Any], logits: Tensor) -> Tensor:
        with self._theirs.listening():
            return super()._answer(model, args, kwargs, logits)

    def _mixture(
        self, loss: Tensor, distance: Tensor, model: Any, args: Any, kwargs: Mapping[str, Any]
    ) -> Tensor:
        weight = self.config.layer_weight
        layers = self._layers(model, args, kwargs)
        return (1.0 - weight) * distance + weight * layers.to(distance.device)

    def _layers(self, model: Any, args: Any, kwargs: Mapping[str, Any]) -> Tensor:
        """Sum over stacks and teaching layers of the distance of hidden states."""
        open_mlps = set(self.open_mlps())
        self.matched = []
        total = self.transforms[0].new_zeros(())
        for i, transform in enumerate(self.transforms):
            # A layer that this pass left out has no state, and nothing is matched with it.
            there = [layer for layer in self._student[i] if layer.name in self._ours.found]
            if not there:
                self.matched.append([])
                continue
            real = _real_positions(model, i, args, kwargs)
            mapped = [
                _rows(self._ours.found[layer.name], real, transform) @ transform.T
                for layer in there
            ]
            theirs = [_rows(self._theirs.found[t.name], real, transform) for t in self._teaching[i]]
            is_open = [open_mlps.issuperset(layer.mlps) for layer in there]
            with torch.no_grad():
                pairs = [[state_error(s, t) for s in mapped] for t in theirs]
                errors = torch.stack([torch.stack(row) for row in pairs])
                marks = torch.tensor(is_open, device=errors.device)
                matched = closest(errors, marks, self.config.ordered).tolist()
            total = total + sum(
                state_error(mapped[j], t) for j, t in zip(matched, theirs, strict=True)
            )
            self.matched.append([self._student[i].index(there[j]) for j in matched])
        return total * _share(model, args, kwargs)

    def step_(self, optimizer: Optimizer) -> None:
        """Let W learn from the gradients since the last step, at the user's learning rate.

        Args:
            optimizer: the user's.

        Raises:
            ConfigError: it has no learning rate of its own.
        """
        gradients = [t.grad for t in self.transforms if t.grad is not None]
        # A gradient scaler skips steps that overflow; what they left here is dropped.
        if gradients and all(bool(g.isfinite().all()) for g in gradients):
            self._adam.param_groups[0]["lr"] = next(iter(step_sizes(optimizer).values()))
            self._adam.step()
        self._adam.zero_grad()
        super().step_(optimizer)

    def skip_(self) -> None:
        """Drop the gradients of a step that was skipped."""
        self._adam.zero_grad()
        super().skip_()

    def state_dict(self) -> dict[str, Any]:
        """W and its moments, for each stack, as one text."""
        from safetensors.torch import save

        tensors = {}
        for i, transform in enumerate(self.transforms):
            tensors[f"{i}.value"] = transform.detach()
            for name, moment in self._adam.state.get(transform, {}).items():
                tensors[f"{i}.{name}"] = moment
        data = save({k: v.cpu().contiguous() for k, v in tensors.items()})
        return {"transforms": base64.b64encode(data).decode("ascii")}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the saved W.

        Raises:
            ConfigError: the state has none, or one of another width.
        """
        from safetensors.torch import load

        text = state.get("transforms")
        tensors = {} if text is None else load(base64.b64decode(text))
        for i, transform in enumerate(self.transforms):
            value = tensors.get(f"{i}.value")
            if value is None or value.shape != transform.shape:
                got = None if value is None else tuple(value.shape)
                raise ConfigError(
                    "the saved state has no transformation of the hidden states of shape "
                    f"{tuple(transform.shape)}, got {got}. Resume with the teacher and settings "
                    "the run was begun with."
                )
            transform.copy_(value)
            names = [n for n in tensors if n.startswith(f"{i}.") and n != f"{i}.value"]
            moments = {n.partition(".")[2]: tensors[n] for n in names}
            if moments:
                self._adam.state[transform] = {
                    n: v if n == "step" else v.to(transform.device) for n, v in moments.items()
                }


class _States:
    """What layers returned in the last forward pass, by the layer's name.

    Args:
        layers: the layers.
        always: whether to listen to every forward pass that builds a graph; otherwise to those
            inside `listening`, whatever they build.
    """

    def __init__(self, layers: Sequence[Layer], always: bool = True) -> None:
        self.found: dict[str, Tensor] = {}
        self._on = self._always = always
        self._hooks = [
            layer.module.register_forward_hook(
                lambda module, args, output, name=layer.name: self._keep(name, output)
            )
            for layer in layers
        ]

    def _keep(self, name: str, output: Any) -> None:
        if self._on and (torch.is_grad_enabled() or not self._always):
            self.found[name] = output[0] if isinstance(output, tuple) else output

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to what runs inside."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def detach(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self.found.clear()


def _teaching(depth: int, numbers: tuple[int, ...] | None) -> tuple[int, ...]:
    """Numbers of the layers of a stack that teach, from 1."""
    if numbers is not None and numbers[-1] > depth:
        raise ConfigError(
            f"CoFi.teacher_layers {list(numbers)}: the teacher has {depth} layers in a stack. "
            f"Give numbers from 1 to {depth}."
        )
    return teaching_layers(depth) if numbers is None else numbers


def _check_layers(model: Any, ours: Anatomy, theirs: Anatomy) -> None:
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ConfigError(
            "gradient checkpointing throws the hidden states away that layers are distilled by. "
            'Turn it off, or use distill="logits".'
        )
    widths = _dense_width(ours), _dense_width(theirs)
    stacks = len(stacks_of(ours)), len(stacks_of(theirs))
    for what, (mine, other) in (("hidden width", widths), ("number of stacks", stacks)):
        if mine != other:
            raise ConfigError(
                f"the teacher has the {what} {other}, the model {mine}: their layers cannot be "
                'compared. Use a teacher of the same architecture, or distill="logits".'
            )


def _dense_width(anatomy: Anatomy) -> int:
    """Width of the hidden states that the layers of the dense model return."""
    return anatomy.lineage.width or int(anatomy.mlps[0].down_proj.weight.shape[0])


def _dimensions(anatomy: Anatomy) -> tuple[int, ...]:
    """Dense indices of the hidden dimensions that are left."""
    return anatomy.lineage.kept_hidden() or tuple(range(_dense_width(anatomy)))


def _real_positions(model: Any, stack: int, args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Marks of the positions that are no padding, shape (batch, length); None: all of them."""
    if stack == 1:  # the decoder of two; its inputs are made from the labels
        mask = argument(model, "decoder_attention_mask", args, kwargs)
        labels = argument(model, "labels", args, kwargs)
        return mask if mask is not None or labels is None else labels != IGNORED
    return argument(model, "attention_mask", args, kwargs)


def _rows(states: Tensor, real: Tensor | None, like: Tensor) -> Tensor:
    """Hidden states of the real positions, one a row, where and in the precision that W is."""
    states = states.to(like.device, like.dtype)
    if real is None or real.shape != states.shape[:2]:
        return states.reshape(-1, states.shape[-1])
    return states[real.to(states.device).bool()]


def _share(model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> float:
    """The part of an optimizer step that this forward pass is, where its loss is told so."""
    number = kwargs.get("num_items_in_batch")
    labels = argument(model, "labels", args, kwargs)
    if number is None or labels is None or not predicts_next(model):
        return 1.0
    counted = (labels[:, 1:] != IGNORED).sum()
    return float(counted) / float(number)
