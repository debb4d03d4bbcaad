"""The rich-get-richer pressure: those about to go are pushed, the poorer the harder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.control.controller import PressureController
from neuroprune.methods.goals import Goal
from neuroprune.methods.units import Block, fan_out, heads_per_unit, unit_columns, unit_width

_HARDEST = 4.0  # bound of how much harder the poorest is pushed than one at the waterline


@dataclass
class _Condemned:
    units: Tensor  # indices, int64
    norms: Tensor  # of the outgoing weights when they were condemned
    push: Tensor  # waterline / connectivity, in [1, _HARDEST]

    def to_(self, device: torch.device) -> None:
        """A state that was loaded follows the model to its device."""
        self.units, self.norms, self.push = (
            x.to(device) for x in (self.units, self.norms, self.push)
        )


class Pressure:
    """Decoupled group soft-thresholding of the condemned units' outgoing weights.

        w_u <- w_u * max(0, 1 - lambda * p_u * |w_u(0)| / |w_u|),    p_u = waterline / c_u

    c_u is the unit's connectivity, the waterline that of the richest condemned unit of its block,
    w_u(0) its weights when it was condemned: at lambda = 1/n that unit is gone after n steps, and
    p_u is at most 4. lambda is controlled so that what is gone of the condemned grows evenly until
    the cut.
    """

    def __init__(self) -> None:
        self.controller = PressureController(base=0.0)
        self.groups: dict[str, _Condemned] = {}
        self.elapsed = 0

    def nobody(self) -> None:
        """Push nobody."""
        self.groups = {}

    @torch.no_grad()
    def condemn(
        self,
        anatomy: Anatomy,
        gone: Mapping[str, Tensor],
        scores: Mapping[str, Tensor],
        steps: int,
    ) -> None:
        """Name the units to push.

        Args:
            anatomy: the model's blocks.
            gone: block name -> mask over its units.
            scores: block name -> connectivity of its units.
            steps: optimizer steps until they are to be gone.
        """
        self.groups = {}
        self.elapsed = 0
        self.controller.base = 1.0 / max(steps, 1)
        for block in anatomy.blocks():
            units = gone[block.name].nonzero().squeeze(1)
            if len(units):
                units = units.to(fan_out(block).weight.device)
                c = scores[block.name].to(units.device)[units]
                push = (c.max() / c.clamp_min(1e-30)).clamp(1.0, _HARDEST)
                self.groups[block.name] = _Condemned(units, _norms(block, units), push)

    @torch.no_grad()
    def push_(self, anatomy: Anatomy, goal: Goal) -> None:
        """One proximal step.

        Args:
            anatomy: the model's blocks.
            goal: what units cost.
        """
        blocks = [b for b in anatomy.blocks() if b.name in self.groups]
        if not blocks:
            return
        self.elapsed += 1
        going, gone = 0.0, 0.0
        norms = {}
        for block in blocks:
            group = self.groups[block.name]
            group.to_(fan_out(block).weight.device)
            norms[block.name] = _norms(block, group.units)
            cost = goal.cost.curves[block.name].per_unit * heads_per_unit(block)
            left = float((norms[block.name] / group.norms.clamp_min(1e-30)).clamp(0, 1).sum())
            going += cost * len(group.units)
            gone += cost * (len(group.units) - left)
        if not going:
            return
        step = going * self.controller.base
        wanted = min(self.elapsed * step, going)
        pressure = self.controller.update(wanted, gone + step, step)
        for block in blocks:
            group = self.groups[block.name]
            norm = norms[block.name]
            keep = 1.0 - pressure * group.push * group.norms / norm.clamp_min(1e-30)
            _scale_(block, group.units, keep.clamp_min(0.0))

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state."""
        groups = {
            name: {k: getattr(g, k).tolist() for k in ("units", "norms", "push")}
            for name, g in self.groups.items()
        }
        return {
            "elapsed": self.elapsed,
            "base": self.controller.base,
            "integral": self.controller.integral,
            "groups": groups,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote."""
        self.controller = PressureController(state["base"], integral=state["integral"])
        self.elapsed = int(state["elapsed"])
        self.groups = {
            name: _Condemned(
                torch.tensor(g["units"]), torch.tensor(g["norms"]), torch.tensor(g["push"])
            )
            for name, g in state["groups"].items()
        }


def _norms(block: Block, units: Tensor) -> Tensor:
    part = fan_out(block).weight.detach()[:, unit_columns(block, units)].float()
    return part.square().sum(dim=0).reshape(len(units), -1).sum(dim=1).sqrt()


def _scale_(block: Block, units: Tensor, factor: Tensor) -> None:
    columns = unit_columns(block, units)
    weight = fan_out(block).weight.data
    scale = factor.repeat_interleave(unit_width(block)).to(weight.dtype)
    weight.index_copy_(1, columns, weight[:, columns] * scale)
