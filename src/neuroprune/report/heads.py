"""Figures 3 and 7 of the paper: which heads are removed, by layer and by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroprune.report.figure import (
    GREY,
    PALETTE,
    canvas,
    legend,
    mark,
    save,
    styles,
    whole_ticks,
)
from neuroprune.report.runs import Cell
from neuroprune.report.structures import Structure, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE = "dsp"
_NUMBERED = 16  # heads a layer up to which a square has room for its number


@dataclass(frozen=True)
class Removals:
    """How often each head is removed, over models of one shape.

    Args:
        layers: name of every attention block.
        shares: block -> head index -> share of the models in which the head is gone.
        models: how many.
    """

    layers: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    models: int

    @property
    def total(self) -> float:
        """Heads removed from one model, on average."""
        return sum(map(sum, self.shares))

    @property
    def by_layer(self) -> list[float]:
        """Share of a block's heads that is removed."""
        return [sum(row) / len(row) for row in self.shares]

    @property
    def by_index(self) -> list[float]:
        """Share of the blocks in which the head of an index is removed."""
        width = max(map(len, self.shares))
        columns = [[row[i] for row in self.shares if i < len(row)] for i in range(width)]
        return [sum(column) / len(column) for column in columns]

    def of_all_removals(self, marginal: Sequence[float]) -> list[float]:
        """A marginal as shares of their sum, so that amounts do not count; zeros for none.

        Args:
            marginal: `by_layer` or `by_index`.
        """
        whole = sum(marginal)
        return [value / whole if whole else 0.0 for value in marginal]


def removals(structures: Sequence[Structure]) -> Removals | None:
    """Count the heads that are gone.

    Args:
        structures: at least one, of models of the same shape.

    Returns:
        None where the models have no attention.
    """
    first = structures[0].attentions
    if not first:
        return None
    names = layer_names([(block.stack, block.layer) for block in first])
    labels = [
        name + (" cross" if block.is_cross else "")
        for name, block in zip(names, first, strict=True)
    ]
    gone = [
        [
            sum(head not in s.attentions[i].heads for s in structures) / len(structures)
            for head in range(block.dense_units)
        ]
        for i, block in enumerate(first)
    ]
    return Removals(tuple(labels), tuple(map(tuple, gone)), len(structures))


def by_method(series: Mapping[str, Sequence[Cell]]) -> dict[str, Removals]:
    """Removals of every method whose runs say what is left, all settings and seeds together.

    Args:
        series: settings by method.
    """
    found = {}
    for name, cells in series.items():
        structures = [s for cell in cells for s in cell.structures]
        counted = removals(structures) if structures else None
        if counted is not None:
            found[name] = counted
    return found


def plot_heads(name: str, counted: Removals, path: Path) -> tuple[Path, Path]:
    """A heat map, block by head index, with the mean of every row and column beside it.

    Args:
        name: of the method's line.
        counted: how often each head is removed.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    rows = len(counted.shares)
    with canvas(7.6, 2.3 + 0.34 * rows) as made:
        made.set_layout_engine("constrained")
        panels = made.subplots(2, 2, width_ratios=(3.4, 1), height_ratios=(0.95, 0.34 * rows))
        _draw_map(panels[1, 0], counted)
        _draw_marginals(panels[0, 0], panels[1, 1], counted)
        panels[0, 1].set_axis_off()
        title = f"{name}: heads removed, % of {counted.models} models"
        made.suptitle(title, x=0.02, ha="left", fontsize=11)
        return save(made, path)


def _draw_map(axes: Axes, counted: Removals) -> None:
    """A square per head, in a shade that tells how often it is gone."""
    import matplotlib
    from matplotlib.patches import Rectangle

    rows, columns = len(counted.shares), max(map(len, counted.shares))
    shades = matplotlib.colormaps["Blues"]
    for row, shares in enumerate(counted.shares):
        for index, share in enumerate(shares):
            patch = Rectangle((index - 0.5, row - 0.5), 1, 1, facecolor=shades(share))
            patch.set(edgecolor="#FFFFFF", linewidth=0.8)
            told = f"layer {counted.layers[row]}, head {index}: removed in {100 * share:.0f}%"
            mark(axes.add_patch(patch), f"{told} of {counted.models} models")
            if columns <= _NUMBERED:
                ink = "#FEFEFE" if share > 0.55 else "#333333"
                said = f"{100 * share:.0f}"
                axes.text(index, row, said, ha="center", va="center", fontsize=7, color=ink)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xlabel="head index")
    axes.set(xticks=range(columns), ylabel="layer")
    axes.set_yticks(range(rows), counted.layers)
    axes.grid(False)
    axes.tick_params(length=0, labelsize=8)


def _draw_marginals(top: Axes, side: Axes, counted: Removals) -> None:
    """Bars: the mean over the layers above, over the heads at the side."""
    by_index, by_layer = ([100 * v for v in m] for m in (counted.by_index, counted.by_layer))
    rows, columns = len(by_layer), len(by_index)
    for index, bar in enumerate(top.bar(range(columns), by_index, color=PALETTE[0], width=0.7)):
        mark(bar, f"head {index}: removed in {by_index[index]:.0f}% of layers and models")
    top.set(xlim=(-0.5, columns - 0.5), ylim=(0, 100), xticks=[], ylabel="%")
    for row, bar in enumerate(side.barh(range(rows), by_layer, color=PALETTE[0], height=0.7)):
        mark(bar, f"layer {counted.layers[row]}: {by_layer[row]:.0f}% of its heads removed")
    side.set(ylim=(rows - 0.5, -0.5), xlim=(0, 100), yticks=[], xlabel="%")


def plot_relative(
    counted: Mapping[str, Removals], reference: str, among: Sequence[str], path: Path
) -> tuple[Path, Path]:
    """Where each method's removals fall, beside the reference's: by head index and by layer.

    Args:
        counted: removals by method, the reference among them.
        reference: name of the method that the others are compared with.
        among: all methods of the experiment, which have their colours in this order.
        path: of the two files, with or without ".svg" or ".png".

    Returns:
        The SVG and the PNG.

    Raises:
        ReportError: matplotlib is missing.
    """
    names = [name for name in counted if name != reference]
    looks = styles(among)
    with canvas(8.6, 4.0) as made:
        made.set_layout_engine("constrained")
        panels = made.subplots(1, 2)
        handles = {}
        for axes, what in zip(panels, ("head index", "layer"), strict=True):
            for name in [reference, *names]:
                found = counted[name]
                marginal = found.by_index if what == "head index" else found.by_layer
                values = [100 * value for value in found.of_all_removals(marginal)]
                color, sign = (GREY, "o") if name == reference else looks[name]
                (handles[name],) = axes.plot(
                    range(len(values)),
                    values,
                    color=color,
                    marker=sign,
                    markersize=4.5,
                    linestyle="--" if name == reference else "-",
                )
                for place, value in enumerate(values):
                    (tip,) = axes.plot([place], [value], marker=sign, color=color, markersize=6)
                    where = found.layers[place] if what == "layer" else place
                    mark(tip, f"{name}: {value:.1f}% of its removals at {what} {where}")
            axes.set(xlabel=what, ylim=(0, None))
            whole_ticks(axes)
            if what == "layer":
                labels = counted[reference].layers
                axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 8 else 0)
        panels[0].set_ylabel("share of the method's removals (%)")
        made.suptitle(f"Removed heads, beside {reference}", x=0.02, ha="left", fontsize=11)
        legend(made, list(handles.values()), list(handles))
        return save(made, path)
