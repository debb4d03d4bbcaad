"""`neuroprune inspect --topology`: the graphs of the layers, before and after, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuroprune.cli.console import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from neuroprune.anatomy import Anatomy
    from neuroprune.topology.graph import BlockGraph, GraphReport

_ARROW = " -> "


def described(
    anatomy: Anatomy, before: Anatomy | None, eps: float
) -> tuple[dict[str, Any], list[RenderableType]]:
    """Graph reports of a model and of the dense one it came from, and a reading of both.

    Args:
        anatomy: the model's blocks.
        before: those of the dense model, if it is given.
        eps: entries up to it in absolute value are no connection.

    Returns:
        JSON-ready {"after", "before", "reading"}, the last two only where `before` is given; and
        what to print.
    """
    from neuroprune.topology.graph import graph_report
    from neuroprune.topology.reading import reading

    with counted("graphs of the layers") as step:
        after = graph_report(anatomy, eps, progress=step)
    payload: dict[str, Any] = {"after": after.to_dict()}
    if before is None:
        return payload, [_table(after, None), *_NOTES]
    with counted("graphs of the dense model") as step:
        dense = graph_report(before, eps, progress=step)
    sentences = reading(dense, after)
    payload |= {"before": dense.to_dict(), "reading": sentences}
    return payload, [_table(after, dense), *_NOTES, "", *sentences]


_NOTES = (
    "degree: connections of a neuron or of a head's feature; Gini: how unequally they are shared, "
    "0 to 1.",
    "strongest 5%: the graph of the strongest connections, at equal density in every model. tail: "
    "exponent of the power law that fits its degrees best; * heavier than an exponential. Q: "
    "modularity, and that of random graphs; sigma: small-worldness, 1 for a random graph.",
    "rank: effective rank as a share of a matrix's smaller side, mean over the block's matrices.",
)


def _table(after: GraphReport, before: GraphReport | None) -> RenderableType:
    from rich.table import Table

    title = "graphs of the layers" + ("" if before is None else ", before -> after")
    table = Table(title=title, title_justify="left")
    table.add_column("block", overflow="fold")
    for name in ("degree", "Gini", "strongest 5%: Gini", "tail", "Q", "Q random", "sigma", "rank"):
        table.add_column(name, justify="right")
    for i, block in enumerate(after.blocks):
        rows = [_cells(block)] if before is None else [_cells(before.blocks[i]), _cells(block)]
        cells = [_ARROW.join(dict.fromkeys(column)) for column in zip(*rows, strict=True)]
        table.add_row(block.name, *cells)
    return table


def _cells(block: BlockGraph) -> list[str]:
    from neuroprune.topology.reading import rank_share

    graph, share = block.backbone, rank_share(block)
    tail, sigma = graph.degrees.tail, graph.small_world.sigma
    return [
        f"{block.degrees.mean:.0f}",
        f"{block.degrees.gini:.2f}",
        f"{graph.degrees.gini:.2f}",
        "-" if tail.alpha is None else f"{tail.alpha:.1f}{'*' if tail.is_heavy else ''}",
        f"{graph.modularity:.2f}",
        f"{graph.modularity_random:.2f}",
        "-" if sigma is None else f"{sigma:.2f}",
        "-" if share is None else f"{share:.0%}",
    ]
