"""The rich-get-richer pressure: those about to go are pushed, the poorer the harder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy
from neuroprune.methods.units import Block, fan_out, unit_width

_HARDEST = 4.0  # bound of how much harder the poorest is pushed than one at the waterline


@dataclass
class _Condemned:
    units: Tensor  # indices, int64
    push: Tensor  # waterline / connectivity, in [1, _HARDEST]

    def to_(self, device: torch.device) -> None:
        """A state that was loaded follows the model to its device."""
        self.units, self.push = self.units.to(device), self.push.to(device)


class Pressure:
    """Decoupled group soft-thresholding of the condemned units' outgoing weights.

        w_u <- w_u * max(0, 1 - lambda_u / |w_u|),    lambda_u = |w_u| * p_u / n,
        p_u = waterline / c_u

    c_u is the unit's connectivity, the waterline that of the richest condemned unit, n the steps
    until the cut, this one included. The loop is closed by |w_u|, which is measured at every step:
    whatever the optimizer has given back, the richest condemned unit fades evenly, and at the cut
    (n = 1) all of them are at zero.
    """

    def __init__(self) -> None:
        self.groups: dict[str, _Condemned] = {}
        self.steps_left = 0

    @property
    def condemned(self) -> dict[str, Tensor]:
        """Block name -> indices of the units that are pushed, on the CPU."""
        return {name: group.units.cpu() for name, group in self.groups.items()}

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
        self.steps_left = steps
        for block in anatomy.blocks():
            units = gone[block.name].nonzero().squeeze(1)
            if len(units):
                units = units.to(fan_out(block).weight.device)
                c = scores[block.name].to(units.device)[units]
                push = (c.max() / c.clamp_min(1e-30)).clamp(1.0, _HARDEST)
                self.groups[block.name] = _Condemned(units, push)

    @torch.no_grad()
    def push_(self, anatomy: Anatomy) -> None:
        """One proximal step.

        Args:
            anatomy: the model's blocks.
        """
        if not self.groups:
            return
        for block in anatomy.blocks():
            group = self.groups.get(block.name)
            if group is not None:
                group.to_(fan_out(block).weight.device)
                keep = 1.0 - group.push / max(self.steps_left, 1)
                _scale_(block, group.units, keep.clamp_min(0.0))
        self.steps_left -= 1

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state."""
        groups = {
            name: {k: getattr(g, k).tolist() for k in ("units", "push")}
            for name, g in self.groups.items()
        }
        return {"steps_left": self.steps_left, "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote."""
        self.steps_left = int(state["steps_left"])
        self.groups = {
            name: _Condemned(torch.tensor(g["units"]), torch.tensor(g["push"]))
            for name, g in state["groups"].items()
        }


def _columns(block: Block, units: Tensor) -> Tensor:
    width = unit_width(block)
    offsets = torch.arange(width, device=units.device)
    return (units.unsqueeze(1) * width + offsets).reshape(-1)


def _scale_(block: Block, units: Tensor, factor: Tensor) -> None:
    columns = _columns(block, units)
    weight = fan_out(block).weight.data
    scale = factor.repeat_interleave(unit_width(block)).to(weight.dtype)
    weight.index_copy_(1, columns, weight[:, columns] * scale)
