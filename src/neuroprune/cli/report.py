"""`neuroprune report`: one page with tables, comparisons and figures, from records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.cli.console import counted, emit, guarded
from neuroprune.cli.options import Json

if TYPE_CHECKING:
    from neuroprune.report.runs import Experiment


def _unfinished(results: Path, experiment: Experiment) -> Sequence[str]:
    """What the configurations beside the results want and is not there."""
    from neuroprune.bench.captions import unfinished
    from neuroprune.report.runs import lacking

    if experiment.name != experiment.folder:  # one of several: whose cells would be missing?
        return [*lacking(experiment), "what its configuration wants besides was not looked up."]
    root = results.resolve()
    if not (root / experiment.name).is_dir():  # one experiment was given, or one of its cells
        root = next((p for p in root.parents if (p / experiment.name).is_dir()), root)
    groups = {cell.label: cell.records for cell in experiment.cells}
    text = unfinished(root, experiment.name, groups)
    return [text] if text else []


def _notes(results: Path) -> list[str]:
    """What was not begun of all that is wanted beside the results."""
    from neuroprune.bench.sources import not_begun

    names = not_begun(results.resolve())
    return [f"not begun, though it is there to be run: {', '.join(names)}."] if names else []


@guarded
def report(
    results: Annotated[
        Path,
        typer.Argument(
            help="Folder of records, as `neuroprune bench run` makes it, or of one experiment; or "
            "a folder that `train` left."
        ),
    ] = Path("benchmarks/results"),
    out: Annotated[Path, typer.Option(help="Folder of the page and its figures.")] = Path(
        "runs/report"
    ),
    json_output: Json = False,
) -> None:
    """Write one HTML page with the tables and the paper's figures of all runs in a folder.

    Figures stand in the page, and beside it as SVG and PNG. What is missing, failed or made with
    another configuration is named.
    """
    from neuroprune.report.names import number
    from neuroprune.report.page import write_report

    with counted("figures") as step:
        made = write_report(results, out, partial(_unfinished, results), step, _notes(results))
    lines = [f"note: {warning}" for warning in made.warnings]
    figures = number(len(made.figures) // 2, "figure")
    lines.append(f"{number(made.runs, 'run')}, {figures}: {made.page}")
    payload = {
        "page": str(made.page),
        "figures": [str(file) for file in made.figures],
        "runs": made.runs,
        "warnings": list(made.warnings),
    }
    emit(payload, "\n".join(lines), json_output)
