"""Movement pruning: masks that follow scores, over weights that are trained behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import Config, ConfigError, Movement, Structure
from neuroprune.core.movement import movement, movement_per_unit
from neuroprune.core.selection import lowest_mask
from neuroprune.core.units import scale_units_
from neuroprune.methods.connectivity import check_trained
from neuroprune.methods.method import Method, StepSizeOf, trained
from neuroprune.methods.ranked import RankedUnits
from neuroprune.methods.ranked_weights import RankedWeights
from neuroprune.methods.units import Block, kept_units, unit_number
from neuroprune.plan import ShrinkPlan


class Shadow:
    """The weights w behind those that the forward pass uses, w' = w * mask.

    Between two optimizer steps the parameters hold w'; the optimizer is given w.
    """

    def __init__(self) -> None:
        self._own: dict[Tensor, Tensor] = {}
        self._behind = False  # whether the parameters hold w', so that w is here alone

    def of(self, parameter: Tensor) -> Tensor:
        """w of a parameter.

        Args:
            parameter: the parameter.
        """
        behind = self._behind and parameter in self._own
        return self._own[parameter] if behind else parameter.detach()

    @torch.no_grad()
    def save(self, parameters: Iterable[Tensor]) -> None:
        """Remember w, which is about to be masked.

        Args:
            parameters: hold w.
        """
        for parameter in parameters:
            if parameter in self._own:
                self._own[parameter].copy_(parameter)
            else:
                self._own[parameter] = parameter.detach().clone()
            self._behind = True

    @torch.no_grad()
    def restore_(self) -> None:
        """Write w into the parameters, if it is behind them; the copies' memory is kept."""
        for parameter, own in self._own.items() if self._behind else ():
            parameter.copy_(own)
        self._behind = False

    def release_(self) -> None:
        """Write w into the parameters, if it is behind them, and let go of the copies."""
        self.restore_()
        self._own = {}


