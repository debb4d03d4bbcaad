"""`neuroprune bench`: run experiments into RunRecords, and tables from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
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
from neuroprune.cli.settings import Asked, changed

if TYPE_CHECKING:
    from neuroprune.bench.config import RunConfig
    from neuroprune.bench.suite import Job


@guarded
def bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Experiment folders (every config.toml below) or configurations."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="Folder for models.")] = Path("runs/bench"),
    keep_models: Annotated[bool, typer.Option(help="Keep the pruned models there.")] = False,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="In place of the configurations' seeds. Repeatable."),
    ] = None,
    target: TargetText = None,
    heads: HeadCount = None,
    model: Source = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    settings: Settings = None,
    render: Annotated[
        Path | None, typer.Option(help="Bring the tables of this document up to date.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Fail where the tables of this document are not up to date."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    json_output: Json = False,
) -> None:
    """Run experiments that have no record yet, for each of their seeds, and keep the records.

    With --target or --heads, a task's experiments become one: its records go to
    OUT/TASK/neuroprune-TARGET.
    """
    if not paths and render is None and check is None:
        raise UsageError("give experiment folders to run, or --render or --check with a document.")
    payload: dict[str, Any] = {}
    shown: list[str] = []
    code = 0
    if paths:
        change = partial(
            changed,
            where="the configuration",
            model=model,
            threads=threads,
            settings=settings,
            asked=Asked(target=target, heads=heads),
        )
        todo = _jobs(paths, out, seed, change)
        if target is not None or heads is not None:
            todo = _named_by_target(todo, out)
        if dry_run:
            payload["would_run"] = [job.title for job in todo if not job.done]
            shown += [f"would run {title}" for title in payload["would_run"]] or ["nothing to run"]
        else:
            code = _run(todo, work, data_dir, keep_models, payload, shown)
    if render is not None or check is not None:
        code = max(code, _tables(render, check, out, payload, shown))
    emit(payload, "\n".join(shown), json_output)
    if code:
        raise typer.Exit(code)


def _jobs(
    paths: list[Path],
    out: Path,
    seeds: list[int] | None,
    change: Callable[[RunConfig], RunConfig],
) -> list[Job]:
    from neuroprune.bench.suite import find_configs, jobs

    return list(jobs(find_configs(paths), out, seeds, change))


def _named_by_target(found: Iterable[Job], out: Path) -> list[Job]:
    """Jobs under the name of what is asked for: a folder's own name says another method."""
    jobs: dict[Path, Job] = {}
    for job in found:
        asked = "-".join(map(str, getattr(job.config.method, "target", ())))
        name = f"{job.name.rpartition('/')[0]}/neuroprune-{re.sub('[:@]', '-', asked)}"
        new = dataclasses.replace(job, name=name, record=out / name / job.record.name)
        if jobs.setdefault(new.record, new) != new:
            raise UsageError(
                f"{job.name}: with the target given, expected experiments that are the same but "
                f"for their method; another one of the same task differs. Give one of them."
            )
    return list(jobs.values())


def _run(
    todo: list[Job],
    work: Path,
    data_dir: Path | None,
    keep_models: bool,
    payload: dict[str, Any],
    shown: list[str],
) -> int:
    from neuroprune.bench.runner import run
    from neuroprune.bench.suite import run_suite
    from neuroprune.cli.progress import ShownProgress

    quiet_libraries()
    with ShownProgress() as progress:
        result = run_suite(
            todo,
            lambda job, folder: run(
                job.config,
                folder,
                data_dir,
                progress,
                dense=work / "dense" / job.config.dense_digest,
            ),
            work,
            progress.note,
            keep_models,
        )
    payload["ran"] = [str(job.record) for job in result.ran]
    payload["skipped"] = [str(job.record) for job in result.skipped]
    payload["failed"] = {job.title: reason for job, reason in result.failed}
    shown.append(
        f"{len(result.ran)} run, {len(result.skipped)} done before, {len(result.failed)} failed"
    )
    shown += [f"failed: {job.title}: {reason}" for job, reason in result.failed]
    return FAILED if result.failed else 0


def _tables(
    render: Path | None, check: Path | None, out: Path, payload: dict[str, Any], shown: list[str]
) -> int:
    from neuroprune.bench.tables import render_file, stale_tables

    if render is not None:
        payload["rendered"] = render_file(render, out)
        state = "tables brought up to date" if payload["rendered"] else "tables were up to date"
        shown.append(f"{render}: {state}")
    if check is None:
        return 0
    payload["stale"] = stale_tables(check, out)
    if payload["stale"]:
        shown.append(
            f"{check}: not up to date: {', '.join(payload['stale'])}; run "
            f"`neuroprune bench --render {check}`"
        )
        return FAILED
    shown.append(f"{check}: up to date")
    return 0
