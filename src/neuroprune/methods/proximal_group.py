"""Proximal group lasso on heads and neurons: the plain structured baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import Config, ConfigError, ProximalGroup
from neuroprune.core.group_lasso import group_lasso, group_lasso_prox_, norm_per_unit
from neuroprune.core.units import unit_size
from neuroprune.methods.dead_units import dead_units
from neuroprune.methods.method import (
    Method,
    StepSizeOf,
    common_step_size,
    step_sizes,
    trained,
    warn_of_rounding,
)
from neuroprune.methods.ranked import RankedUnits
from neuroprune.methods.units import Block, unit_number
from neuroprune.plan import ShrinkPlan


class GroupPush(Method[ProximalGroup]):
    """strength * sum over units of sqrt(n_u) * |w_u|_2, as a proximal step after the optimizer's.

    A unit's group is all its trained weights: rows of q, k, v and columns of o, or rows of up and
    gate and a column of down. Heads that share keys and values are one unit.

    Args:
        config: strength.
        total_steps: optimizer steps of the whole training, where there is a target.
    """

    config_type: ClassVar = ProximalGroup

    @property
    def acting(self) -> bool:
        """Whether units are pushed at this step."""
        return True

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """See that the matrices of every block have one learning rate.

        Raises:
            ConfigError: they have not.
        """
        super().setup(anatomy, optimizer)
        rates = step_sizes(optimizer)
        for block in anatomy.blocks():
            _step_size(block, rates.get)
        warn_of_rounding(anatomy, optimizer, self.config.strength)

    def penalty(self, anatomy: Anatomy) -> Tensor:
        """The group lasso of all weights, while it acts."""
        strength = self.config.strength if self.acting else 0.0
        parts = [
            group_lasso(rows, [column], unit_number(block))
            for block in anatomy.blocks()
            for *rows, column in [block.matrices()]
        ]
        return strength * torch.stack(parts).sum()

    @torch.no_grad()
    def push_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Block soft thresholding by learning rate * strength."""
        for block in anatomy.blocks() if self.acting else ():
            t = _step_size(block, step_size_of) * self.config.strength
            if t:
                rows, columns = _group(block, step_size_of)
                group_lasso_prox_(rows, columns, unit_number(block), t)


class ProximalGroupMethod(GroupPush):
    """The group lasso without a target: the strength decides who dies.

    Args:
        config: strength.
        total_steps: not needed.

    Reference: Yuan and Lin (2006); Parikh and Boyd (2014), section 6.5.
    """

    @classmethod
    def variant(cls, config: Config) -> type[Method]:
        """This one, or the one that meets a target."""
        with_target = isinstance(config, ProximalGroup) and config.target is not None
        return ProximalGroupUnits if with_target else cls

    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """One proximal step."""
        self.push_(anatomy, step_size_of)

    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """Units that do nothing any more."""
        return super().select(anatomy, budget).then(dead_units(anatomy))


class ProximalGroupUnits(GroupPush, RankedUnits[ProximalGroup]):
    """The group lasso until the ramp ends; the units of the least rms weight go to meet a target.

    Args:
        config: strength and a target.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    scores_are_means = True

    @property
    def acting(self) -> bool:
        """Until the last cut; the rest is recovery."""
        return self.step < self.ramp.last

    def scores(self, anatomy: Anatomy) -> Mapping[str, Tensor]:
        """|w_u|_2 / sqrt(n_u) over all weights of a unit, in and out."""
        found = {}
        for block in anatomy.blocks():
            *rows, column = block.matrices()
            units = unit_number(block)
            root = max(unit_size(rows, [column], units), 1) ** 0.5
            found[block.name] = norm_per_unit(rows, [column], units).detach() / root
        return found


def _group(block: Block, step_size_of: StepSizeOf) -> tuple[list[Tensor], list[Tensor]]:
    """The trained matrices whose rows, and whose columns, belong to the block's units."""
    *rows, column = block.matrices()
    own = trained((*rows, column), step_size_of)
    return [w.data for w in own if w is not column], [w.data for w in own if w is column]


def _step_size(block: Block, step_size_of: StepSizeOf) -> float:
    """The one learning rate of a block; 0 where nothing of it is trained."""
    matrices = trained(block.matrices(), step_size_of)
    try:
        return common_step_size(matrices, step_size_of) if matrices else 0.0
    except ConfigError as error:
        rates = sorted({str(step_size_of(w)) for w in matrices})
        raise ConfigError(
            f"the matrices of {block.name!r} have the learning rates {', '.join(rates)}; a unit's "
            "weights are one group of ProximalGroup, and its step needs one learning rate. Put "
            "them in param groups of one learning rate."
        ) from error
