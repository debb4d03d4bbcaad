"""`neuroprune inspect`: every block of a model, and what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.cli.console import UsageError, emit, guarded, quiet_libraries
from neuroprune.cli.options import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from neuroprune.topology.sparsity import BlockReport, SparsityReport


@guarded
def inspect(
    model: Annotated[str, typer.Argument(help="Directory, pypi:PACKAGE or hub name.")],
    eps: Annotated[float, typer.Option(min=0.0, help="A weight below it is no connection.")] = 1e-4,
    topology: Annotated[
        bool,
        typer.Option(
            "--topology",
            help="Also describe the graphs of the layers, which takes seconds for each block.",
        ),
    ] = False,
    before: Annotated[
        str | None,
        typer.Option(
            help="With --topology: the dense model it came from, to say what changed.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """List every attention and MLP block: heads, neurons, both sparsities, connectivity."""
    if before is not None and not topology:
        raise UsageError("--before compares graphs of layers: give --topology, too.")
    from rich.console import Group

    from neuroprune.anatomy import anatomy_of
    from neuroprune.bench.models import load_any
    from neuroprune.topology.sparsity import inspect_blocks, sparsity

    quiet_libraries()
    loaded, _ = load_any(model)
    anatomy = anatomy_of(loaded)
    blocks, total = inspect_blocks(anatomy, eps), sparsity(anatomy)
    payload = {
        "model": model,
        "model_type": anatomy.model_type,
        "class": type(loaded).__name__,
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "eps": eps,
        "blocks": [block.to_dict() for block in blocks],
        **total.to_dict(),
    }
    shown = [_table(Path(model).name, anatomy.model_type, blocks, total, eps)]
    lineage = anatomy.lineage
    if lineage.plan.remove_hidden:
        payload["hidden"] = {"kept": len(lineage.kept_hidden()), "dense": lineage.width}
        shown.append(f"hidden dimensions: {len(lineage.kept_hidden())} of {lineage.width}.")
    if topology:
        from neuroprune.cli.topology import described

        dense = None if before is None else anatomy_of(load_any(before)[0])
        payload["topology"], more = described(anatomy, dense, eps)
        shown += ["", *more]
    emit(payload, Group(*shown), json_output)


def _table(
    title: str, model_type: str, blocks: list[BlockReport], total: SparsityReport, eps: float
) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table(title=f"{title} ({model_type})", title_justify="left", show_footer=True)
    table.add_column("block", footer="all", overflow="fold")
    for name, footer in (
        ("heads", str(sum(b.units for b in blocks if b.kind == "attention"))),
        ("neurons", str(sum(b.units for b in blocks if b.kind == "mlp"))),
        ("weight sparsity", f"{total.weight_sparsity:.1%}"),
        ("structural sparsity", f"{total.structural_sparsity:.1%}"),
        ("connectivity", ""),
        ("sd", ""),
    ):
        table.add_column(name, footer=footer, justify="right")
    for block in blocks:
        units = f"{block.units} of {block.dense_units}"
        table.add_row(
            block.name,
            units if block.kind == "attention" else "",
            units if block.kind == "mlp" else "",
            f"{block.sparsity.weight_sparsity:.1%}",
            f"{block.sparsity.structural_sparsity:.1%}",
            f"{block.connectivity_mean:.3f}",
            f"{block.connectivity_sd:.3f}",
        )
    notes = (
        "weight sparsity: zero or removed; structural sparsity: removed. Both are shares of the "
        f"dense model's {total.dense_weights:,} weights of q, k, v, o, up, gate and down.",
        f"connectivity: share of a row's weights that are at least {eps:g}; mean and standard "
        "deviation over the rows of the block's matrices.",
    )
    return Group(table, *notes)
