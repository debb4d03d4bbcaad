"""Redundancy while pruning: the poor twin gives way, and the rich one takes over what it did."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.choices import Redundancy
from neuroprune.core.absorption import absorb, cross_validated_ridge
from neuroprune.core.similarity import parallel_neurons
from neuroprune.methods.feature_moments import FeatureMoments
from neuroprune.methods.redundant_heads import (
    absorb_heads_,
    check_circuits,
    similar_heads,
    whole_groups,
)
from neuroprune.methods.units import (
    Block,
    fan_out,
    heads_per_unit,
    kept_units,
    unit_columns,
    unit_width,
)
from neuroprune.plan import ShrinkPlan
from neuroprune.surgery.heads import merged_output_weight

_ALL = 2**31  # passes that a plain mean remembers


class Takeover:
    """Redundancy joined with importance, and closed-form absorption of what goes.

    A head's connectivity c_i is discounted by its likeness to a richer head of its layer:

        c_i <- c_i * (1 - max_{j : c_j > c_i} sim_ij),    sim clipped to [0, 1]

    so of two heads that do the same the poorer one is next to go, and of two that differ only
    importance decides. When head i goes and a head j that stays is at most theta apart, j absorbs
    it: by least squares on the layer's inputs seen while training, or for "weights", as in the
    paper, by the plain sum. Neurons with parallel input weights are folded likewise.

    Args:
        how: what likeness is measured on.
        theta: distance up to which a head (neuron) takes over from another.
        every: forward passes per pass whose activations are taken in.

    Reference: Dhurandhar et al. (2024), arXiv 2404.01306, Algorithm 2 and section 6 (importance
    and redundancy together, named as future work).
    """

    def __init__(self, how: Redundancy, theta: float, every: int) -> None:
        self.how = how
        self.theta = theta
        self.moments = FeatureMoments(every=every, rows=512)

    def attach(self, anatomy: Anatomy) -> None:
        """Begin to watch what enters the output projections of the attentions.

        Args:
            anatomy: the model's blocks.

        Raises:
            ConfigError: see `check_circuits`.
        """
        check_circuits(self.how, anatomy)
        if self.how is not Redundancy.WEIGHTS:
            self.moments.attach(anatomy, mlps=False)

    def detach(self) -> None:
        """Stop watching."""
        self.moments.remove()

    def check_seen(self) -> None:
        """See that the training runs in training mode, where the likeness or the takeover needs it.

        Raises:
            ConfigError: no forward pass of the step was one of training.
        """
        self.moments.check_seen(f'redundancy="{self.how}"')

    def joined(self, block: Block, scores: Tensor) -> Tensor:
        """Connectivity discounted by likeness to richer units of the block.

        Args:
            block: the block; neurons are left as they are.
            scores: connectivity of its units, shape (units,).
        """
        if not isinstance(block, AttentionBlock) or len(scores) < 2:
            return scores
        similarity = self._similarity(block)
        if similarity is None:
            return scores
        size = heads_per_unit(block)
        units = len(scores)
        # Heads that share keys and values go together: their likeness is that of the least alike.
        whole = similarity.reshape(units, size, units, size)
        alike = whole.diagonal(dim1=1, dim2=3).amin(dim=-1).to(scores)
        richer = scores.unsqueeze(0) > scores.unsqueeze(1)
        likeness = torch.where(richer, alike, 0.0).clamp(0.0, 1.0).amax(dim=1)
        return scores * (1.0 - likeness)

    @torch.no_grad()
    def absorb_(self, anatomy: Anatomy, gone: Mapping[str, Tensor]) -> None:
        """Let units that stay take over from similar ones that go, whose fan-out becomes zero.

        Args:
            anatomy: the model's blocks.
            gone: block name -> mask over its units.
        """
        for attention in anatomy.attentions:
            mask = gone[attention.name].repeat_interleave(heads_per_unit(attention))
            merges = self._merges(attention, mask)
            if not merges:
                continue
            if self.how is Redundancy.WEIGHTS:
                add_heads_(attention, merges)
            else:
                gram = self.moments.gram(attention.o_proj)
                if gram is not None:
                    absorb_heads_(attention, merges, gram)
        for mlp in anatomy.mlps:
            fold_neurons_(mlp, gone[mlp.name], 1.0 - self.theta)

    def after_shrink_(self) -> None:
        """Measure anew: the features have changed."""
        self.moments.forget()

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state: the moments, see `FeatureMoments`."""
        return self.moments.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote.

        Args:
            state: the state.
        """
        self.moments.load_state_dict(state)

    def _similarity(self, block: AttentionBlock) -> Tensor | None:
        gram = self.moments.gram(block.o_proj)
        if self.how is Redundancy.OUTPUT and gram is None:
            return None  # nothing was seen since the last cut
        return similar_heads(block, self.how, self.theta, gram)[1].cpu()

    def _merges(self, block: AttentionBlock, gone: Tensor) -> dict[int, int]:
        """{head that goes: most similar head that stays}, where all of a group are close enough."""
        if not bool(gone.any()) or bool(gone.all()):
            return {}
        similarity = self._similarity(block)
        if similarity is None:
            return {}
        alive = block.o_proj.weight.detach().any(dim=0).reshape(block.num_heads, -1).any(dim=1)
        best, where = similarity.masked_fill(gone.cpu().unsqueeze(0), -torch.inf).max(dim=1)
        close = gone.cpu() & alive.cpu() & (1.0 - best <= self.theta)
        merges = {int(i): int(where[i]) for i in close.nonzero().squeeze(1)}
        return whole_groups(block, merges)


@torch.no_grad()
def add_heads_(block: AttentionBlock, merges: Mapping[int, int]) -> None:
    """The paper's plain sum: W_O[:, j] += W_O[:, i], then W_O[:, i] = 0.

    Args:
        block: the attention.
        merges: {head i that goes: head j that stays}.
    """
    weight = block.o_proj.weight.data
    weight.copy_(merged_output_weight(block, merges))
    weight.view(weight.shape[0], block.num_heads, -1)[:, list(merges)] = 0


@torch.no_grad()
def fold_neurons_(block: MLPBlock, gone: Tensor, threshold: float) -> None:
    """Neurons that stay take over from parallel ones that go, whose fan-out becomes zero.

    Args:
        block: the MLP.
        gone: mask over its neurons.
        threshold: least cosine of the input weights.
    """
    if not bool(gone.any()) or threshold <= 0.0:
        return
    parts = []
    for layer in block.fan_in():
        parts.append(layer.weight.detach())
        if layer.bias is not None:
            parts.append(layer.bias.detach().unsqueeze(1))
    relu = isinstance(block.activation, nn.ReLU) or block.activation is nn.functional.relu
    degree = len(block.fan_in()) if relu else None
    weight = block.down_proj.weight.data
    leaving = gone.tolist()
    # The richer of a pair may come second: those that stay come first, so that they represent.
    order = torch.cat([(~gone).nonzero().squeeze(1), gone.nonzero().squeeze(1)])
    rows = torch.cat(parts, dim=1)[order.to(weight.device)]
    for n, (r, scale) in parallel_neurons(rows, threshold, degree).items():
        source, target = int(order[n]), int(order[r])
        if leaving[source] and not leaving[target]:
            weight[:, target] += scale * weight[:, source]
            weight[:, source] = 0


class Repair:
    """Least-squares repair at the last cut, from the training passes of the steps before it.

    Activations are taken in during the last `WINDOW` steps, steps in turn for one of two halves
    (not passes: checkpointed gradients run each twice); at cuts in between, what was seen of the
    units that stay is kept. Each half holds a d_ff x d_ff matrix for every MLP.
    """

    WINDOW: ClassVar[int] = 32

    def __init__(self) -> None:
        self.halves = tuple(FeatureMoments(every=1, batches=_ALL) for _ in range(2))

    def attach(self, anatomy: Anatomy) -> None:
        """Begin to watch what enters the output projections.

        Args:
            anatomy: the model's blocks.
        """
        for half in self.halves:
            half.attach(anatomy)

    def detach(self) -> None:
        """Stop watching, and forget."""
        for half in self.halves:
            half.remove()

    def follow(self, left: int) -> None:
        """Take in activations when it is time, and stop when it is over.

        Args:
            left: optimizer steps until the last cut.
        """
        for i, half in enumerate(self.halves):
            half.paused = left > self.WINDOW or left % 2 != i
            if left < 0:
                half.remove()

    def check_seen(self) -> None:
        """See that the training runs in training mode, so that its passes can be told.

        Raises:
            ConfigError: no forward pass of the step was one of training.
        """
        self.halves[0].check_seen("repair=True")

    @torch.no_grad()
    def repair_(self, anatomy: Anatomy, gone: Mapping[str, Tensor]) -> None:
        """Repair, say where that was not possible, and stop watching.

        Args:
            anatomy: the model's blocks.
            gone: block name -> mask over its units.
        """
        plain = repair_(anatomy, gone, self.halves)
        self.detach()
        if plain:
            warnings.warn(
                f"repair=True leaves {', '.join(plain)} as removal leaves them: on the activations "
                "of training passes it was not fitted to, least squares was no better. It is "
                f"fitted to the last {self.WINDOW} steps before the last cut, which were too few, "
                "or of too few positions for so many units. Train longer or with larger batches, "
                "or leave repair out.",
                stacklevel=2,
            )

    def after_shrink_(self, plan: ShrinkPlan, anatomy: Anatomy) -> None:
        """Keep what was seen of the units that stay.

        Args:
            plan: the cut.
            anatomy: the blocks that are left.
        """
        for block in anatomy.blocks():
            kept = kept_units(block, plan)
            if kept is not None:
                for half in self.halves:
                    half.keep(fan_out(block), unit_columns(block, kept))

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state; large in the steps before the last cut alone, see `FeatureMoments`."""
        return {"halves": [half.state_dict() for half in self.halves]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read what `state_dict` wrote.

        Args:
            state: the state.
        """
        for half, saved in zip(self.halves, state["halves"], strict=True):
            half.load_state_dict(saved)


@torch.no_grad()
def repair_(
    anatomy: Anatomy,
    gone: Mapping[str, Tensor],
    halves: Sequence[FeatureMoments],
    ridges: Sequence[float] = (1e-4, 1e-2, 1e-1, 1.0),
) -> list[str]:
    """Least-squares repair of every output projection for the units that go.

        W' = argmin E|W x - W' x_kept|^2 + lam |W' - W_kept|^2,    the columns of what goes are zero

    lam is the one that does best by cross-validation between two halves of the positions seen.
    Where none does better than plain removal, as when there are few positions for many units, the
    projection is left as it is.

    Args:
        anatomy: the model's blocks.
        gone: block name -> mask over its units.
        halves: second moments of what enters the output projections, two, on disjoint passes.
        ridges: dampings to choose from, relative to the mean second moment of what stays.

    Returns:
        Blocks that lose some of their units and are left as they are.
    """
    plain = []
    for block in anatomy.blocks():
        mask = gone[block.name].repeat_interleave(unit_width(block))
        layer = fan_out(block)
        if not bool(mask.any()) or bool(mask.all()):
            continue
        first, second = (half.gram(layer) for half in halves)
        mask = mask.to(layer.weight.device)
        kept, removed = (~mask).nonzero().squeeze(1), mask.nonzero().squeeze(1)
        weight, ridge = layer.weight.data, None
        if first is not None and second is not None:
            ridge = cross_validated_ridge((first, second), weight, kept, removed, ridges)
        if first is None or second is None or ridge is None:
            plain.append(block.name)
            continue
        weight[:, kept] = absorb((first + second) / 2, weight, kept, removed, ridge).to(weight)
        weight[:, removed] = 0
    return plain
