"""A target as a method of target mode sees it: measured, and refused where no cut leads to it."""

from __future__ import annotations

from torch import nn

from neuroprune.anatomy import Anatomy
from neuroprune.methods.goals import Goal, check_reachable, measured
from neuroprune.targets import Target


def goal_of(
    target: Target, anatomy: Anatomy, model: nn.Module, heads_kept: int | None = None
) -> Goal:
    goal = measured(target, anatomy, model)
    check_reachable(goal, anatomy, heads_kept)
    return goal
