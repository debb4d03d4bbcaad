"""The two sparsities, never mixed, and the connectivity of every block."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.core.connectivity import connectivity


@dataclass(frozen=True)
class SparsityReport:
    """How much of the dense model's prunable weights is gone.

    The denominator of both sparsities is `dense_weights`: the dense model's weights of q, k, v, o,
    up, gate and down, no biases.

    Args:
        dense_weights: prunable weights of the dense model.
        kept_weights: prunable weights that are still stored.
        zero_weights: stored prunable weights with |w| < eps (w = 0 for eps = 0).
    """

    dense_weights: int
    kept_weights: int
    zero_weights: int

    @property
    def structural_sparsity(self) -> float:
        """Share physically removed."""
        return 1.0 - self.kept_weights / self.dense_weights

    @property
    def weight_sparsity(self) -> float:
        """Share that is zero or removed (the paper's sparsity)."""
        return 1.0 - (self.kept_weights - self.zero_weights) / self.dense_weights

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with both sparsities."""
        return asdict(self) | {
            "weight_sparsity": self.weight_sparsity,
            "structural_sparsity": self.structural_sparsity,
        }


def sparsity(anatomy: Anatomy, eps: float = 0.0) -> SparsityReport:
    """Count what is left of a model.

    Args:
        anatomy: the model's blocks.
        eps: weights below it in absolute value count as zero; 0 counts exact zeros.

    Returns:
        Counts and both sparsities.
    """
    zeros = sum(count_zeros(matrix, eps) for matrix in anatomy.matrices())
    return SparsityReport(anatomy.dense_weights, anatomy.kept_weights, zeros)


def count_zeros(matrix: torch.Tensor, eps: float = 0.0) -> int:
    """Entries with |w| < eps, or w = 0 where eps is 0."""
    matrix = matrix.detach()
    if eps == 0.0:
        return matrix.numel() - int(torch.count_nonzero(matrix))
    return int((matrix.abs() < eps).sum())


@dataclass(frozen=True)
class BlockReport:
    """One block: its units, sparsities and connectivity.

    Args:
        name: the block's name.
        kind: "attention" or "mlp".
        units: heads or neurons that are left.
        dense_units: heads or neurons of the dense model.
        sparsity: counts and both sparsities of this block alone.
        connectivity_mean: mean of c_i over the rows of all stored matrices of the block.
        connectivity_sd: standard deviation of c_i.
    """

    name: str
    kind: str
    units: int
    dense_units: int
    sparsity: SparsityReport
    connectivity_mean: float
    connectivity_sd: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "kind": self.kind,
            "units": self.units,
            "dense_units": self.dense_units,
            **self.sparsity.to_dict(),
            "connectivity_mean": self.connectivity_mean,
            "connectivity_sd": self.connectivity_sd,
        }


def inspect_blocks(anatomy: Anatomy, eps: float = 1e-4) -> list[BlockReport]:
    """A report for every block, in the order of the anatomy.

    Connectivity is that of the rows of every stored matrix of the block, pooled.

    Args:
        anatomy: the model's blocks.
        eps: entries below it in absolute value are no connection.
    """
    return [_block_report(anatomy, block, eps) for block in anatomy.blocks()]


def _block_report(anatomy: Anatomy, block: AttentionBlock | MLPBlock, eps: float) -> BlockReport:
    if isinstance(block, AttentionBlock):
        kind, units = "attention", block.num_heads
        dense_units = anatomy.lineage.heads[block.name]
    else:
        kind, units = "mlp", block.d_ff
        dense_units = anatomy.lineage.neurons[block.name]
    matrices = block.matrices()
    filled = [m for m in matrices if m.numel()]
    degrees = (
        torch.cat([connectivity(m, eps) for m in filled]).double() if filled else torch.zeros(1)
    )
    counts = SparsityReport(
        anatomy.dense_weights_of(block),
        sum(m.numel() for m in matrices),
        sum(count_zeros(m) for m in matrices),
    )
    return BlockReport(
        block.name,
        kind,
        units,
        dense_units,
        counts,
        float(degrees.mean()),
        float(degrees.std(correction=0)),
    )
