"""The `structure` of a record as typed values: blocks, their layer, and what is left of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroprune.report.figure import ReportError

_LAYER = re.compile(r"(?P<stack>[^.]+)\.(?:.*?\.)?(?P<number>\d+)(?:\.|$)")
# Role of a matrix -> what it is called in figures, in the order of the paper.
ROLES = {
    "q": "Q",
    "k": "K",
    "v": "V",
    "o": "O",
    "cross q": "cross Q",
    "cross k": "cross K",
    "cross v": "cross V",
    "cross o": "cross O",
    "up": "MLP-in",
    "gate": "MLP gate",
    "down": "MLP-out",
}


@dataclass(frozen=True)
class Matrix:
    """What is left of one matrix, in the dense model's shape.

    Args:
        density: share of its entries that are connections.
        mean: mean degree of its rows, in [0, 1].
        sd: population standard deviation of the degrees.
        histogram: rows by degree, in equal bins of [0, 1].
        pattern: density of connections in a grid of cells, row by row in [0, 255]; None where the
            record has none.
    """

    density: float
    mean: float
    sd: float
    histogram: tuple[int, ...]
    pattern: bytes | None

    @property
    def rows(self) -> int:
        """Rows of the dense matrix."""
        return sum(self.histogram)


@dataclass(frozen=True)
class Block:
    """What is left of an attention or an MLP.

    Args:
        name: dotted path in the model.
        stack: first part of the name, such as "encoder".
        layer: number of its layer in the stack.
        is_attention: heads or neurons.
        is_cross: attention of a decoder to its encoder.
        dense_units: heads or neurons of the dense block.
        heads: dense indices of the heads that are left; empty for an MLP.
        kept: units that are left.
        matrices: by key of `ROLES`.
        importance: of each head that is left, >= 0; empty where the record does not say it.
    """

    name: str
    stack: str
    layer: int
    is_attention: bool
    is_cross: bool
    dense_units: int
    heads: tuple[int, ...]
    kept: int
    matrices: Mapping[str, Matrix]
    importance: tuple[float, ...] = ()


@dataclass(frozen=True)
class Structure:
    """The blocks of the dense and of the pruned model.

    Args:
        grid: cells a side of a pattern.
        bins: of a histogram of degrees.
        dense: its blocks; empty where the record has none.
        pruned: its blocks.
    """

    grid: int
    bins: int
    dense: tuple[Block, ...]
    pruned: tuple[Block, ...]

    @property
    def attentions(self) -> tuple[Block, ...]:
        """Attention blocks of the pruned model, in the order of the record."""
        return tuple(block for block in self.pruned if block.is_attention)

    @property
    def heads_kept(self) -> int:
        """Heads of the pruned model."""
        return sum(block.kept for block in self.attentions)

    @property
    def has_patterns(self) -> bool:
        """Whether any matrix says where its connections are."""
        return any(m.pattern is not None for b in self.pruned for m in b.matrices.values())

    @property
    def heads_dense(self) -> int:
        """Heads of the dense model."""
        return sum(block.dense_units for block in self.attentions)

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Stack and number of every layer, in the order of the record."""
        return tuple(dict.fromkeys((block.stack, block.layer) for block in self.pruned))

    @property
    def shape(self) -> tuple[tuple[str, int], ...]:
        """Names, dense units, bins: models of one shape can be laid on each other."""
        units = tuple((block.name, block.dense_units) for block in self.pruned)
        return (*units, ("bins", self.bins))


def layer_names(layers: Sequence[tuple[str, int]]) -> list[str]:
    """Short names of layers: the number, and with several stacks their first letters.

    Args:
        layers: stack and number of each.
    """
    several = len({stack for stack, _ in layers}) > 1
    return [f"{stack[:3]} {number}" if several else str(number) for stack, number in layers]


def read_structure(data: Mapping[str, Any], path: Path) -> Structure | None:
    """The `structure` field of a record.

    Args:
        data: the field.
        path: the record's file, for the message.

    Returns:
        None where the record has no structure.

    Raises:
        ReportError: it is of another form, or says what no model can be; the file is named.
    """
    if not data:
        return None
    try:
        pruned = data["pruned"]
        sizes = int(pruned["grid"]), int(pruned["bins"])
        dense = data.get("dense", {}).get("blocks", ())
        return Structure(
            *sizes,
            tuple(_block(block, sizes) for block in dense),
            tuple(_block(block, sizes) for block in pruned["blocks"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{path}: expected a structure with the blocks of the dense and the pruned model, got "
            f"another form ({type(error).__name__}: {error}). Run the experiment again."
        ) from error


def _block(data: Mapping[str, Any], sizes: tuple[int, int]) -> Block:
    name, is_attention = str(data["name"]), data["kind"] == "attention"
    found = _LAYER.match(name)
    cross = is_attention and any(word in name.lower() for word in ("cross", "encdec"))
    prefix = "cross " if cross else ""
    units = int(data["dense_units"])
    heads = tuple(int(head) for head in data["kept"]) if is_attention else ()
    kept = len(heads) if is_attention else int(data["kept"])
    if not 0 <= kept <= units or len(set(heads)) < len(heads) or set(heads) - set(range(units)):
        raise ValueError(f"{name} keeps {data['kept']} of {units} units")
    matrices = {prefix + role: _matrix(m, sizes) for role, m in data["matrices"].items()}
    importance = tuple(float(value) for value in data.get("importance", ()))
    if importance and len(importance) != kept:
        raise ValueError(f"{name} has {kept} heads and the importance of {len(importance)}")
    if not all(0.0 <= value < math.inf for value in importance):
        raise ValueError(f"the importance of a head is at least 0, got {list(importance)}")
    unknown = set(matrices) - set(ROLES)
    if unknown:
        raise ValueError(f"unknown matrices {sorted(unknown)} in {name}")
    return Block(
        name=name,
        stack=found["stack"] if found else name.partition(".")[0],
        layer=int(found["number"]) if found else 0,
        is_attention=is_attention,
        is_cross=cross,
        dense_units=units,
        heads=heads,
        kept=kept,
        matrices=matrices,
        importance=importance,
    )


def _matrix(data: Mapping[str, Any], sizes: tuple[int, int]) -> Matrix:
    grid, bins = sizes
    pattern = bytes.fromhex(data["pattern"]) if "pattern" in data else None
    if pattern is not None and len(pattern) != grid * grid:
        raise ValueError(f"a pattern has {grid * grid} cells, got {len(pattern)}")
    histogram = tuple(int(count) for count in data["degree_histogram"])
    if len(histogram) != bins or min(histogram) < 0:
        raise ValueError(f"a histogram has {bins} numbers of rows, got {list(histogram)}")
    shares = [float(data[key]) for key in ("density", "degree_mean", "degree_sd")]
    if not all(0.0 <= share <= 1.0 for share in shares):
        raise ValueError(f"density and degrees are in [0, 1], got {shares}")
    density, mean, sd = shares
    return Matrix(density, mean, sd, histogram, pattern)
