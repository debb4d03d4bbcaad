"""Target mode: ask for a size, and let the rich stay until it is reached.

Whole heads and neurons compete for the model's budget in one ranking of connectivity per unit of
cost. The poorest are pushed by a decoupled proximal step, the harder the poorer; those who are
rich feel nothing. They are removed physically while training goes on, along a cubic schedule, and
the last cut of the schedule meets the target. The rest of the training is recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Connectivity, NeuroPrune, Redundancy
from neuroprune.control.schedule import Ramp, Stage, cut_interval, staged_progress, stages_of
from neuroprune.methods.connectivity import (
    UnitConnectivity,
    check_seen,
    check_trained,
    horizon_of,
)
from neuroprune.methods.goals import Goal, achieved
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.methods.poorest import goals_of, poorest_units, read_goals, waits
from neuroprune.methods.pressure import Pressure
from neuroprune.methods.takeover import Repair, Takeover
from neuroprune.methods.uniform import check_uniform, uniform_units
from neuroprune.methods.units import masks_of, plan_of
from neuroprune.plan import ShrinkPlan

# Optimizer steps over which the condemned fade out before they are cut. Long fades cost quality:
# who is condemned early cannot come back (docs/design/0006-connectivity.md).
FADE = 3
# Bound of the learning rates' growth: what a twentieth of the weights gets with the default, as far
# as it was measured (docs/design/0009-larger-steps.md).
_LARGEST_GROWTH = 20**0.5


class TargetMethod(Method[NeuroPrune]):
    """Preferential attachment of whole units, until a target is met.

    Args:
        config: with a target.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.
    """

    config_type: ClassVar = NeuroPrune
    removes_dead_units: ClassVar = False

    def __init__(self, config: NeuroPrune, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        why = "a target is reached along a schedule, which"
        steps = schedule_length(total_steps, why)
        self.ramp: Ramp = Ramp(*config.span, steps)
        self.step = 0
        kind = Connectivity(config.connectivity)
        self.connectivity = UnitConnectivity(kind, horizon_of(steps))
        self.pressure = Pressure()
        self.goals: tuple[Goal, ...] = ()
        self.weights = 0  # prunable weights when training began
        self.levels = [1.0]  # shares of the way at which a stage ends; the last is the target
        self.stages: list[Stage] = []
        self.takeover: Takeover | None = None
        self.repair: Repair | None = None
        self._finishing = False  # whether the cut to come is the last

    @property
    def eps(self) -> float:
        """Nothing is set to zero when training ends."""
        return 0.0

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Measure the target on the model, refuse what cannot be reached, begin to watch."""
        missing = check_trained(anatomy, optimizer)
        if self.connectivity.needs_gradients and missing:
            raise ConfigError(
                f'connectivity="{self.connectivity.kind}" needs the gradients of the output layers '
                f"of all blocks, and the optimizer does not train those of {', '.join(missing)}. "
                "Train them (requires_grad_(True); merged adapters leave them frozen), or use "
                'connectivity="activity" or "strength".'
            )
        if not waits(self.config.target, anatomy):
            self._measure(anatomy)
        self.weights = anatomy.kept_weights
        self.connectivity.attach(anatomy)
        if self.config.redundancy is not None:
            how = Redundancy(self.config.redundancy)
            every = max(1, self.ramp.interval // 2)
            self.takeover = Takeover(how, self.config.theta, every)
            self.takeover.attach(anatomy)
        if self.config.repair:
            self.repair = Repair()
            self.repair.attach(anatomy)
            self.repair.follow(self.ramp.last)

    def _measure(self, anatomy: Anatomy) -> None:
        """Measure the target once."""
        if not self.goals:
            goals = goals_of(self.config.target, anatomy)
            if self.config.uniform:
                check_uniform(goals, anatomy)
            self._use(goals)

    def _use(self, goals: tuple[Goal, ...]) -> None:
        self.goals = goals
        way = max(goals[0].start - goals[0].kept, 1e-12)
        self.levels = [
            *((goals[0].start - self._cost_at(s)) / way for s in self._ahead()),
            1.0,
        ]
        number = len(self.levels)
        self.stages = stages_of(number, self.ramp.steps, *self.config.span)
        if number > 1 and any(s.stop - s.start < 2 for s in self.stages):
            raise ConfigError(
                f"{number - 1} snapshots need {number} stages between begin and end, of two steps "
                f"and more each; expected a longer training, got {self.ramp.first} to "
                f"{self.ramp.last} of {self.ramp.steps} steps. Ask for fewer snapshots, or set a "
                "larger end."
            )
        share = max((g.start - g.kept) / max(g.start, 1e-12) for g in goals)
        rising = sum(s.top - s.start for s in self.stages) / self.ramp.length
        ramp = (self.ramp.end - self.ramp.begin) * self.ramp.steps
        self.ramp = self.ramp.every(cut_interval(share, rising * ramp))

    def teardown(self) -> None:
        """Stop watching."""
        self.connectivity.detach()
        if self.takeover is not None:
            self.takeover.detach()
        if self.repair is not None:
            self.repair.detach()

    def observe_(self, anatomy: Anatomy) -> None:
        """Follow the connectivity until the last cut.

        Raises:
            ConfigError: before the first step, where the model is sparser than a snapshot asks, or
                a latency cannot be reached that was not measured earlier; or activations are
                needed, and no forward pass was in training mode.
        """
        self._measure(anatomy)
        if self.step == 0:
            self._check_snapshots()
        if self.step <= self.ramp.last:
            self.connectivity.observe_(anatomy)
            if self.takeover is not None:
                self.takeover.check_seen()
            if self.repair is not None:
                self.repair.check_seen()

    def rate_scale(self, anatomy: Anatomy) -> float:
        """min(sqrt(20), (W / W_0)^-g): W of the W_0 prunable weights are left, g = lr_growth."""
        times_smaller = self.weights / max(anatomy.kept_weights, 1)
        return float(min(times_smaller**self.config.lr_growth, _LARGEST_GROWTH))

    @torch.no_grad()
    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Push the units that are about to go."""
        self.step += 1
        self.pressure.push_(anatomy, self.goals[0])
        self._condemn_(anatomy)
        if self.repair is not None:
            self.repair.follow(self.ramp.last - self.step)

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """What goes at this step: something every `interval` steps of the ramp, and at its end."""
        if not self._due():
            return ShrinkPlan()
        self.pressure.nobody()
        return self.select(anatomy)

    def select(self, anatomy: Anatomy, budget: float | None = None) -> ShrinkPlan:
        """The poorest units, so that the schedule is met.

        Args:
            anatomy: the model's blocks.
            budget: share of the way to the target, in place of what the schedule says.
        """
        self._measure(anatomy)
        progress = self._progress(self.step) if budget is None else budget
        return plan_of(anatomy, self._poorest(anatomy, progress))

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """Meet the target, wherever the schedule stands.

        Raises:
            ConfigError: no step was taken, so that there is nothing to choose by.
        """
        check_seen(self.connectivity.kind, self.connectivity.seen)
        self._finishing = True
        return self.select(anatomy, 1.0)

    def before_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Let those who stay take over from those who go."""
        if self.takeover is None and self.repair is None:
            return
        gone = masks_of(anatomy, plan)
        if self.takeover is not None:
            self.takeover.absorb_(anatomy, gone)
        if self.repair is not None and (self.step >= self.ramp.last or self._finishing):
            self.repair.repair_(anatomy, gone)

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Forget who has gone."""
        self.connectivity.after_shrink_(plan, anatomy)
        if self.takeover is not None:
            self.takeover.after_shrink_()
        if self.repair is not None:
            self.repair.after_shrink_(plan, anatomy)
        self.pressure.nobody()

    def _due(self) -> bool:
        """Whether a cut is made at this step: while a stage rises, and at its top."""
        for stage in self.stages:
            if stage.start < self.step <= stage.top:
                since = self.step - stage.start
                return since % self.ramp.interval == 0 or self.step == stage.top
        return False

    def _progress(self, step: int) -> float:
        """How far on the way to the target the schedule is, in [0, 1]."""
        return staged_progress(step, self.ramp.steps, self.levels, *self.config.span)

    def _cost_at(self, sparsity: float) -> float:
        return (1.0 - sparsity) * self.goals[0].whole

    def _ahead(self) -> list[float]:
        """The snapshots' budgets that lie between the start and the target."""
        goal = self.goals[0]
        return [s for s in self.config.snapshots if goal.kept < self._cost_at(s) < goal.start]

    def _check_snapshots(self) -> None:
        behind = [s for s in self.config.snapshots if self._cost_at(s) >= self.goals[0].start]
        if behind:
            now = 1.0 - self.goals[0].start / self.goals[0].whole
            raise ConfigError(
                f"expected snapshots above the model's structural sparsity, which is {now:.4g} "
                f"before training, got {behind}. Leave them out."
            )

    @property
    def snapshot_due(self) -> float | None:
        """The budget whose stage has just ended, if any."""
        if len(self.levels) == 1:
            return None
        ends = (stage.stop for stage in self.stages)
        return dict(zip(ends, self._ahead(), strict=False)).get(self.step)

    @property
    def snapshot_held(self) -> bool:
        """Whether a stage that ends with a snapshot has risen."""
        return any(stage.top <= self.step <= stage.stop for stage in self.stages[:-1])

    def _next_cut(self) -> tuple[int, int]:
        """The steps of the next cut and at which its stage starts; beyond the last cut, none."""
        for stage in self.stages:
            if self.step < stage.top:
                since = max(self.step - stage.start, 0)
                following = stage.start + (since // self.ramp.interval + 1) * self.ramp.interval
                return min(following, stage.top), stage.start
        return self.ramp.steps + 1, self.ramp.steps

    def _condemn_(self, anatomy: Anatomy) -> None:
        """Name who goes at the next cut, when it is near; let those who stay take over."""
        soon, since = self._next_cut()
        lead = min(FADE, self.ramp.interval - 1, soon - since)  # what is held is not pushed
        if soon - self.step != lead or self.step < self.ramp.first:
            return
        if self.repair is not None and soon == self.ramp.last:
            return  # what the last cut takes is repaired, not faded out
        gone = self._poorest(anatomy, self._progress(soon))
        if self.takeover is not None:
            self.takeover.absorb_(anatomy, gone)
        scores = {b.name: self.connectivity.of(b) for b in anatomy.blocks()}
        self.pressure.condemn(anatomy, gone, scores, soon - self.step)

    @torch.no_grad()
    def _poorest(self, anatomy: Anatomy, progress: float) -> dict[str, Tensor]:
        """Masks of the units without which every goal is met so far."""
        scores = {b.name: self.connectivity.of(b).double().cpu() for b in anatomy.blocks()}
        if self.takeover is not None:
            scores = {b.name: self.takeover.joined(b, scores[b.name]) for b in anatomy.blocks()}
        choose = uniform_units if self.config.uniform else poorest_units
        return choose(self.goals, progress, scores, anatomy)

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """Every target's text -> where the model stands, in the target's own unit."""
        return {str(g.target): achieved(g.target, g, anatomy) for g in self.goals}

    def state_dict(self) -> dict[str, Any]:
        """Step, connectivity, pressure, and what was seen of the activations."""
        watchers = {"takeover": self.takeover, "repair": self.repair}
        return {
            "step": self.step,
            "weights": self.weights,
            "goals": [goal.to_dict() for goal in self.goals],
            "connectivity": self.connectivity.state_dict(),
            "pressure": self.pressure.state_dict(),
            **{name: w.state_dict() for name, w in watchers.items() if w is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state["step"])
        self.weights = int(state["weights"])
        if state["goals"]:
            self._use(read_goals(self.config.target, state["goals"]))
        self.connectivity.load_state_dict(state["connectivity"])
        self.pressure.load_state_dict(state["pressure"])
        if self.takeover is not None:
            self.takeover.load_state_dict(state["takeover"])
        if self.repair is not None:
            self.repair.load_state_dict(state["repair"])
            self.repair.follow(self.ramp.last - self.step)
