"""The protocol of a pruning method, and a base class that does nothing by default."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.config import Config, ConfigError
from neuroprune.control.schedule import Ramp
from neuroprune.core.proximal import hard_threshold_
from neuroprune.plan import ShrinkPlan

StepSizeOf = Callable[[Tensor], float | None]
ConfigT = TypeVar("ConfigT", bound=Config)


class Method(Generic[ConfigT]):
    """What to prune. The pruner says when, surgery makes it smaller.

    Subclasses override what they need. None of these calls cuts anything: `select` returns a plan.

    Args:
        config: the method's frozen configuration.
        total_steps: optimizer steps of the whole training, where the method has a schedule.
    """

    config_type: ClassVar[type[Config]]
    # When training ends, beyond what was selected; input dimensions that nothing reads, too.
    removes_dead_units: ClassVar[bool] = True
    ramp: Ramp | None = None  # of a method with a schedule

    @classmethod
    def variant(cls, config: Config) -> type[Method]:
        """The class that serves a configuration of this type; for methods with several modes.

        Args:
            config: the configuration.
        """
        return cls

    def __init__(self, config: ConfigT, total_steps: int | None = None) -> None:
        self.config = config
        self.total_steps = total_steps

    @property
    def eps(self) -> float:
        """Weights below it in absolute value are set to zero when training ends."""
        return float(getattr(self.config, "eps", 0.0))

    @property
    def settled_at(self) -> int | None:
        """The optimizer step from which on nothing more goes; None without a schedule."""
        return None if self.ramp is None else self.ramp.last

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Once, before the first step. May register hooks or add parameters.

        Raises what the method cannot work with, before anything is trained.

        Args:
            anatomy: the model's blocks.
            optimizer: the torch optimizer, not a wrapper.
        """

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """The value this method adds to the task loss, with its strengths; differentiable.

        Args:
            anatomy: the model's blocks.
        """
        return torch.zeros(())

    def add_penalty_grad_(self, anatomy: Anatomy, scale: float) -> None:
        """Add scale * gradient of `penalty` to the gradients, before the optimizer step.

        Args:
            anatomy: the model's blocks.
            scale: the loss scale that the gradients carry at this point (1 without a scaler).
        """

    def observe_(self, anatomy: Anatomy) -> None:
        """Look at gradients and activations after backward, before the optimizer step.

        Args:
            anatomy: the model's blocks.
        """

    def rate_scale(self, anatomy: Anatomy) -> float:
        """What the learning rates of the optimizer step to come are multiplied by.

        Args:
            anatomy: the model's blocks.
        """
        return 1.0

    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """The decoupled step after the optimizer step.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
        """

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """What should go in the middle of an epoch: asked after every optimizer step.

        Args:
            anatomy: the model's blocks.
        """
        return ShrinkPlan()

    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """What should go now, counting the model's units as it stands.

        Args:
            anatomy: the model's blocks.
            budget: share of the way to the target, in [0, 1], in place of what the schedule says;
                for methods that go to a target in many cuts.

        Raises:
            ConfigError: a budget is given to a method that takes none.
        """
        if budget is not None:
            raise ConfigError(
                f"{type(self.config).__name__} with these settings takes no budget: it has no "
                f"target, or makes one cut. Expected none, got {budget!r}."
            )
        return ShrinkPlan()

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """What should go when training ends.

        Args:
            anatomy: the model's blocks.
            just_cut: whether `select` was asked at this very step.
        """
        return ShrinkPlan() if just_cut else self.select(anatomy)

    @property
    def snapshot_due(self) -> float | None:
        """Structural sparsity at which the model is to be saved now, if any."""
        return None

    @property
    def snapshot_held(self) -> bool:
        """Whether nothing is cut between this step and the next snapshot."""
        return False

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """What was asked for, as text, and where the model stands; for methods with a target.

        Args:
            anatomy: the model's blocks.
        """
        return {}

    def is_open(self, block: AttentionBlock | MLPBlock) -> bool:
        """Whether a block has any say in the step to come.

        Args:
            block: of the model as it stands.
        """
        return block.matrices()[-1].numel() > 0

    def teardown(self) -> None:
        """Once, when the pruner detaches: remove what `setup` registered."""

    def before_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Prepare a cut that is about to be made, such as by letting others take over.

        Args:
            plan: what will be removed.
            anatomy: the model's blocks.
        """

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Follow a cut that was made.

        Args:
            plan: what was removed.
            anatomy: the blocks that are left.
        """

    @torch.no_grad()
    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: set trained weights below eps in absolute value to zero.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> a number, None where it is not trained; training is over,
                so that the number is no rate.
        """
        if self.eps > 0.0:
            for matrix in trained(tuple(anatomy.matrices()), step_size_of):
                hard_threshold_(matrix, self.eps)

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote.

        Args:
            state: the state.
        """