class MovementUnits(RankedUnits[Movement]):
    """Whole heads and neurons are masked by their movement, and removed when the ramp ends.

        S_u <- S_u - sum over the unit's weights of w * dL/dw',    w' = w * mask_u

    The mask moves along the cubic schedule, at every interval at which its rivals cut. A masked
    unit's weights get no gradient, but it goes on to be scored, and may come back.

    Args:
        config: with a target of size or speed.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Lagunas et al. (2021), arXiv 2109.04838; Sanh et al. (2020), arXiv 2005.07683.
    """

    config_type: ClassVar = Movement
    cuts_while_training: ClassVar = False

    def __init__(self, config: Movement, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.movement: dict[str, Tensor] = {}
        self.masked: dict[str, Tensor] = {}  # block -> units out of the forward pass
        self._shadow = Shadow()
        self._optimizer: Optimizer | None = None

    @classmethod
    def variant(cls, config: Config) -> type[Method]:
        """This one, or the one of single weights."""
        weights = isinstance(config, Movement) and config.structure is Structure.WEIGHTS
        return MovementWeights if weights else cls

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Measure the target; refuse blocks without gradients."""
        missing = check_trained(anatomy, optimizer)
        if missing:
            raise ConfigError(
                "movement is read off gradients, and the optimizer does not train the output "
                f"layers of {', '.join(missing)}. Train them, or use a method that needs no "
                "gradients, such as ProximalGroup(strength=0)."
            )
        super().setup(anatomy, optimizer)
        self._optimizer = optimizer

    def scores(self, anatomy: Anatomy) -> Mapping[str, Tensor]:
        """Movement of every unit so far."""
        return {b.name: self._of(b) for b in anatomy.blocks()}

    def _of(self, block: Block) -> Tensor:
        weight = block.matrices()[0]
        if block.name not in self.movement:
            self.movement[block.name] = torch.zeros(unit_number(block), device=weight.device)
        self.movement[block.name] = self.movement[block.name].to(weight.device)
        return self.movement[block.name]

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy) -> None:
        """Score; keep the gradient from what is masked; give the optimizer the trained weights."""
        super().observe_(anatomy)
        if self.step >= self.ramp.last:
            return
        scale = loss_scale(self._optimizer)
        for block in anatomy.blocks():
            *fan_in, out = block.matrices()
            rows = [(self._shadow.of(w), w.grad) for w in fan_in if w.grad is not None]
            columns = [(self._shadow.of(w), w.grad) for w in [out] if w.grad is not None]
            if rows or columns:
                found = movement_per_unit(rows, columns, unit_number(block))
                self.movement[block.name] = self._of(block) + found / scale
            if block.name in self.masked:
                keep = ~self.masked[block.name]
                scale_units_([g for _, g in rows], [g for _, g in columns], keep)
        self._shadow.restore_()

    def push_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Mask what is lowest, over the weights as the optimizer left them."""
        if self.step >= self.ramp.last:
            return  # at the ramp's last step, the cut that follows takes the mask's place
        on_the_way = self.ramp.first < self.step
        if on_the_way and (self.step - self.ramp.first) % self.ramp.interval == 0:
            chosen = self.chosen(anatomy, self.progress())
            self.masked = {
                b.name: chosen[b.name].to(self._of(b).device)
                for b in anatomy.blocks()
                if bool(chosen[b.name].any())
            }
        if self.masked:
            self._shadow.save(anatomy.matrices())
        for block in anatomy.blocks():
            if block.name in self.masked:
                *rows, column = (w.data for w in block.matrices())
                scale_units_(rows, [column], ~self.masked[block.name])

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """What is masked goes for good at the end of the ramp."""
        if self.step == self.ramp.last:
            self._unmask_()
        return super().cut_now(anatomy)

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """Meet the target, wherever the schedule stands; what stays gets its weights back."""
        self._unmask_()
        return super().last_cut(anatomy, just_cut)

    def _unmask_(self) -> None:
        self._shadow.release_()
        self.masked = {}

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Forget the scores of those that have gone."""
        for block in anatomy.blocks():
            kept = kept_units(block, plan)
            if kept is not None and block.name in self.movement:
                values = self.movement[block.name]
                self.movement[block.name] = values[kept.to(values.device)]

    def teardown(self) -> None:
        """The weights come back from behind a mask that no cut has made final."""
        self._unmask_()

    def state_dict(self) -> dict[str, Any]:
        """Step, goals and the units' scores."""
        scores = {name: s.tolist() for name, s in self.movement.items()}
        return {**super().state_dict(), "movement": scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            ConfigError: units were masked then, and the weights behind the mask are not saved.
        """
        check_resumable(int(state["step"]), self.ramp.first + 1, self.ramp.last)
        super().load_state_dict(state)
        self.movement = {name: torch.tensor(s) for name, s in state["movement"].items()}


class MovementWeights(RankedWeights[Movement]):
    """Single weights are masked by their movement, until a target of `Weights` is met.

        S <- S - w * dL/dw',    w' = w * mask

    Until the mask is final, what it takes may come back, and so may weights that were zero before.

    Args:
        config: with a target of `Weights`.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Sanh et al. (2020), arXiv 2005.07683.
    """

    config_type: ClassVar = Movement

    def __init__(self, config: Movement, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        self.movement: dict[Tensor, Tensor] = {}
        self.masked: dict[Tensor, Tensor] = {}  # parameter -> weights out of the forward pass
        self._shadow = Shadow()
        self._optimizer: Optimizer | None = None
        self._settled = False  # whether the mask is final

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Refuse what cannot be reached."""
        super().setup(anatomy, optimizer)
        self._optimizer = optimizer

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy) -> None:
        """Score; keep the gradient from what is masked; give the optimizer the trained weights."""
        if self._settled:
            return
        scale = loss_scale(self._optimizer)
        for w in anatomy.matrices():
            if w.grad is None:
                continue
            found = movement(self._shadow.of(w), w.grad)
            self._of(w).add_(found, alpha=1.0 / scale)
            if w in self.masked:
                w.grad.masked_fill_(self.masked[w], 0.0)
        self._shadow.restore_()

    def _of(self, parameter: Tensor) -> Tensor:
        if parameter not in self.movement:
            self.movement[parameter] = torch.zeros_like(parameter, dtype=torch.float32)
        return self.movement[parameter]

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Mask what is lowest; after the ramp, hold it at zero."""
        if self._settled:
            super().prox_(anatomy, step_size_of)
            return
        self.step += 1
        if self.step >= self.ramp.last:
            self.mask_(anatomy, step_size_of, self.gone(anatomy))
            self._settle(anatomy)
            return
        if self.ramp.is_due(self.step):
            self._choose(anatomy, step_size_of, self.gone(anatomy))
        self._shadow.save(self.masked)
        for w, gone in self.masked.items():
            w.masked_fill_(gone, 0.0)

    def _choose(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        matrices = [w for w in trained(tuple(anatomy.matrices()), step_size_of) if w.numel()]
        count = gone - (anatomy.dense_weights - anatomy.kept_weights)
        masks = lowest_mask([self._of(w) for w in matrices], count)
        self.masked = dict(zip(matrices, masks, strict=True))

    def mask_(self, anatomy: Anatomy, step_size_of: StepSizeOf, gone: int) -> None:
        """Those of the lowest movement become zero for good."""
        if not self._settled:
            self._shadow.release_()
            self._choose(anatomy, step_size_of, gone)
            for w, mask in self.masked.items():
                w.masked_fill_(mask, 0.0)

    def _settle(self, anatomy: Anatomy) -> None:
        self._settled = True
        self.masked, self.movement = {}, {}
        self._mask.remember(anatomy)

    def zero_small_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """When training ends: meet the target, wherever the schedule stands."""
        super().zero_small_(anatomy, step_size_of)
        self._settle(anatomy)

    def teardown(self) -> None:
        """The weights come back from behind a mask that is not final."""
        self._shadow.release_()
        self.masked = {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            ConfigError: it is in the ramp or before it, of which the scores are not saved.
        """
        check_resumable(int(state["step"]), 1, self.ramp.last)
        super().load_state_dict(state)
        self._settled = self.step >= self.ramp.last


def loss_scale(optimizer: Optimizer | None) -> float:
    """The scale that gradients carry at this point: that of a GradScaler, with a fused optimizer.

    Args:
        optimizer: the torch optimizer.
    """
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def check_resumable(step: int, first: int, end: int) -> None:
    """Refuse to go on in the middle of a ramp.

    Args:
        step: where the state was saved.
        first: first step whose state is not all in a checkpoint.
        end: the step at which the mask becomes final.

    Raises:
        ConfigError: with the steps at which a run can be resumed.
    """
    if first <= step < end:
        before = f", or of step {first - 1} or before" if first > 1 else ""
        raise ConfigError(
            f"the state is of step {step}, and Movement cannot go on from steps {first} to "
            f"{end - 1}: the checkpoint holds the masked weights, but neither those behind the "
            f"mask nor all of their scores. Resume from a checkpoint of step {end} or after"
            f"{before}; or start the training anew."
        )
