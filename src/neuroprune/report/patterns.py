"""Figures 1 and 8 to 10 of the paper: which connections of every matrix are left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.report.figure import GREY, ReportError, canvas, mark, save
from neuroprune.report.structures import ROLES, Block, Structure, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 0.92  # inches of one pattern, where there is room
_WIDEST = 12.0
_GAMMA = 0.5  # of the shade: a density of 0.05 must not look like none


def plot_patterns(structure: Structure, title: str, path: Path) -> tuple[Path, Path]:
    """Small multiples: a row per matrix (Q, K, V, O, MLP-in, MLP-out), a column per layer.

    Args:
        structure: what is left of a model.
        title: above the picture.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG. In the SVG, everything of layer i has the classes "layer layer-i".

    Raises:
        ReportError: no matrix has a pattern, or matplotlib is missing.
    """
    layers = structure.layers
    found = {
        (layer, role): (block, matrix.pattern, matrix.density)
        for layer in layers
        for block in structure.pruned
        if (block.stack, block.layer) == layer
        for role, matrix in block.matrices.items()
        if matrix.pattern is not None
    }
    roles = [role for role in ROLES if any(key[1] == role for key in found)]
    if not roles:
        raise ReportError(f"{title}: the record has no patterns. Run the experiment again.")
    side = min(_SIDE, _WIDEST / len(layers))
    width, height = side * len(layers) + 1.9, side * len(roles) + 1.5
    names = layer_names(layers)
    with canvas(width, height) as made:
        made.suptitle(title, x=0.02, y=1.0 - 0.14 / height, ha="left", va="top", fontsize=11)
        frame = (
            0.95 / width,
            0.65 / height,
            side * len(layers) / width,
            side * len(roles) / height,
        )
        axes = made.add_axes(frame)
        for column, layer in enumerate(layers):
            for row, role in enumerate(roles):
                if (layer, role) not in found:
                    continue
                block, pattern, density = found[layer, role]
                said = (
                    f"layer {names[column]}, {ROLES[role]}: density {density:.3f}, {_left(block)}"
                )
                _draw(axes, pattern, structure.grid, (column, row), said)
            blocks = [b for b in structure.pruned if (b.stack, b.layer) == layer]
            _name_column(axes, column, names[column], blocks, len(roles))
        for row, role in enumerate(roles):
            axes.text(-0.12, row + 0.5, ROLES[role], ha="right", va="center", fontsize=10)
        axes.set(xlim=(0, len(layers)), ylim=(len(roles), 0), xticks=[], yticks=[], aspect="auto")
        axes.set_frame_on(False)
        bar = made.add_axes(
            (1.0 - 0.72 / width, frame[1], 0.14 / width, min(frame[3], 2.2 / height))
        )
        made.colorbar(axes.images[0], cax=bar, ticks=[0, 0.05, 0.25, 0.5, 1.0])
        bar.set_title("density", fontsize=8, loc="left")
        bar.tick_params(labelsize=8)
        return save(made, path)


def _draw(axes: Axes, pattern: bytes, grid: int, place: tuple[int, int], said: str) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    column, row = place
    cells = [[pattern[i * grid + j] / 255 for j in range(grid)] for i in range(grid)]
    part = f"layer layer-{column}"
    gap = 0.05
    image = axes.imshow(
        cells,
        cmap="Blues",
        norm=PowerNorm(_GAMMA, 0.0, 1.0),
        interpolation="none",
        extent=(column + gap, column + 1 - gap, row + 1 - gap, row + gap),
    )
    mark(image, part=part)
    edge = Rectangle(
        (column + gap, row + gap),
        1 - 2 * gap,
        1 - 2 * gap,
        facecolor="none",
        edgecolor=GREY,
        linewidth=0.5,
    )
    mark(axes.add_patch(edge), said, part)


def _left(block: Block) -> str:
    return (
        f"{block.kept} of {block.dense_units} {'heads' if block.is_attention else 'neurons'} left"
    )


def _name_column(axes: Axes, column: int, name: str, blocks: Sequence[Block], bottom: int) -> None:
    part = f"layer layer-{column}"
    middle = column + 0.5
    above = axes.text(middle, -0.05, name, ha="center", va="bottom", fontsize=9)
    told = [
        f"{block.kept}/{block.dense_units} {'cross' if block.is_cross else 'heads'}"
        if block.is_attention
        else f"{block.kept}/{block.dense_units}"
        for block in blocks
    ]
    below = axes.text(
        middle, bottom + 0.06, "\n".join(told), ha="center", va="top", fontsize=7, color=GREY
    )
    for text in (above, below):
        mark(text, part=part)