def set_up_(method: Method[Any], anatomy: Anatomy, optimizer: Optimizer) -> None:
    """`setup` of a method that leaves nothing behind where it refuses.

    Args:
        method: the method.
        anatomy: the model's blocks.
        optimizer: the torch optimizer.

    Raises:
        ConfigError: what `setup` raises.
    """
    try:
        method.setup(anatomy, optimizer)
    except BaseException:
        method.teardown()  # it may watch some blocks already
        raise


def warn_of_rounding(anatomy: Anatomy, optimizer: Optimizer, *strengths: float) -> None:
    """Warn where proximal steps get lost: in half precision w - t is w where t is small.

    Args:
        anatomy: the model's blocks.
        optimizer: the torch optimizer.
        strengths: of the penalties; where all are 0 there is no step to lose.
    """
    if not any(strengths):
        return
    sizes = step_sizes(optimizer)
    kinds = {w.dtype for w in anatomy.matrices() if w in sizes and w.dtype.itemsize < 4}
    if kinds:
        warnings.warn(
            f"the weights are {', '.join(sorted(map(str, kinds)))}, in which a proximal step of "
            "learning rate times strength is smaller than what rounding takes away: it may do "
            "nothing. Keep the weights in float32 (from_pretrained(..., dtype=torch.float32)) and "
            "train under autocast (bf16=True), or let the penalty into the gradients where the "
            'method can (apply="penalty").',
            stacklevel=2,
        )


def schedule_length(total_steps: int | None, why: str) -> int:
    """The number of optimizer steps, for a method that cannot do without.

    Args:
        total_steps: what the user gave.
        why: what needs it: the beginning of the message.

    Raises:
        ConfigError: it is missing or below 1.
    """
    whole = isinstance(total_steps, Integral) and not isinstance(total_steps, bool)
    if total_steps is not None and whole and total_steps >= 1:
        return int(total_steps)
    raise ConfigError(
        f"{why} needs the length of the training: attach(..., total_steps=N) with N >= 1, got "
        f"{total_steps!r}. N is the number of optimizer steps: epochs * ceil(examples / (batch "
        "size * accumulation))."
    )


def add_grad_(parameter: Tensor, gradient: Tensor, scale: float) -> None:
    """parameter.grad += scale * gradient, where the parameter is trained.

    Args:
        parameter: the parameter.
        gradient: of its shape; may be overwritten.
        scale: the factor.
    """
    if parameter.numel() == 0:
        return
    if parameter.grad is None:
        parameter.grad = gradient.mul_(scale)
    else:
        parameter.grad.add_(gradient.to(parameter.grad.dtype), alpha=scale)


def step_sizes(optimizer: Optimizer) -> dict[Tensor, float]:
    """Learning rate of every parameter that an optimizer trains.

    Args:
        optimizer: the torch optimizer, not a wrapper.

    Raises:
        ConfigError: it has none, since the optimizer chooses its own steps.
    """
    groups = optimizer.param_groups
    if any(group.get("lr") is None for group in groups):
        raise ConfigError(
            f"{type(optimizer).__name__} chooses its own steps (lr=None), and what acts beside "
            "them needs to know them: proximal steps, masks, a teacher of layers. Give a learning "
            "rate (Adafactor: lr=1e-3, relative_step=False), or a method that adds to the "
            'gradients alone, such as apply="penalty".'
        )
    return {p: float(g["lr"]) for g in groups for p in g["params"] if p.requires_grad}


def trained_by(optimizer: Optimizer | None) -> frozenset[Tensor]:
    """Parameters that an optimizer trains; gradients of others pile up, since nothing clears them.

    Args:
        optimizer: the optimizer.
    """
    groups = [] if optimizer is None else optimizer.param_groups
    return frozenset(p for group in groups for p in group["params"] if p.requires_grad)


def common_step_size(parameters: tuple[Tensor, ...], step_size_of: StepSizeOf) -> float:
    """The one step size of a group of parameters that shrink together.

    Args:
        parameters: trained parameters of the group, at least one.
        step_size_of: parameter -> its learning rate.

    Raises:
        ConfigError: they have different learning rates.
    """
    sizes = {step_size_of(p) for p in parameters}
    if len(sizes) != 1 or None in sizes:
        raise ConfigError(
            f"q, k and v of one layer have the learning rates {sorted(map(str, sizes))}; the group "
            'step needs one. Put them in param groups of one learning rate, or use apply="penalty".'
        )
    return float(sizes.pop() or 0.0)


def trained(parameters: tuple[Tensor, ...], step_size_of: StepSizeOf) -> tuple[Any, ...]:
    """Those parameters that the optimizer trains.

    Args:
        parameters: the parameters.
        step_size_of: parameter -> its learning rate, None where it is not trained.
    """
    return tuple(p for p in parameters if step_size_of(p) is not None)
