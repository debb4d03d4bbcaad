"""`neuroprune eval`: quality and size of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroprune.cli.console import UsageError, emit, guarded, quiet_libraries
from neuroprune.cli.options import ConfigFile, DataDir, Json, Seed, Settings, Threads
from neuroprune.cli.settings import load_config


@guarded
def evaluate(
    model: Annotated[str, typer.Argument(help="Directory of a saved model, or hub name.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
    seed: Seed = None,
    threads: Threads = None,
    settings: Settings = None,
    json_output: Json = False,
) -> None:
    """Measure a saved model on the test split of an experiment.

    Without --config, the record.json that `neuroprune train` left beside the model is used.
    """
    from rich.table import Table

    from neuroprune.bench.runner import evaluate_saved

    chosen = load_config(config or _neighbour(model), None, seed, threads, settings)
    quiet_libraries()
    result = evaluate_saved(chosen, model, data_dir)
    table = Table(title=model, title_justify="left", show_header=False)
    for name, value in {**result["metrics"], **result["sizes"]}.items():
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        table.add_row(name.replace("_", " "), shown)
    emit({"model": model, "split": chosen.task.eval_split, **result}, table, json_output)


def _neighbour(model: str) -> Path:
    record = Path(model).parent / "record.json"
    if not record.is_file():
        raise UsageError(
            f"give the experiment with --config: there is no {record} that `neuroprune train` "
            "would have left."
        )
    return record
