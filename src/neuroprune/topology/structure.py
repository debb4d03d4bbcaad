"""What is left of every matrix, in the dense model's coordinates: the raw material of figures.

A masked model and its shrunk twin have the same structure: a removed unit is a row and a column
without connections, a removed input a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.lineage import Lineage

GRID = 16  # cells a side of a pattern
BINS = 20  # of a degree histogram
_ROLES = ("q", "k", "v", "o")


def structure(anatomy: Anatomy, eps: float = 0.0, patterns: bool = True) -> dict[str, Any]:
    """Units that are left, patterns of connections and degrees, block by block.

    A connection is an entry with |w| > eps of a unit that was not removed. The degree of row i of
    a matrix is the share of the *dense* row's m entries that are connections,

        degree_i = (connections of row i) / m  in [0, 1].

    Args:
        anatomy: the model's blocks, dense, masked or shrunk.
        eps: entries up to it in absolute value are no connection.
        patterns: also give each matrix's pattern, `GRID` x `GRID` cells of the density of
            connections, row by row as two hexadecimal digits each ("ff" is dense).

    Returns:
        JSON-ready: {"eps", "grid", "bins", "blocks": [{"name", "kind", "dense_units", "kept",
        "matrices": {role: {"density", "degree_mean", "degree_sd", "degree_histogram",
        "pattern"}}}]}. "kept" has the dense indices of heads, and the number of neurons.
    """
    lineage, hidden = anatomy.lineage, hidden_places(anatomy)
    blocks = []
    for block in anatomy.blocks():
        is_attention = isinstance(block, AttentionBlock)
        name = block.name
        kept = lineage.kept_heads(name) if is_attention else lineage.kept_neurons(name)
        dense_units = (lineage.heads if is_attention else lineage.neurons)[name]
        blocks.append(
            {
                "name": name,
                "kind": "attention" if is_attention else "mlp",
                "dense_units": dense_units,
                "kept": list(kept) if is_attention else len(kept),
                "matrices": {
                    role: _matrix(mask, patterns)
                    for role, mask in dense_connections(
                        block, kept, dense_units, eps, lineage, hidden
                    ).items()
                },
            }
        )
    return {"eps": eps, "grid": GRID, "bins": BINS, "blocks": blocks}


def hidden_places(anatomy: Anatomy) -> tuple[Tensor, int] | None:
    """Dense indices of the hidden dimensions, and the dense width; None where none was removed.

    Args:
        anatomy: the model's blocks.
    """
    lineage = anatomy.lineage
    if not lineage.plan.remove_hidden:
        return None
    return torch.tensor(lineage.kept_hidden()), lineage.width or 0


def widened(matrix: Tensor, writes: bool, hidden: tuple[Tensor, int] | None) -> Tensor:
    """A matrix with zeros, or False, where hidden dimensions were removed.

    Args:
        matrix: the matrix, on the CPU.
        writes: whether its rows are hidden dimensions (o and down); otherwise its columns are.
        hidden: what `hidden_places` says.
    """
    if hidden is None:
        return matrix
    index, width = hidden
    dim = 0 if writes else 1
    shape = (width, matrix.shape[1]) if writes else (matrix.shape[0], width)
    return matrix.new_zeros(shape).index_copy(dim, index, matrix)


def dense_connections(
    block: AttentionBlock | MLPBlock,
    kept: Sequence[int],
    dense_units: int,
    eps: float = 0.0,
    lineage: Lineage | None = None,
    hidden: tuple[Tensor, int] | None = None,
) -> dict[str, Tensor]:
    """Where connections are, for every matrix of a block, in the dense model's shape.

    Args:
        block: the block as it is.
        kept: dense indices of its units, in order.
        dense_units: units of the dense block.
        eps: entries up to it in absolute value are no connection.
        lineage: says which inputs were removed; none, where it is left out.
        hidden: what `hidden_places` says of the model.

    Returns:
        Role ("q", "k", "v", "o", or "up", "gate", "down") -> boolean matrix, (out, in).
    """
    if isinstance(block, AttentionBlock):
        heads = torch.as_tensor(kept, dtype=torch.int64)
        parts = dict(zip(_ROLES, block.matrices(), strict=True))
        group = block.group_size
        shared = torch.unique(heads // group)  # keys and values of the groups that are left
        width = block.head_dim
        masks = {
            role: _spread(
                w,
                shared if role in "kv" else heads,
                dense_units // group if role in "kv" else dense_units,
                width,
                role == "o",
                eps,
                hidden,
            )
            for role, w in parts.items()
        }
        return _with_inputs(masks, block, lineage)
    neurons = torch.as_tensor(kept, dtype=torch.int64)
    fan_in = [layer.weight for layer in block.fan_in()]
    names = ("up",) if block.gate_proj is None else ("up", "gate")
    parts = dict(zip(names, fan_in, strict=True)) | {"down": block.down_proj.weight}
    masks = {
        role: _spread(w, neurons, dense_units, 1, role == "down", eps, hidden)
        for role, w in parts.items()
    }
    return _with_inputs(masks, block, lineage)


def _with_inputs(
    masks: dict[str, Tensor], block: AttentionBlock | MLPBlock, lineage: Lineage | None
) -> dict[str, Tensor]:
    """The masks, with a column for every input that was removed."""
    roles = dict(zip(block.linears(), masks, strict=True))
    for group, layers in block.readers().items():
        if lineage is not None and lineage.removed_inputs(block.name, group):
            kept = lineage.kept_inputs(block.name, group)
            for layer in layers:
                narrow = masks[roles[layer]]
                wide = narrow.new_zeros(narrow.shape[0], lineage.inputs[block.name][group])
                wide[:, list(kept)] = narrow
                masks[roles[layer]] = wide
    return masks


@torch.no_grad()
def _spread(
    weight: Tensor,
    kept: Tensor,
    units: int,
    width: int,
    columns: bool,
    eps: float,
    hidden: tuple[Tensor, int] | None,
) -> Tensor:
    """The mask of a matrix whose units were removed, at the places they had."""
    there = widened((weight.detach().abs() > eps).cpu(), columns, hidden)
    where = (kept.unsqueeze(1) * width + torch.arange(width)).reshape(-1)
    if columns:
        mask = torch.zeros(there.shape[0], units * width, dtype=torch.bool)
        mask[:, where] = there
    else:
        mask = torch.zeros(units * width, there.shape[1], dtype=torch.bool)
        mask[where] = there
    return mask


def _matrix(mask: Tensor, patterns: bool) -> dict[str, Any]:
    dense = mask.float()
    degrees = dense.mean(dim=1)
    out: dict[str, Any] = {
        "density": round(float(dense.mean()), 6),
        "degree_mean": round(float(degrees.mean()), 6),
        "degree_sd": round(float(degrees.std(correction=0)), 6),
        "degree_histogram": torch.histc(degrees, BINS, 0.0, 1.0).int().tolist(),
    }
    if patterns:
        cells = adaptive_avg_pool2d(dense[None, None], (GRID, GRID)).flatten()
        out["pattern"] = bytes((cells * 255).round().to(torch.uint8).tolist()).hex()
    return out
