"""Movement pruning: masks that follow scores, over weights that are trained behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import Config, ConfigError, Granularity, Movement
from neuroprune.core.movement import movement_per_unit
from neuroprune.core.units import scale_units_
from neuroprune.methods.connectivity import check_trained
from neuroprune.methods.method import Method, StepSizeOf, trained_by
from neuroprune.methods.movement_weights import MovementBlocks, MovementWeights, check_scored
from neuroprune.methods.ranked import RankedUnits
from neuroprune.methods.shadow import Shadow, check_resumable, loss_scale
from neuroprune.methods.units import Block, kept_units, unit_number
from neuroprune.plan import ShrinkPlan


class MovementUnits(RankedUnits[Movement]):
    """Whole heads and neurons are masked by their movement, and removed when the ramp ends.

        S_u <- S_u - sum over the unit's weights of w * dL/dw',    w' = w * mask_u

    The mask moves along the cubic schedule, at every interval at which its rivals cut. It acts on
    what a unit writes with, which silences the unit as a whole: were the weights that it reads with
    masked, too, what it writes would get no gradient either, and no masked unit could come back.

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
        """This one, or the one of single weights or of blocks of them."""
        if not isinstance(config, Movement):
            return cls
        kinds = {Granularity.WEIGHTS: MovementWeights, Granularity.BLOCKS: MovementBlocks}
        return kinds.get(Granularity(config.structure), cls)

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
        """Movement of every unit so far.

        Raises:
            ConfigError: no step was taken.
        """
        if any(unit_number(block) for block in anatomy.blocks()):
            check_scored(self.movement)
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
        if self.step >= max(self.ramp.last, 1):  # a cut needs one step to choose by
            return
        scale, held = loss_scale(self._optimizer), trained_by(self._optimizer)
        for block in anatomy.blocks():
            rows, columns = (
                [(self._shadow.of(w), w.grad) for w in part if w.grad is not None and w in held]
                for part in (block.matrices()[:-1], block.matrices()[-1:])
            )
            if rows or columns:
                moved = movement_per_unit(rows, columns, unit_number(block))
                self.movement[block.name] = self._of(block) + moved / scale
            if block.name in self.masked:  # what it reads with has no gradient then
                keep = ~self.masked[block.name]
                scale_units_([], [gradient for _, gradient in columns], keep)
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
        out = {b.name: b.matrices()[-1] for b in anatomy.blocks()}
        if self.masked:
            self._shadow.save(out.values())
        for name, gone in self.masked.items():
            scale_units_([], [out[name].data], ~gone)

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
