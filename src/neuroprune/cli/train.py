"""`neuroprune train`: dense and pruned fine-tuning side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroprune.cli.answers import answers
from neuroprune.cli.console import emit, guarded, loader, quiet_libraries
from neuroprune.cli.options import (
    ConfigFile,
    DataDir,
    HeadCount,
    Json,
    Seed,
    Settings,
    Source,
    TargetText,
    Threads,
)
from neuroprune.cli.settings import Asked, load_config

if TYPE_CHECKING:
    from rich.console import RenderableType

    from neuroprune.record import RunRecord


@guarded
def train(
    config: ConfigFile = None,
    out: Annotated[Path, typer.Option(help="Folder for dense/, pruned/ and record.json.")] = Path(
        "runs/train"
    ),
    target: TargetText = None,
    heads: HeadCount = None,
    snapshots: Annotated[
        str | None,
        typer.Option(
            help="Structural sparsities at which a model is saved on the way, such as 0.5,0.7,0.8.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help='Distil from "dense", the model training starts from, "finetuned", the dense run, '
            "or a directory or hub name.",
            show_default=False,
        ),
    ] = None,
    uniform: Annotated[
        bool | None,
        typer.Option(
            "--uniform/--no-uniform", help="Equal shapes in all layers.", show_default=False
        ),
    ] = None,
    model: Source = None,
    data_dir: DataDir = None,
    seed: Seed = None,
    threads: Threads = None,
    settings: Settings = None,
    json_output: Json = False,
) -> None:
    """Fine-tune a model densely and with a pruning method, compare, and save both.

    --target and --heads take the place of the configuration's method, and of a target it has.
    """
    from neuroprune.bench.runner import run
    from neuroprune.checkpoint import loads_with
    from neuroprune.cli.progress import ShownProgress

    asked = Asked(target=target, heads=heads, snapshots=snapshots, teacher=teacher, uniform=uniform)
    chosen = load_config(config, model, seed, threads, settings, asked)
    chosen = chosen.with_seed(chosen.training.seed)  # one run, also of a repeated experiment
    quiet_libraries()
    with ShownProgress() as progress:
        record = run(chosen, out, data_dir, progress)
    record.save(out / "record.json")
    payload = {"out": str(out), "loads_with": loads_with(out / "pruned"), **record.to_dict()}
    emit(payload, summary(record, out), json_output)


def summary(record: RunRecord, out: Path) -> RenderableType:
    """One table, dense | pruned, and where everything is."""
    from rich.console import Group
    from rich.table import Table

    table = Table(title=f"{record.task}: {record.method}, seed {record.seed}", title_justify="left")
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("pruned", justify="right")
    for row in rows(record):
        table.add_row(*row)
    saved = f"saved: {out / 'dense'}, {out / 'pruned'}"
    return Group(table, *footnotes(record), f"pruned {loader(out / 'pruned')}", saved)


def rows(record: RunRecord) -> list[tuple[str, str, str]]:
    """Title, dense and pruned value of every line of the table."""

    def pair(section: str, *keys: str) -> list[Any]:
        values = []
        for side in ("dense", "pruned"):
            value: Any = getattr(record, section).get(side, {})
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            values.append(value)
        return values

    def row(title: str, form: str, scale: float, section: str, *keys: str) -> None:
        values = pair(section, *keys)
        if any(value is not None for value in values):
            shown = ["-" if v is None else format(v * scale, form) for v in values]
            out.append((title, shown[0], shown[1]))

    out: list[tuple[str, str, str]] = []
    for name in record.metrics.get("names", ()):
        row(name, ".4f", 1.0, "metrics", name)
    row("weight sparsity [1]", ".1%", 1.0, "sizes", "weight_sparsity")
    row("structural sparsity [2]", ".1%", 1.0, "sizes", "structural_sparsity")
    row("parameters", ",.0f", 1.0, "sizes", "parameters")
    row("MB on disk", ".1f", 1e-6, "sizes", "bytes_on_disk")
    row("GFLOPs a forward pass", ".2f", 1e-9, "sizes", "flops")
    for batch in record.speeds.get("dense", {}):
        row(f"latency, batch {batch} (ms)", ".1f", 1e3, "speeds", batch, "median")
    row("training (s)", ".1f", 1.0, "training", "seconds")
    return out


def footnotes(record: RunRecord) -> list[str]:
    """What the shares are shares of, what was removed, and how the times were taken."""
    dense = record.sizes.get("dense", {}).get("dense_weights", 0)
    threads = record.environment.get("threads")
    timed = record.speeds.get("conditions", {}).get("timed", "nothing")
    pruned = record.training.get("pruned", {})
    inputs = f", {pruned['removed_inputs']} inputs" if "removed_inputs" in pruned else ""
    lines = [f"asked: {target}; {answer}" for target, answer in answers(record)]
    lines += [
        f"\\[1] zero or removed, \\[2] removed: shares of the dense model's {dense:,} weights of "
        "q, k, v, o, up, gate and down (no biases, embeddings or head)",
        f"removed: {pruned.get('removed_heads', 0)} heads, {pruned.get('removed_neurons', 0)} "
        f"neurons{inputs}",
        f"latency: {timed}, median, dense and pruned in turns, {threads} "
        f"thread{'' if threads == 1 else 's'}; quality: measured on the saved models in a fresh "
        "process",
    ]
    if not record.metrics.get("reload_matches", True):
        lines.append("WARNING: the reloaded model's quality differs from the trained model's")
    return lines
