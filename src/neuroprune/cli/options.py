"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on standard output, and nothing else."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Experiment as TOML, or a RunRecord (.json) to run again.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="NEUROPRUNE_DATA",
        help="Folder that the data files of a configuration are relative to.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="In place of the configuration's seed.", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads; torch chooses where absent.", show_default=False),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="In place of the configuration's model: directory, pypi:PACKAGE or hub name.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting in place of the configuration's, such as training.epochs=1. Repeatable.",
        show_default=False,
    ),
]
TargetText = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="In place of the configuration's method: NeuroPrune until this is reached. 0.8 "
        "(structural sparsity), flops:0.25, latency:0.3@32x128 (share kept, batch x tokens), "
        "parameters:5000000 or weights:0.8.",
        show_default=False,
    ),
]
HeadCount = Annotated[
    int | None,
    typer.Option(
        "--heads",
        min=0,
        help="Attention heads to keep; alone or with --target, and as it in place of the method.",
        show_default=False,
    ),
]
