"""Budgeted removal by a ranking: what the structured rivals share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.control.schedule import Ramp, cut_interval
from neuroprune.methods.goals import Goal, achieved
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.methods.poorest import goals_of, poorest_units, read_goals, waits
from neuroprune.methods.units import plan_of, unit_weights
from neuroprune.plan import ShrinkPlan
from neuroprune.targeted import Budgeted

BudgetedT = TypeVar("BudgetedT", bound=Budgeted)


class RankedUnits(Method[BudgetedT]):
    """The lowest-scored heads and neurons go, until a target is met.

    All units compete in one ranking of score per unit of cost, so a score is a sum over the unit,
    or `scores_are_means` says that it is a mean over its weights. They are removed physically while
    training, along the cubic schedule between `begin` and `end`, and the last cut meets the target
    as exactly as the units allow; so rivals are shrunk and timed as target mode is. A subclass
    supplies `scores`, and may push weights in `push_`.

    Args:
        config: with target, begin and end.
        total_steps: optimizer steps of the whole training; needed where there is a target.

    Raises:
        ConfigError: total_steps is missing.
    """

    scores_are_means: ClassVar = False  # over a unit's weights; the ranking needs sums
    cuts_while_training: ClassVar = True  # False: one cut, at the end of the ramp
    removes_dead_units: ClassVar = False

    def __init__(self, config: BudgetedT, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = f"{type(config).__name__} meets its target along a schedule and"
        self.ramp: Ramp = Ramp(config.begin, config.end, schedule_length(total_steps, why))
        self.step = 0
        self.goals: tuple[Goal, ...] = ()

    @property
    def eps(self) -> float:
        """Nothing is set to zero when training ends."""
        return 0.0

    @abstractmethod
    def scores(self, anatomy: Anatomy) -> Mapping[str, Tensor]:
        """Score of every unit, shape (units,) a block; the lowest go first.

        Args:
            anatomy: the model's blocks.
        """

    def push_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """What happens to the weights after every optimizer step.

        Args:
            anatomy: the model's blocks.
            step_size_of: parameter -> its learning rate, None where it is not trained.
        """

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Measure the target on the model; refuse what cannot be reached."""
        if not waits(self.config.target, anatomy):
            self._measure(anatomy)

    def _measure(self, anatomy: Anatomy) -> None:
        """Measure the target once."""
        if not self.goals:
            self._use(goals_of(self.config.target, anatomy))

    def _use(self, goals: tuple[Goal, ...]) -> None:
        self.goals = goals
        share = max((g.start - g.kept) / max(g.start, 1e-12) for g in goals)
        self.ramp = self.ramp.every(cut_interval(share, self.ramp.length))

    def observe_(self, anatomy: Anatomy) -> None:
        """Before the first step, measure what was not measured when the method was set up."""
        self._measure(anatomy)

    def progress(self) -> float:
        """How far on the way to the target the schedule is, in [0, 1]."""
        return self.ramp.progress(self.step)

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Count the step, and push."""
        self.step += 1
        self.push_(anatomy, step_size_of)

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """What goes at this step: something at every interval of the ramp, and at its end."""
        wanted = self.cuts_while_training or self.step == self.ramp.last
        return self.select(anatomy) if wanted and self.ramp.is_due(self.step) else ShrinkPlan()

    @torch.no_grad()
    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """The lowest-scored units, so that the schedule is met.

        Args:
            anatomy: the model's blocks.
            budget: share of the way to the target, in place of what the schedule says.
        """
        self._measure(anatomy)
        progress = self.progress() if budget is None else budget
        if progress < 1.0 and not self.cuts_while_training:
            return ShrinkPlan()
        return plan_of(anatomy, self.chosen(anatomy, progress))

    def chosen(self, anatomy: Anatomy, progress: float) -> dict[str, Tensor]:
        """Masks of the units without which every goal is met so far.

        Args:
            anatomy: the model's blocks.
            progress: share of the way to the target.
        """
        scores = {name: s.double().cpu() for name, s in self.scores(anatomy).items()}
        if self.scores_are_means:  # else the dear units, heads, would all be poor per unit of cost
            scores = {b.name: scores[b.name] * unit_weights(b) for b in anatomy.blocks()}
        return poorest_units(self.goals, progress, scores, anatomy)

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """Meet the target, wherever the schedule stands."""
        return self.select(anatomy, 1.0)

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """Every target's text -> where the model stands, in the target's own unit."""
        return {str(g.target): achieved(g.target, g, anatomy) for g in self.goals}

    def state_dict(self) -> dict[str, Any]:
        """Step and goals."""
        return {"step": self.step, "goals": [goal.to_dict() for goal in self.goals]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state["step"])
        if state["goals"]:
            self._use(read_goals(self.config.target, state["goals"]))
