"""When: optimizer hooks, epoch ends, the end of training. No arithmetic lives here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, anatomy_of
from neuroprune.choices import DENSE
from neuroprune.config import Config
from neuroprune.distillation import Distillation, teacher_for
from neuroprune.layer_distillation import asked_teacher, distillation_for
from neuroprune.learning_rates import LearningRates
from neuroprune.methods import Method, dead_inputs, dead_units, method_for
from neuroprune.methods.method import StepSizeOf, set_up_, step_sizes, trained_by
from neuroprune.plan import ShrinkPlan
from neuroprune.record import differences
from neuroprune.snapshots import Evaluate, Snapshots, snapshots_for
from neuroprune.step_hooks import around_step, is_finite, is_skipped
from neuroprune.surgery import adopt_, shrink_, unwrap_optimizer
from neuroprune.trained import (
    check_model,
    check_state_is_sliceable,
    count_trained,
    warn_of_others,
)

STATE_VERSION = 1
_ATTACHED: WeakSet[Optimizer] = WeakSet()
_PRUNED: WeakSet[nn.Module] = WeakSet()


class NonFiniteError(FloatingPointError):
    """A gradient is NaN or infinite; the step was not taken."""


class PrunerError(RuntimeError):
    """A pruner is used in the wrong order or with the wrong model."""


def attach(
    model: nn.Module,
    optimizer: Any,
    method: Config | Method,
    total_steps: int | None = None,
    *,
    teacher: nn.Module | Path | str | None = None,
    snapshot_dir: Path | str | None = None,
    evaluate: Evaluate | None = None,
) -> Pruner:
    """Add a pruning method to an ordinary training loop.

    From now on the method acts at every true optimizer step (gradient accumulation, mixed precision
    and several param groups need no care). Call `prune()` at the end of each epoch and `finish()`
    once at the end.

    A penalty's gradient is added right before the optimizer step. Without gradient clipping this is
    the same as the penalty in the loss; with clipping, the penalty is added after it and is not
    clipped. Under a GradScaler with a fused optimizer it carries the scale the gradients carry.

    Args:
        model: a transformers model of a declared family, not wrapped.
        optimizer: the optimizer that trains it, or accelerate's wrapper of it.
        method: `NeuroPrune(...)`, the configuration of another method such as `CoFi(...)`, or a
            `Method` of your own.
        total_steps: optimizer steps of the whole training; needed by methods with a schedule.
        teacher: who is distilled while training: a model, "dense" (a copy of the model as it is
            now), a directory or a hub name. In place of the `teacher` of the configuration.
        snapshot_dir: where the models of `NeuroPrune(snapshots=[...])` go.
        evaluate: model -> metrics, for the quality of each snapshot.

    Returns:
        The pruner.

    Raises:
        UnknownFamilyError, WrappedModelError: the model cannot be pruned; the message says why.
        ConfigError: the method is not known, needs `total_steps` or `snapshot_dir`, has no use for
            `snapshot_dir` or `evaluate`, asks for what cannot be reached, or the teacher answers
            another question.
        PrunerError: the optimizer trains none of the model's prunable matrices, or has a pruner.
        OptimizerStateError: from the first step, where its state cannot follow a cut.

    Example:
        >>> pruner = attach(model, optimizer, NeuroPrune(alpha=1e-4, beta=1e-3, theta=0.15))
        ... # doctest: +SKIP
    """
    chosen = method_for(method, total_steps)
    snapshots = snapshots_for(chosen.config, snapshot_dir, evaluate)
    asked = asked_teacher(chosen.config, teacher)
    answers = None if asked is None else teacher_for(model, asked)
    pruner = Pruner(model, optimizer, chosen, snapshots)
    if answers is not None:
        try:
            pruner.teach(answers, is_start=isinstance(asked, str) and asked == DENSE)
        except BaseException:
            pruner.detach()
            raise
    return pruner


class Pruner:
    """A method attached to a model and its optimizer; made by `attach`.

    Args:
        model: the model.
        optimizer: its optimizer, or a wrapper of it.
        method: the method.
        snapshots: takes the models that the method wants saved on the way.
    """

    def __init__(
        self, model: nn.Module, optimizer: Any, method: Method, snapshots: Snapshots | None = None
    ) -> None:
        self.snapshots = snapshots
        self.reached: dict[str, float] = {}
        self._distillation: Distillation | None = None
        self.model = model
        self.optimizer = unwrap_optimizer(optimizer)
        self.method = method
        self.steps = 0
        self.removed = ShrinkPlan()
        self.anatomy: Anatomy = anatomy_of(model)
        self._cut_at_step = -1
        self._sliceable = False
        self._rates = LearningRates(self.optimizer)
        self._held = count_trained(self.optimizer, self.anatomy)
        if not self._held:
            raise PrunerError(
                "the optimizer trains none of the model's prunable matrices. Make the optimizer "
                "from this model's parameters, after moving it to its device."
            )
        if self.optimizer in _ATTACHED:
            raise PrunerError("the optimizer has a pruner already; call its finish() first.")
        if model in _PRUNED:
            raise PrunerError(
                "the model has a pruner already, with another optimizer. Call its finish() or "
                "detach() first, or load the model anew."
            )
        if any(group.get("maximize") for group in self.optimizer.param_groups):
            raise PrunerError(
                "the optimizer maximises, which would turn the penalty round. Negate the loss and "
                "use maximize=False."
            )
        warn_of_others(self.optimizer, self.anatomy)
        check_model(self.anatomy)
        set_up_(self.method, self.anatomy, self.optimizer)
        adopt_(model, self.anatomy.lineage)  # every checkpoint from now on carries the plan
        self._hooks = around_step(self.optimizer, self._before_step, self._after_step)
        self._recorded = self._lineage_of()
        _ATTACHED.add(self.optimizer)
        _PRUNED.add(model)

    def teach(self, teacher: nn.Module, is_start: bool = False) -> None:
        """Distil a teacher from now on, as the method's configuration says.

        Args:
            teacher: the teacher.
            is_start: whether it is a copy of the model as it is now.

        Raises:
            ConfigError: it answers another question than the model.
        """
        config: Config = self.method.config
        self._distillation = distillation_for(
            config, self.model, teacher, is_start, self._open_mlps
        )

    def _open_mlps(self) -> set[str]:
        return {block.name for block in self.anatomy.mlps if self.method.is_open(block)}

    def penalty(self) -> Tensor:
        """The method's penalty now, with its strengths. Detached: for logging only."""
        with torch.no_grad():
            return self.method.penalty(self.anatomy)

    def prune(self) -> ShrinkPlan:
        """End of an epoch: let the method choose, and remove physically what it chose.

        Returns:
            What was removed, counting the units of the model before this call.

        Raises:
            PrunerError: the pruner has finished.
        """
        self._refuse_finished()
        plan = self._cut(self.method.select(self.anatomy))
        self._cut_at_step = self.steps
        return plan

    def finish(self) -> ShrinkPlan:
        """End of training: last cut, small weights to zero, what is dead removed, hooks gone.

        The method chooses once more only if steps were taken since the last `prune()`.

        Returns:
            Everything removed since `attach`, counting the units of the model at that time.

        Raises:
            PrunerError: the pruner has finished.
        """
        self._refuse_finished()
        self._warn_if_short()
        self._cut(self.method.last_cut(self.anatomy, self._cut_at_step == self.steps))
        self._cut_at_step = self.steps
        held = trained_by(self.optimizer)
        # Who is trained is enough to know here; optimizers with lr=None have no rate to tell.
        self.method.zero_small_(self.anatomy, lambda p: 0.0 if p in held else None)
        if self.method.removes_dead_units:
            self._cut(dead_units(self.anatomy))
            self._cut(dead_inputs(self.anatomy))
        self.reached = self.method.reached(self.anatomy)
        self.detach()
        if self.snapshots is not None:
            self.snapshots.last(self.model, self.steps)
        return self.removed

    def detach(self) -> None:
        """Take the hooks away and cut nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._rates.restore_()
        self.method.teardown()
        if self._distillation is not None:
            self._distillation.detach()
            self._distillation = None
        _ATTACHED.discard(self.optimizer)
        _PRUNED.discard(self.model)

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state: steps, method and its state, and what was cut."""
        config = self.method.config
        return {
            "state_version": STATE_VERSION,
            "steps": self.steps,
            "cut_at_step": self._cut_at_step,
            "method": type(config).__name__,
            "config": config.to_dict(),
            "total_steps": self.method.total_steps,
            "method_state": self.method.state_dict(),
            "removed": self.removed.to_dict(),
            "snapshots": [] if self.snapshots is None else self.snapshots.taken,
            "lineage": self.anatomy.lineage.to_dict(),
            "distillation": {} if self._distillation is None else self._distillation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken, on a model that was cut the same way.

        Args:
            state: what `state_dict` returned.

        Raises:
            PrunerError: the state is of another method, setting, length of training or version, the
                model is not the one it was saved with, or a "dense" teacher was not given as a
                model.
        """
        if not isinstance(state, Mapping):
            raise PrunerError(f"expected what state_dict() returned, got {type(state).__name__}.")
        mine = self.state_dict()
        keys = ["state_version", "method", "config"]
        if self.method.settled_at is not None:  # a schedule counts steps
            keys.append("total_steps")
        for key in keys:
            if found := differences({key: state.get(key)}, {key: mine[key]}):
                raise PrunerError(
                    f"the saved pruner state is of another run: {found}. Resume with the method, "
                    "settings and length of training it was saved with."
                )
        if state.get("lineage") != mine["lineage"]:
            raise PrunerError(
                "the model does not have the shape the pruner state was saved with. Load it with "
                "neuroprune.from_pretrained(checkpoint) and make the optimizer from that model."
            )
        if self._distillation is not None and self._distillation.is_start and state["steps"]:
            raise PrunerError(
                "the dense teacher is not in the checkpoint, and the model as it is now is not "
                "dense. Pass the model that training started from: attach(..., teacher=model), or "
                "NeuroPruneCallback(..., teacher=model)."
            )
        self.steps = int(state["steps"])
        self._cut_at_step = int(state["cut_at_step"])
        self.removed = ShrinkPlan.from_dict(state["removed"])
        self.method.load_state_dict(state["method_state"])
        if self._distillation is not None and state["steps"]:
            self._distillation.load_state_dict(state.get("distillation", {}))
        if self.snapshots is not None:
            self.snapshots.resume(state.get("snapshots", []), self.method.snapshot_held)

    def _cut(self, plan: ShrinkPlan) -> ShrinkPlan:
        if plan:
            self.method.before_shrink_(plan, self.anatomy)
            shrink_(self.model, plan, self.optimizer)
            self.anatomy = anatomy_of(self.model)
            self._recorded = self._lineage_of()
            self.removed = self.removed.then(plan)
            self.method.after_shrink_(plan, self.anatomy)
            if self._distillation is not None:
                self._distillation.after_shrink_(plan)
        return plan

    def _lineage_of(self) -> Any:
        config: Any = self.model.config
        return config.neuroprune

    def _refuse_finished(self) -> None:
        if not self._hooks:
            raise PrunerError("this pruner has finished; attach a new one to prune further.")

    def _warn_if_short(self) -> None:
        settled = self.method.settled_at
        if not self.steps:
            warnings.warn(
                "training ends, and the optimizer that was given to attach() has not made a step. "
                "Was another one made since, and is it training the model?",
                stacklevel=3,
            )
        elif settled is not None and self.steps < settled:
            warnings.warn(
                f"training ends after {self.steps} optimizer steps, and the method was to remove "
                f"until step {settled} of {self.method.total_steps}: the rest goes at once, no "
                "step is left to recover, and snapshots on the way are not taken. total_steps "
                "counts optimizer steps: with gradient accumulation they are fewer than batches.",
                stacklevel=3,
            )

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:
            raise PrunerError(
                "optimizer.step(closure) recomputes the gradients, which would drop the penalty. "
                "Call loss.backward() and then optimizer.step()."
            )
        if is_skipped(optimizer):
            return
        self._check_ready(optimizer)
        if self._distillation is not None and not self._distillation.answered:
            raise PrunerError(
                "the teacher had no say in this step: no forward pass in training mode returned a "
                "loss. Call model.train(), give the model labels, train on the loss it returns. "
                "(The Trainer keeps labels back for label_smoothing_factor, compute_loss_func.)"
            )
        self.method.observe_(self.anatomy)
        scale = getattr(optimizer, "grad_scale", None)
        self.method.add_penalty_grad_(self.anatomy, 1.0 if scale is None else float(scale))
        self._rates.scale_(self.method.rate_scale(self.anatomy))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._rates.restore_()
        if is_skipped(optimizer):
            if self._distillation is not None:
                self._distillation.skip_()
            return
        self.method.prox_(self.anatomy, self._step_size_of())
        if self._distillation is not None:
            self._distillation.step_(optimizer)
        self.steps += 1
        if not self._sliceable:  # known at the first step, not hours later at the first cut
            check_state_is_sliceable(optimizer, self.anatomy, self.method.settled_at is not None)
            self._sliceable = True
        self._cut(self.method.cut_now(self.anatomy))
        if self.snapshots is not None:
            held, due = self.method.snapshot_held, self.method.snapshot_due
            self.snapshots.follow(self.model, self.steps, held, due)

    def _step_size_of(self) -> StepSizeOf:
        """Parameter -> its learning rate now; read off the optimizer where a method asks."""
        sizes = cache(lambda: step_sizes(self.optimizer))
        return lambda parameter: sizes().get(parameter)

    def _check_ready(self, optimizer: Optimizer) -> None:
        held, self._held = self._held, count_trained(self.optimizer, self.anatomy)
        if self._held < held:  # it may be more: layers may be unfrozen on the way
            raise PrunerError(
                "the model was cut without its optimizer, which now trains parameters that are "
                "gone. Pass the optimizer: shrink_(model, plan, optimizer)."
            )
        if self._lineage_of() is not self._recorded and self._lineage_of() != self._recorded:
            raise PrunerError(
                "the model was cut by hand while a pruner is attached. Let the method cut, or call "
                "detach(), cut, and attach() again."
            )
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
        filled = [g for g in gradients if g is not None and g.numel()]
        if filled and not is_finite(filled):
            raise NonFiniteError(
                f"a gradient is NaN or infinite at step {self.steps + 1}; the step was not taken "
                "and the weights are those of the last good step. Lower the learning rate, clip "
                "gradients, or check the data for empty targets."
            )
