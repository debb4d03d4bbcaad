"""Redundancy while pruning: the poor twin gives way, and the rich one takes over what it did."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.choices import Redundancy
from neuroprune.core.absorption import absorb
from neuroprune.core.similarity import parallel_neurons
from neuroprune.methods.redundant_heads import FeatureMoments, absorb_heads_, similar_heads
from neuroprune.methods.units import Block, fan_out, heads_per_unit, unit_width
from neuroprune.surgery.heads import merged_output_weight


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
        """
        if self.how is not Redundancy.WEIGHTS:
            self.moments.attach(anatomy, mlps=False)

    def detach(self) -> None:
        """Stop watching."""
        self.moments.remove()

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

    def _similarity(self, block: AttentionBlock) -> Tensor | None:
        gram = self.moments.gram(block.o_proj)
        if self.how is Redundancy.OUTPUT and gram is None:
            return None  # nothing was seen since the last cut
        return similar_heads(block, self.how, self.theta, gram)[1].cpu()

    def _merges(self, block: AttentionBlock, gone: Tensor) -> dict[int, int]:
        """{head that goes: most similar head that stays}, where they are close enough."""
        if not bool(gone.any()) or bool(gone.all()) or heads_per_unit(block) > 1:
            return {}
        similarity = self._similarity(block)
        if similarity is None:
            return {}
        alive = block.o_proj.weight.detach().any(dim=0).reshape(block.num_heads, -1).any(dim=1)
        best, where = similarity.masked_fill(gone.cpu().unsqueeze(0), -torch.inf).max(dim=1)
        close = gone.cpu() & alive.cpu() & (1.0 - best <= self.theta)
        return {int(i): int(where[i]) for i in close.nonzero().squeeze(1)}


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


@torch.no_grad()
def repair_(anatomy: Anatomy, gone: Mapping[str, Tensor], moments: FeatureMoments) -> None:
    """Least-squares repair of every output projection for the units that go.

        W' = argmin E|W x - W' x_kept|^2,    then the columns of what goes are zero

    Args:
        anatomy: the model's blocks.
        gone: block name -> mask over its units.
        moments: second moments of what enters the output projections; layers without are left.
    """
    for block in anatomy.blocks():
        mask = gone[block.name].repeat_interleave(unit_width(block))
        layer = fan_out(block)
        gram = moments.gram(layer)
        if gram is None or not bool(mask.any()) or bool(mask.all()):
            continue
        mask = mask.to(layer.weight.device)
        kept, removed = (~mask).nonzero().squeeze(1), mask.nonzero().squeeze(1)
        weight = layer.weight.data
        weight[:, kept] = absorb(gram, weight, kept, removed).to(weight.dtype)
        weight[:, removed] = 0
