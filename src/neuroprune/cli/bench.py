"""`neuroprune bench`: run experiments and matrices, say how far they are, and make the tables."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroprune.cli.console import FAILED, UsageError, emit, guarded, quiet_libraries
from neuroprune.cli.options import (
    DataDir,
    HeadCount,
    Json,
    Settings,
    Source,
    TargetText,
    Threads,
)
from neuroprune.cli.settings import Asked, changed, chosen_names

if TYPE_CHECKING:
    from rich.console import RenderableType

    from neuroprune.bench.status import Cell
    from neuroprune.bench.suite import Job
    from neuroprune.record import RunRecord

bench = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run experiments and matrices of methods, sparsities and seeds into records and tables.",
)

Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Experiment folders, configurations, matrices, or folders of them.",
        show_default=False,
    ),
]
Results = Annotated[Path, typer.Option("--out", help="Folder of the records.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Of these, only what is called so: TASK/METHOD-SETTING, with * and ?. Repeatable.",
        show_default=False,
    ),
]
_RESULTS = Path("benchmarks/results")


@bench.command()
@guarded
def run(
    paths: Paths,
    out: Results = _RESULTS,
    work: Annotated[Path, typer.Option(help="Folder for models.")] = Path("runs/bench"),
    keep_models: Annotated[
        bool, typer.Option(help="Keep the models there, dense and pruned, in TASK/SETTING/seed-N.")
    ] = False,
    only: Only = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="In place of the files' seeds. Repeatable.", show_default=False),
    ] = None,
    target: TargetText = None,
    heads: HeadCount = None,
    model: Source = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    json_output: Json = False,
) -> None:
    """Run what has no record yet, the first seed of everything before the second.

    What is done is never repeated, so that an interrupted command goes on where it was. A copy of
    the files stays among the records, by which a report knows what was wanted. With
    --target or --heads, a task's experiments become one: its records go to
    OUT/TASK/neuroprune-TARGET.

    Exit codes: 0 all is done; 1 something failed; 2 wrong usage or input.
    """
    from neuroprune.bench.matrix import plan
    from neuroprune.bench.sources import keep_sources
    from neuroprune.bench.suite import seed_by_seed

    change = partial(
        changed,
        where="the configuration",
        model=model,
        threads=threads,
        settings=settings,
        asked=Asked(target=target, heads=heads),
    )
    meant = {job.name for job in _matching(plan(paths, out).jobs, only)} if only else None
    wanted = meant.__contains__ if meant is not None else lambda name: True
    found = list(plan(paths, out, seed, change, wanted).jobs)
    if target is not None or heads is not None:
        found = _named_by_target(found, out)
    todo = seed_by_seed(found)
    if dry_run:
        titles = [job.title for job in todo if not job.done]
        shown = [f"would run {title}" for title in titles] or ["nothing to run"]
        emit({"would_run": titles}, "\n".join(shown), json_output)
        return
    if not any((target, heads, model, threads, settings)):  # else the files say something else
        keep_sources(paths, out)
    if _run(todo, work, data_dir, keep_models, json_output):
        raise typer.Exit(FAILED)


@bench.command()
@guarded
def status(
    paths: Paths, out: Results = _RESULTS, only: Only = None, json_output: Json = False
) -> None:
    """Say how many of the wanted seeds are done, and what failed, is stale or missing.

    A record is stale when it was made with another configuration than the file has now, or is of
    another record version. Exit codes: 0 all is done; 1 something is not; 2 wrong usage or input.
    """
    from neuroprune.bench.matrix import plan
    from neuroprune.bench.status import cells_of, strays
    from neuroprune.bench.suite import State

    asked = plan(paths, out)
    cells = cells_of(_matching(asked.jobs, only))
    foreign = strays(asked)
    done = sum(len(cell.of(State.DONE)) for cell in cells)
    wanted = sum(len(cell.seeds) for cell in cells)
    payload = {
        "cells": [cell.to_dict() for cell in cells],
        "foreign": foreign,
        "done": done,
        "wanted": wanted,
    }
    emit(payload, _status_table(cells), json_output)
    if not json_output:
        lines = [f"{name}: asked for by no experiment: {what}" for name, what in foreign.items()]
        emit({}, "\n".join([*lines, f"{done} of {wanted} runs done"]), False)
    if done < wanted:
        raise typer.Exit(FAILED)


@bench.command()
@guarded
def table(
    document: Annotated[Path, typer.Argument(help="The document, Markdown.")] = Path("README.md"),
    out: Results = _RESULTS,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail where a table is out of date.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Bring tables and numbers of a document up to date: what stands between its markers."""
    from neuroprune.bench.tables import render_file, stale_tables

    if not check:
        rendered = render_file(document, out)
        state = "tables brought up to date" if rendered else "tables were up to date"
        emit({"rendered": rendered}, f"{document}: {state}", json_output)
        return
    stale = stale_tables(document, out)
    remedy = f"not up to date: {', '.join(stale)}; run `neuroprune bench table {document}`"
    emit({"stale": stale}, f"{document}: {remedy if stale else 'up to date'}", json_output)
    if stale:
        raise typer.Exit(FAILED)


