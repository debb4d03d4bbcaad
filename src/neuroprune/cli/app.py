"""The application: which command lives where. Commands import what they need when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from neuroprune.cli.bench import bench
from neuroprune.cli.console import JsonGroup
from neuroprune.cli.evaluate import evaluate
from neuroprune.cli.inspect import inspect
from neuroprune.cli.plot import plot
from neuroprune.cli.report import report
from neuroprune.cli.shrink import shrink
from neuroprune.cli.train import train

app = typer.Typer(
    name="neuroprune",
    cls=JsonGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=(
        "Make a Hugging Face transformer smaller while it is fine-tuned.\n\n"
        "Exit codes: 0 done; 1 the run failed; 2 wrong usage or input; 130 interrupted. "
        "NEUROPRUNE_DEBUG=1 shows tracebacks."
    ),
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"neuroprune {version('neuroprune')}")
        raise typer.Exit


@app.callback()
def neuroprune(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


app.command(name="train")(train)
app.command(name="eval")(evaluate)
app.command(name="shrink")(shrink)
app.command(name="inspect")(inspect)
app.add_typer(bench, name="bench")
app.command(name="plot")(plot)
app.command(name="report")(report)
