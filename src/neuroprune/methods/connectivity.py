"""How rich every unit is, followed while training: the connectivity that target mode ranks by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Connectivity
from neuroprune.core.importance import (
    activity_per_unit,
    first_order_per_unit,
    square_per_unit,
)
from neuroprune.methods.method import trained_by
from neuroprune.methods.training_passes import TrainingPasses
from neuroprune.methods.units import (
    Block,
    fan_out,
    kept_units,
    unit_number,
    unit_width,
)
from neuroprune.plan import ShrinkPlan


class UnitConnectivity:
    """Running connectivity of every head and neuron.

        c_u <- c_u + (x_u - c_u) / min(n, horizon),    n = optimizer steps

    x_u of a step is over all of its batches, where gradients are accumulated.

    With "fisher", x_u is the squared first-order change of the loss without the unit, divided by
    its mean over all units: only ratios matter to a ranking, and a mean of ratios does not depend
    on the scale of the loss, on gradient clipping or on a gradient scaler.

    Args:
        kind: what is measured.
        horizon: steps that the running mean remembers.
    """

    def __init__(self, kind: Connectivity, horizon: int) -> None:
        self.kind = kind
        self.horizon = horizon
        self.seen = 0
        self.fisher: dict[str, Tensor] = {}
        self.activity: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._passes = TrainingPasses()
        self._of_step: dict[str, tuple[Tensor, int]] = {}  # sum over passes of mean squares

    @property
    def needs_gradients(self) -> bool:
        """Whether the outgoing weights must be trained."""
        return self.kind in (Connectivity.FISHER, Connectivity.MIXED)

    @property
    def needs_activity(self) -> bool:
        """Whether the model must be in training mode, so that its passes can be told."""
        return self.kind in (Connectivity.ACTIVITY, Connectivity.MIXED)

    def attach(self, anatomy: Anatomy) -> None:
        """Begin to watch the activations, where they are needed.

        Args:
            anatomy: the model's blocks.
        """
        if self.needs_activity:
            self._passes.of(anatomy.model)
            for block in anatomy.blocks():
                hook = partial(self._watch, block.name)
                self._hooks.append(fan_out(block).register_forward_pre_hook(hook))

    def detach(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _watch(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._passes.counts(layer) or not args or not isinstance(args[0], Tensor):
            return
        x = args[0].detach()
        if layer.in_features == 0:
            return
        with torch.no_grad():
            mean = x.reshape(-1, x.shape[-1]).float().square().mean(dim=0)
            total, passes = self._of_step.get(name, (torch.zeros_like(mean), 0))
            self._of_step[name] = (total.to(mean) + mean, passes + 1)

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy) -> None:
        """Take in the gradients and activations of one step.

        Args:
            anatomy: the model's blocks.

        Raises:
            ConfigError: activations are needed, and no pass in training mode showed any.
        """
        if self.needs_activity and any(unit_number(b) for b in anatomy.blocks()):
            self._passes.check_(f'connectivity="{self.kind}"')
        self.seen += 1
        rate = 1.0 / min(self.seen, self.horizon)
        for name, (total, passes) in self._of_step.items():
            old, mean = self.activity.get(name), total / passes
            self.activity[name] = mean if old is None else old.to(mean).lerp_(mean, rate)
        self._of_step = {}
        if not self.needs_gradients:
            return
        found = {}
        for block in anatomy.blocks():
            weight = fan_out(block).weight
            if weight.grad is not None and weight.numel():
                found[block.name] = first_order_per_unit(weight, weight.grad, unit_width(block))
        if not found:
            return
        total = torch.stack([x.sum().float() for x in found.values()]).sum()
        factor = to_mean_one(total, sum(len(x) for x in found.values()))
        for name, x in found.items():
            old = self.fisher.get(name)
            new = x * factor
            self.fisher[name] = new if old is None else old.to(new).lerp_(new, rate)

    @torch.no_grad()
    def of(self, block: Block) -> Tensor:
        """Connectivity of every unit of a block, shape (units,).

        Args:
            block: the block.
        """
        weight = fan_out(block).weight
        if self.kind is Connectivity.STRENGTH:
            *fan_in, out = block.matrices()
            return _strength(block, fan_in, out)
        zeros = torch.zeros(unit_number(block), device=weight.device)
        fisher = self.fisher.get(block.name, zeros).to(weight.device)
        if self.kind is Connectivity.FISHER:
            return fisher
        activity = zeros
        if block.name in self.activity and weight.numel():
            seen = self.activity[block.name].to(weight.device)
            activity = activity_per_unit(weight, seen, unit_width(block))
        return activity if self.kind is Connectivity.ACTIVITY else (fisher * activity).sqrt()

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Drop what was removed.

        Args:
            plan: the cut.
            anatomy: the blocks that are left.
        """
        self._of_step = {}
        for block in anatomy.blocks():
            kept = kept_units(block, plan)
            if kept is None:
                continue
            if block.name in self.fisher:
                values = self.fisher[block.name]
                self.fisher[block.name] = values[kept.to(values.device)]
            if block.name in self.activity:
                values = self.activity[block.name].reshape(-1, unit_width(block))
                self.activity[block.name] = values[kept.to(values.device)].reshape(-1)

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "seen": self.seen,
            "fisher": {name: x.tolist() for name, x in self.fisher.items()},
            "activity": {name: x.tolist() for name, x in self.activity.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote; it moves to the model's device when it is used.

        Args:
            state: the state.
        """
        self.seen = int(state["seen"])
        for name in ("fisher", "activity"):
            values = {b: torch.tensor(x) for b, x in state[name].items()}
            setattr(self, name, values)


def _strength(block: Block, fan_in: list[Tensor], out: Tensor) -> Tensor:
    # A sum: the ranking divides by what a unit costs, and a mean would make every head poor.
    return square_per_unit(fan_in, [out], unit_number(block))


def check_trained(anatomy: Anatomy, optimizer: Optimizer) -> list[str]:
    """Blocks whose outgoing weights the optimizer does not train.

    Args:
        anatomy: the model's blocks.
        optimizer: the optimizer.
    """
    held = trained_by(optimizer)
    return [b.name for b in anatomy.blocks() if fan_out(b).weight not in held]


def horizon_of(steps: int) -> int:
    """Steps that a running connectivity remembers: a twentieth of the training, 16 at least.

    Args:
        steps: optimizer steps of the whole training.
    """
    return max(16, round(0.05 * steps))


def check_seen(kind: Connectivity | str, seen: int) -> None:
    """Refuse to choose by what was never measured.

    Args:
        kind: what is measured.
        seen: steps in which it was.

    Raises:
        ConfigError: none was, and it is needed.
    """
    if not seen and kind != Connectivity.STRENGTH:
        raise ConfigError(
            f'connectivity="{kind}" is measured while training, and no optimizer step was '
            "taken. Call finish() after training, detach() to leave the model as it is, or use "
            'connectivity="strength".'
        )


def to_mean_one(total: Tensor, number: int) -> Tensor:
    """What so many scores of this sum are multiplied by, so that their mean is 1.

    A batch of which the loss says nothing (a sum of 0) counts as 0 for all, which changes no ratio.

    Args:
        total: their sum, >= 0, float32, shape ().
        number: how many.
    """
    largest = torch.finfo(torch.float32).max
    return torch.where(total > 0, (number / total).clamp_max(largest), 0.0)