def _matching(jobs: Iterable[Job], patterns: Sequence[str] | None) -> list[Job]:
    """Jobs whose name matches one of the patterns."""
    found = list(jobs)
    wanted = chosen_names((job.name for job in found), patterns)
    return [job for job in found if job.name in wanted]


def _named_by_target(found: Iterable[Job], out: Path) -> list[Job]:
    """Jobs under the name of what is asked for: a folder's own name says another method."""
    jobs: dict[Path, Job] = {}
    for job in found:
        asked = "-".join(map(str, getattr(job.config.method, "target", ())))
        name = f"{job.name.rpartition('/')[0]}/neuroprune-{re.sub('[:@]', '-', asked)}"
        new = dataclasses.replace(job, name=name, record=out / name / job.record.name)
        if jobs.setdefault(new.record, new).config != new.config:
            raise UsageError(
                f"{job.name}: with the target given, expected experiments that are the same but "
                f"for their method; another one of the same task differs. Give one of them."
            )
    return list(jobs.values())


def _run(
    todo: Sequence[Job], work: Path, data_dir: Path | None, keep_models: bool, as_json: bool
) -> bool:
    """Run jobs and say what came out; whether something failed."""
    from neuroprune.bench.runner import run as run_one
    from neuroprune.bench.suite import run_suite
    from neuroprune.cli.progress import ShownProgress

    def dense_of(job: Job) -> Path:
        return work / "dense" / job.config.dense_digest

    def run_job(job: Job, folder: Path) -> RunRecord:
        return run_one(job.config, folder, data_dir, progress, dense=dense_of(job))

    def keep(job: Job, folder: Path) -> None:  # jobs share their dense models
        shutil.copytree(dense_of(job) / "dense", folder / "dense", dirs_exist_ok=True)

    quiet_libraries()
    with ShownProgress() as progress:
        result = run_suite(todo, run_job, work, progress.note, keep if keep_models else None)
    payload: dict[str, Any] = {
        "ran": [str(job.record) for job in result.ran],
        "skipped": [str(job.record) for job in result.skipped],
        "failed": {job.title: reason for job, reason in result.failed},
    }
    shown = [
        f"{len(result.ran)} run, {len(result.skipped)} done before, {len(result.failed)} failed"
    ]
    shown += [f"failed: {job.title}: {reason}" for job, reason in result.failed]
    emit(payload, "\n".join(shown), as_json)
    return bool(result.failed)


def _status_table(cells: Iterable[Cell]) -> RenderableType:
    from rich.table import Table

    from neuroprune.bench.suite import State

    shown = Table("experiment", "done", "stale", "failed", "missing", "why", box=None)
    for cell in cells:
        rest = (State.STALE, State.FAILED, State.MISSING)
        shown.add_row(
            cell.name,
            f"{len(cell.of(State.DONE))} / {len(cell.seeds)}",
            *(", ".join(map(str, cell.of(state))) or "-" for state in rest),
            "; ".join(f"seed {seed} {why}" for seed, why in cell.reasons.items()),
        )
    return shown
