"""How long a forward pass takes on this machine, by how many units each block keeps."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy
from neuroprune.anatomy.inputs import copy_of, device_of, sample_inputs
from neuroprune.config import ConfigError
from neuroprune.control.cost import CostModel, Curve, never_falling
from neuroprune.control.stopwatch import interleaved
from neuroprune.methods.dense import dense_twin
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery import shrink_

FRACTIONS = (1 / 2, 1 / 4, 1 / 12, 0.0)  # of a block's units that are kept; the last is none
MOST_SPREAD = 0.25  # of the dense model's times: inter-quartile range / median
_BUDGET_SECONDS = 20.0
_FEWEST_TURNS, _MOST_TURNS, _WARMUP = 5, 40, 1
Units = Mapping[str, int]  # block name -> units


def measure_latency(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> CostModel:
    """Cost of a model in seconds, from timed forward passes of copies that were cut.

        saved_K(f) = 1 - median over turns of t(blocks of kind K keep the share f) / t_dense
        s(f)       = saved_all(f) / sum over K of saved_K(f)
        c_K(f)     = s(0) saved_K(0) - s(f) saved_K(f)
        curve_b(u) = t_dense * share_b * c_K(f),    b in K,  u = f * units of b
        fixed      = t(no block keeps a unit)

    A kind is all blocks that differ in their layer number only; `share_b` is the block's share of
    the kind's units. What cuts save together is not the sum of what each saves alone, and it is
    measured more surely; s makes the curves add up to it where all blocks keep the same share.
    Deeper cuts save more: savings that were timed otherwise are pooled (`never_falling`), and what
    is left of it after s counts as flat.

    The model, its configuration, its gradients and the state of the random generators are left
    alone: only copies are cut and run, in eval mode, as they would be after training (without the
    mixed precision that a training loop may have added to the model's forward).

    Args:
        model: the model, dense or cut before.
        anatomy: its blocks.
        batch: sequences of a pass.
        length: tokens per sequence, in encoder and decoder.

    Returns:
        The cost model; counts of attention blocks are query heads.

    Raises:
        ConfigError: the dense model's own times differ so much that no share of them can be kept.
    """
    kinds = _kinds(anatomy)
    groups = {b.name: b.group_size for b in anatomy.attentions}
    levels = {k: [_kept(units, f, groups) for f in FRACTIONS] for k, units in kinds.items()}
    variants = (len(kinds) + 1) * len(FRACTIONS)
    saved = _Savings(model, anatomy, sample_inputs(model, batch, length), variants)
    alone = {kind: never_falling([saved(kept) for kept in rows]) for kind, rows in levels.items()}
    together = never_falling(
        [
            saved({name: n for rows in levels.values() for name, n in rows[i].items()})
            for i in range(len(FRACTIONS))
        ]
    )
    dense = _dense_time(saved.seconds, batch, length)
    for i, joint in enumerate(together):
        separate = sum(row[i] for row in alone.values())
        scale = joint / separate if separate > 0 else 0.0
        for row in alone.values():
            row[i] *= scale
    return _cost_model(anatomy, kinds, levels, alone, dense)


def dense_times(model: nn.Module, anatomy: Anatomy, batch: int, length: int) -> float:
    """How many times as long as a model that was cut the dense model takes for a forward pass.

        median over turns of t_dense / t_now

    The dense model is gone, so a twin of its sizes with random weights takes turns with a copy of
    the model as it is. On a machine where cuts save nothing, the result may be below 1.

    Args:
        model: the model, cut before.
        anatomy: its blocks.
        batch: sequences of a pass.
        length: tokens per sequence, in encoder and decoder.

    Raises:
        ConfigError: a dense model cannot be made from the model's configuration.
    """
    inputs, device = sample_inputs(model, batch, length), device_of(model)
    twin = dense_twin(model, anatomy)
    calls = {
        "dense": partial(_forward, twin, inputs),
        "now": partial(_forward, copy_of(model), inputs),
    }
    probe = interleaved(calls, 3, _WARMUP, device)
    turns = _turns(sum(statistics.median(times) for times in probe.values()))
    times = interleaved(calls, turns, _WARMUP, device)
    return statistics.median(d / n for d, n in zip(times["dense"], times["now"], strict=True))


def _turns(seconds: float) -> int:
    """How many turns of so many seconds fit into the budget, within bounds."""
    affordable = _BUDGET_SECONDS / max(seconds, 1e-9)
    return int(min(max(affordable, _FEWEST_TURNS), _MOST_TURNS))


class _Savings:
    """Times copies of a model that were cut, taking turns with one that was not.

    Args:
        model: the model.
        anatomy: its blocks.
        inputs: of a pass.
        variants: how many different cuts share the budget.
    """

    def __init__(
        self, model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor], variants: int
    ) -> None:
        self.model, self.anatomy, self.inputs = model, anatomy, inputs
        self.device = device_of(model)
        self.seconds: list[list[float]] = []  # of the dense model, beside each cut
        self.known: dict[tuple[tuple[str, int], ...], float] = {}
        self.dense = partial(_forward, copy_of(model), inputs)
        probe = interleaved({"dense": self.dense}, 3, _WARMUP, self.device)["dense"]
        self.turns = _turns(2 * variants * statistics.median(probe))

    def __call__(self, kept: Units) -> float:
        """Share of the dense model's time that a cut saves; never below 0.

        Args:
            kept: block name -> units; blocks that are not named keep all.
        """
        key = tuple(kept.items())
        if key not in self.known:
            cut = copy_of(self.model)
            shrink_(cut, _plan(self.anatomy, kept))
            calls = {"dense": self.dense, "cut": partial(_forward, cut, self.inputs)}
            times = interleaved(calls, self.turns, _WARMUP, self.device)
            self.seconds.append(times["dense"])
            ratios = [c / d for d, c in zip(times["dense"], times["cut"], strict=True)]
            self.known[key] = max(0.0, 1.0 - statistics.median(ratios))
        return self.known[key]


def _kinds(anatomy: Anatomy) -> dict[str, dict[str, int]]:
    """Kind of block -> its blocks that have units -> their units."""
    units = {b.name: ("heads", b.num_heads) for b in anatomy.attentions}
    units |= {b.name: ("neurons", b.d_ff) for b in anatomy.mlps}
    kinds: dict[str, dict[str, int]] = {}
    for name, (what, number) in units.items():
        if number:
            kinds.setdefault(f"{re.sub(r'[0-9]+', '*', name)} {what}", {})[name] = number
    return kinds


def _kept(units: Units, fraction: float, groups: Units) -> dict[str, int]:
    """What the blocks of a kind keep: whole groups of heads, and an odd number of neurons.

    Odd, since pruning leaves widths that no kernel was tuned for, and they are slower.
    """
    kept = {}
    for name, number in units.items():
        group = groups.get(name, 1)
        share = round(fraction * number / group)
        if name not in groups and share % 2 == 0:
            share -= 1
        kept[name] = group * max(share, 1 if fraction else 0)
    return kept


def _plan(anatomy: Anatomy, kept: Units) -> ShrinkPlan:
    """Which units go does not matter to the clock: the last ones."""
    return ShrinkPlan(
        {b.name: range(kept[b.name], b.num_heads) for b in anatomy.attentions if b.name in kept},
        {b.name: range(kept[b.name], b.d_ff) for b in anatomy.mlps if b.name in kept},
    )


@torch.no_grad()
def _forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    return model(**inputs)


def _dense_time(seconds: Sequence[Sequence[float]], batch: int, length: int) -> float:
    """Median time of the dense model; refuses times that no promise can be based on.

    The spread is taken beside each cut, and the median of those: a machine that is slower for a
    while slows the dense model and the cut alike.
    """
    spreads = []
    for times in seconds:
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        spreads.append((high - low) / median)
    typical = statistics.median(statistics.median(times) for times in seconds)
    spread = statistics.median(spreads)
    if spread > MOST_SPREAD:
        raise ConfigError(
            f"the timing on this machine is too noisy for a latency target: a forward pass took "
            f"{1e3 * typical:.3g} ms (median), with an inter-quartile spread of {spread:.0%}; "
            f"expected at most {MOST_SPREAD:.0%}. Stop what else is running, or ask for "
            f"Flops(x, batch={batch}, length={length}), which needs no clock."
        )
    return typical


def _cost_model(
    anatomy: Anatomy,
    kinds: Mapping[str, Units],
    levels: Mapping[str, Sequence[Units]],
    saved: Mapping[str, Sequence[float]],
    dense: float,
) -> CostModel:
    """Curves from the shares of the dense model's time that were saved."""
    curves = {block.name: Curve.linear(0, 0.0) for block in anatomy.blocks()}
    for kind, units in kinds.items():
        most = saved[kind][-1]
        for name, number in units.items():
            whole = dense * number / sum(units.values())
            points = {0: 0.0}
            for kept, share in zip(reversed(levels[kind]), reversed(saved[kind]), strict=True):
                cost = whole * max(most - share, 0.0)
                points[kept[name]] = max(cost, *points.values())
            points[number] = whole * most
            curves[name] = Curve(tuple(points), tuple(points.values()))
    fixed = dense - sum(curve.costs[-1] for curve in curves.values())
    return CostModel("seconds", fixed, curves)
