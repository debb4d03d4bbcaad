"""`neuroprune plot`: quality against speed and size, from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.cli.console import UsageError, emit, guarded
from neuroprune.cli.options import Json
from neuroprune.cli.settings import chosen_names

if TYPE_CHECKING:
    from neuroprune.report.pareto import Records


@guarded
def plot(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of one experiment's records, such as benchmarks/results/sst2; a folder "
            "that `train` left; or a JSON file of snapshots."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the plots.")] = Path("runs/plots"),
    metric: Annotated[
        str | None,
        typer.Option(help="Quality metric; the first of the records.", show_default=False),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Batch size of the speed-up; all that every record has. Repeatable.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only the settings called so: METHOD-SETTING, with * and ?. Repeatable.",
            show_default=False,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Draw quality against speed-up and structural sparsity, as SVG and PNG."""
    from neuroprune.report.pareto import (
        plot_quality_against_sparsity,
        plot_quality_against_speed,
        plot_snapshots,
    )

    name = source.resolve().stem if source.is_file() else source.resolve().name
    if source.is_file():
        if only:
            raise UsageError("--only chooses among a folder's settings, and a file has none.")
        files = [*plot_snapshots(source, out / name)]
    else:
        records = _records(source)
        wanted = chosen_names(records, only)
        records = {label: group for label, group in records.items() if label in wanted}
        chosen = metric or _first_metric(records, source)
        files = [*plot_quality_against_sparsity(records, chosen, out / f"{name}-sparsity")]
        for size in batch or _common_batches(records):
            stem = out / f"{name}-speed-batch-{size}"
            files += plot_quality_against_speed(records, chosen, size, stem)
    emit({"plots": [str(file) for file in files]}, "\n".join(map(str, files)), json_output)


def _records(source: Path) -> Records:
    """Records by the name of their setting."""
    from neuroprune.bench.tables import load_records
    from neuroprune.record import RunRecord

    single = source / "record.json"
    if single.is_file():
        record = RunRecord.load(single)
        return {record.method: [record]}
    if not source.is_dir() or not any(source.rglob("*.json")):
        what = "no record below it" if source.is_dir() else "no such file or folder"
        raise UsageError(
            f"{source}: {what}. Give a folder of records such as benchmarks/results/sst2, as "
            "`neuroprune bench run` makes them, or one that `neuroprune train` left."
        )
    return load_records(source, ".")


def _first_metric(records: Records, source: Path) -> str:
    names = next(iter(records.values()))[0].metrics.get("names")
    if not names:
        raise UsageError(
            f"{source}: expected records of trainings, got those of a measurement without quality."
        )
    return str(names[0])


def _common_batches(records: Records) -> list[int]:
    """Batch sizes whose speed-up every record has; none is no error, speed need not be measured."""
    sizes = [
        set(record.speeds.get("speedup", {}).get("pruned", {}))
        for group in records.values()
        for record in group
    ]
    return sorted(map(int, set.intersection(*sizes)))
