"""Fisher mask search: one cut by the gradients of the last steps, then units are tuned to it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuroprune.anatomy import Anatomy
from neuroprune.config import ConfigError, Fisher, Heads
from neuroprune.core.fisher import (
    contribution_moments,
    fisher_block,
    rearranged,
    search_masks,
    tuned_masks,
)
from neuroprune.core.importance import gate_gradient
from neuroprune.core.units import scale_units_
from neuroprune.methods.connectivity import check_trained
from neuroprune.methods.costs import unit_counts
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.goals import Goal, achieved
from neuroprune.methods.method import Method, StepSizeOf, schedule_length
from neuroprune.methods.poorest import CLOSE, ROUNDS, closed, goals_of, read_goals, waits
from neuroprune.methods.shadow import loss_scale
from neuroprune.methods.units import (
    Block,
    fan_out,
    heads_per_unit,
    masks_of,
    plan_of,
    unit_number,
    unit_width,
    units_left,
)
from neuroprune.plan import ShrinkPlan

PASSES = 16  # forward passes, at least, whose activations are taken in; fewer in fewer steps
ROWS = 512  # positions of each


class FisherMethod(Method[Fisher]):
    """Search, rearrangement and tuning of masks, in one cut at a share of the training.

    Gradients with respect to a mask on every head and neuron are read off those of the outgoing
    weights, for the last `batches` optimizer steps before the cut.

    Args:
        config: target, when to cut, and what of the method is used.
        total_steps: optimizer steps of the whole training; needed.

    Raises:
        ConfigError: total_steps is missing.

    Reference: Kwon et al. (2022), arXiv 2204.09656.
    """

    config_type: ClassVar = Fisher
    removes_dead_units: ClassVar = False

    def __init__(self, config: Fisher, total_steps: int | None = None) -> None:
        super().__init__(config, total_steps)
        steps = schedule_length(total_steps, "Fisher cuts at a share of the training and")
        self.cut_step = max(1, round(config.at * steps))
        batches = int(config.batches)
        self.first_step = max(0, self.cut_step - batches)  # whose gradients count
        self.step = 0
        self.done = False
        self.goals: tuple[Goal, ...] = ()
        self.gradients: deque[dict[str, Tensor]] = deque(maxlen=batches)
        every = max(1, (self.cut_step - self.first_step) // PASSES)
        self.moments = FeatureMoments(every=every, batches=PASSES, rows=ROWS)
        self._optimizer: Optimizer | None = None
        self._whole: Anatomy | None = None  # before the cut

    @property
    def settled_at(self) -> int:
        """The step of the one cut."""
        return self.cut_step

    def setup(self, anatomy: Anatomy, optimizer: Optimizer) -> None:
        """Measure the target; refuse blocks without gradients."""
        missing = check_trained(anatomy, optimizer)
        if missing:
            raise ConfigError(
                "the Fisher information is read off gradients, and the optimizer does not train "
                f"the output layers of {', '.join(missing)}. Train them (a learning rate of 0 "
                "will do), or use a method that needs no gradients, such as "
                "ProximalGroup(strength=0)."
            )
        if not waits(self.config.target, anatomy):
            self._measure(anatomy)
        self._optimizer, self._whole = optimizer, anatomy
        self._watch()

    def _measure(self, anatomy: Anatomy) -> None:
        """Measure the target once."""
        if not self.goals:
            self.goals = goals_of(self.config.target, anatomy)
            if isinstance(self.goals[-1].target, Heads):
                heads_to_go(self.goals[-1], anatomy)  # refuses what it cannot count

    def _watch(self) -> None:
        """Begin to take in activations when it is time."""
        due = self.config.tune and not self.done and self.step == self.first_step
        if due and self._whole is not None:
            self.moments.attach(self._whole)

    @torch.no_grad()
    def observe_(self, anatomy: Anatomy) -> None:
        """Take in the gradients of one step, until the cut."""
        if self.done:
            return
        self._measure(anatomy)
        scale = loss_scale(self._optimizer)
        found = {}
        for block in anatomy.blocks():
            weight = fan_out(block).weight
            if weight.grad is None or not weight.numel():
                found[block.name] = torch.zeros(unit_number(block))
            else:
                found[block.name] = gate_gradient(weight, weight.grad, unit_width(block)) / scale
        self.gradients.append(found)

    def prox_(self, anatomy: Anatomy, step_size_of: StepSizeOf) -> None:
        """Count the step."""
        self.step += 1
        self._watch()

    def cut_now(self, anatomy: Anatomy) -> ShrinkPlan:
        """The one cut."""
        return self._cut(anatomy) if self.step == self.cut_step else ShrinkPlan()

    def last_cut(self, anatomy: Anatomy, just_cut: bool) -> ShrinkPlan:
        """The one cut, where training stops before it was due."""
        return self._cut(anatomy)

    def _cut(self, anatomy: Anatomy) -> ShrinkPlan:
        if self.done:
            return ShrinkPlan()
        plan = plan_of(anatomy, self.chosen(anatomy))
        self.done = True
        self.gradients.clear()
        self._whole = None
        if not plan:
            self.moments.remove()
        return plan

    @torch.no_grad()
    def chosen(self, anatomy: Anatomy) -> dict[str, Tensor]:
        """Masks of the units that go.

        Args:
            anatomy: the model's blocks.

        Raises:
            ConfigError: no step was taken, so that there are no gradients.
        """
        if not self.gradients:
            raise ConfigError(
                "Fisher needs the gradients of at least one step before its cut, and none was "
                "taken. Train, if only at a learning rate of 0, or detach()."
            )
        gradients = {
            b.name: torch.stack([g[b.name].cpu() for g in self.gradients]).double()
            for b in anatomy.blocks()
        }
        scores = {name: g.square().sum(dim=0) for name, g in gradients.items()}
        gone = searched_units(self.goals, scores, anatomy)
        if self.config.rearrange:
            gone = {name: rearranged(fisher_block(gradients[name]), m) for name, m in gone.items()}
        return gone

    def before_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Tune the units that stay."""
        if self.config.tune:
            unseen = tune_(anatomy, masks_of(anatomy, plan), self.moments)
            if unseen:
                warnings.warn(
                    f"no activations of {', '.join(unseen)} were seen in training mode before the "
                    f"cut at step {self.step}, so that their units are not tuned. Fisher watches "
                    f"from step {self.first_step} to {self.cut_step}: train as long as total_steps "
                    "says, or set tune=False.",
                    stacklevel=2,
                )
        self.moments.remove()

    def teardown(self) -> None:
        """Stop watching."""
        self.moments.remove()

    def reached(self, anatomy: Anatomy) -> dict[str, float]:
        """Every target's text -> where the model stands, in the target's own unit."""
        return {str(g.target): achieved(g.target, g, anatomy) for g in self.goals}

    def state_dict(self) -> dict[str, Any]:
        """Step, whether the cut was made, and goals."""
        goals = [goal.to_dict() for goal in self.goals]
        return {"step": self.step, "done": self.done, "goals": goals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved step.

        Raises:
            ConfigError: it is among the steps whose gradients count, which are not saved.
        """
        step, done = int(state["step"]), bool(state["done"])
        if not done and step > self.first_step:
            raise ConfigError(
                f"the state is of step {step}, and Fisher cannot go on from steps "
                f"{self.first_step + 1} to {self.cut_step}: the gradients and activations that it "
                "gathers there are in no checkpoint. Resume from a checkpoint of step "
                f"{self.first_step} or before, or of after the cut; or start the training anew."
            )
        self.step, self.done = step, done
        if done:
            self.moments.remove()
        self._watch()
        if state["goals"]:
            self.goals = read_goals(self.config.target, state["goals"])


def heads_to_go(goal: Goal, anatomy: Anatomy) -> int:
    """Units of attentions that go for a goal of heads: heads, or groups that share keys and values.

    Args:
        goal: of heads.
        anatomy: the model's blocks.

    Raises:
        ConfigError: the attentions' groups differ in size, so that a number of units is not one
            of heads.
    """
    sizes = {heads_per_unit(b) for b in anatomy.attentions if unit_number(b)}
    if len(sizes) > 1:
        raise ConfigError(
            "Fisher chooses a number of units that are equally large; expected key/value heads "
            f"shared by equally many query heads in all attentions, got {sorted(sizes)}. Use "
            f"NeuroPrune(target={goal.target!r})."
        )
    present = sum(b.num_heads for b in anatomy.attentions)
    return max(present - round(goal.kept), 0) // max(sizes, default=1)


def searched_units(
    goals: Sequence[Goal], scores: Mapping[str, Tensor], anatomy: Anatomy
) -> dict[str, Tensor]:
    """Masks of the units to remove, so that every goal is met at the least sum of scores.

    Where a block's cost is not a straight line of its units (FLOPs, latencies), the search is
    repeated with what it missed, and ends unit by unit.

    Args:
        goals: one or two, of heads last.
        scores: block name -> diagonal Fisher information of its units, float64 on the CPU.
        anatomy: the model's blocks.

    Returns:
        Block name -> boolean mask over its units.

    Raises:
        ConfigError: a goal cannot be met.
    """
    goal = goals[0]
    heads = heads_to_go(goals[-1], anatomy) if isinstance(goals[-1].target, Heads) else None
    sizes = {b.name: heads_per_unit(b) for b in anatomy.blocks()}
    price = {n: max(goal.cost.curves[n].per_unit * s, 1e-12) for n, s in sizes.items()}
    counts = unit_counts(anatomy)
    needed = 0.0 if isinstance(goal.target, Heads) else goal.cost.kept(counts) - goal.kept
    for _ in range(ROUNDS):
        gone = _searched(anatomy, scores, price, needed, heads)
        surplus = goal.cost.kept(units_left(counts, gone, sizes)) - goal.kept
        if goal.is_straight or abs(surplus) <= CLOSE * goal.start:
            break
        needed += surplus
    if surplus > goal.slack or not goal.is_straight:
        blocks = list(anatomy.blocks() if heads is None else anatomy.mlps)
        others = gone | {b.name: torch.zeros_like(gone[b.name]) for b in blocks}
        ranked = torch.cat([scores[b.name] for b in blocks])
        left = units_left(counts, others, sizes)
        gone |= closed(goal, blocks, scores, ranked, gone, left)
    return gone


def _searched(
    anatomy: Anatomy,
    scores: Mapping[str, Tensor],
    price: Mapping[str, float],
    needed: float,
    heads: int | None,
) -> dict[str, Tensor]:
    def together(blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
        found = [scores[b.name] for b in blocks]
        costs = [torch.full_like(scores[b.name], price[b.name]) for b in blocks]
        empty = [torch.zeros(0, dtype=torch.float64)]
        return torch.cat(found or empty), torch.cat(costs or empty)

    kinds: tuple[Sequence[Block], Sequence[Block]] = (anatomy.attentions, anatomy.mlps)
    masks = search_masks(*together(kinds[0]), *together(kinds[1]), needed, heads)
    out: dict[str, Tensor] = {}
    for blocks, mask in zip(kinds, masks, strict=True):
        parts = mask.split([len(scores[b.name]) for b in blocks])
        out |= {b.name: part for b, part in zip(blocks, parts, strict=True)}
    return out


@torch.no_grad()
def tune_(anatomy: Anatomy, gone: Mapping[str, Tensor], moments: FeatureMoments) -> list[str]:
    """Scale the units that stay so that every block's output is nearest to what it was.

        W_u <- m_u W_u,    m = argmin E|sum_u W_u x_u - sum over kept of m_u W_u x_u|^2

    Args:
        anatomy: the model's blocks, before the cut.
        gone: block name -> mask over its units.
        moments: second moments of what enters the output layers.

    Returns:
        Blocks that lose some of their units and have no moments: they are left as they are.
    """
    unseen = []
    for block in anatomy.blocks():
        layer, mask = fan_out(block), gone[block.name]
        if not bool(mask.any()) or bool(mask.all()):
            continue
        gram = moments.gram(layer)
        if gram is None:
            unseen.append(block.name)
            continue
        c = contribution_moments(gram, layer.weight, unit_width(block))
        mask = mask.to(c.device)
        kept, removed = (~mask).nonzero().squeeze(1), mask.nonzero().squeeze(1)
        factors = torch.ones(len(mask), dtype=torch.float32, device=c.device)
        factors[kept] = tuned_masks(c, kept, removed).float()
        scale_units_([], [layer.weight.data], factors)
    return unseen
