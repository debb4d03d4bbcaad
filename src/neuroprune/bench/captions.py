"""What stands below a table: seeds, machine, what is not there, and how to make a row again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from neuroprune.bench.matrix import plan
from neuroprune.bench.sources import sources_of
from neuroprune.bench.status import Cell, cells_of
from neuroprune.bench.suite import FAILURE_SUFFIX, State
from neuroprune.record import RunRecord
from neuroprune.report.collect import mixed
from neuroprune.report.names import sentence
from neuroprune.report.numbers import (
    IN_PERCENT,
    baseline,
    dense_runs,
    machines,
    metric_names,
    side_spread,
)
from neuroprune.report.rows import not_in_overview
from neuroprune.report.runs import series_and_setting

_AGAIN = "again"  # where the caption's command writes: beside the committed record it would skip
_FAILED_SEED = re.compile(rf"seed-(?P<seed>\d+){re.escape(FAILURE_SUFFIX)}")
_USAGE = re.compile(r"^Usage: (?P<command>.+)$", re.MULTILINE)


def caption(results: Path, name: str, groups: Mapping[str, Sequence[RunRecord]], label: str) -> str:
    """The caption of the table of an experiment folder or a matrix.

    Args:
        results: folder of the records; see `sources_of`.
        name: experiment folder inside it.
        groups: its records, by setting, in the order of the rows.
        label: the results folder as a reader of the document sees it.
    """
    records = [record for group in groups.values() for record in group]
    sources = sources_of(results, name)
    parts = [_seeds(records), f"{machines(records)}.", _shares(records), _pairs(records)]
    parts += [sentence(said) for key, group in groups.items() if (said := mixed(key, group))]
    parts.append(unfinished(results, name, groups))
    parts.append(_again(results, name, groups, label, sources))
    return " ".join(part for part in parts if part)


def overview_caption(
    results: Path, name: str, groups: Mapping[str, Sequence[RunRecord]], label: str
) -> str:
    """The caption of a table of the quality kept alone.

    Args:
        results: see `caption`.
        name: see `caption`.
        groups: see `caption`.
        label: see `caption`.
    """
    records = [record for group in groups.values() for record in group]
    metric = metric_names(records)[0]
    dense = side_spread(dense_runs(records), "metrics", "dense", metric)
    unit = "%" if metric in IN_PERCENT else ""
    told = "" if dense is None else f" Dense: {dense.text(1, 100.0 if unit else 1.0)}{unit} (sd)."
    parts = [
        f"Quality kept: {metric} against the dense run of the same seed, mean ± standard error "
        f"over these pairs, seeds {_listed(records)}.{told} Removed: physically, of the prunable "
        f"weights.{_rest(groups)} {machines(records)}.",
        unfinished(results, name, groups),
        _again(results, name, groups, label, sources_of(results, name), "-*"),
    ]
    return " ".join(part for part in parts if part)


def _rest(groups: Mapping[str, Sequence[RunRecord]]) -> str:
    """Which settings an overview leaves out; empty for none."""
    left = not_in_overview(groups)
    return f" Not asked for such a size, and not here: {_shortened(left)}." if left else ""


def measurement_caption(results: Path, name: str, records: Iterable[RunRecord], label: str) -> str:
    """The caption of a measurement without training, whose script stands beside the results.

    Args:
        results: folder of the records.
        name: folder of the measurement; its script is `<name>.py`.
        records: its records.
        label: the results folder as a reader of the document sees it.
    """
    script = results.parent / f"{name}.py"
    found = _USAGE.search(script.read_text(encoding="utf-8")) if script.is_file() else None
    again = f" Again: `{found['command']}`." if found else ""
    return f"{machines(records)}.{again}"


def _seeds(records: Sequence[RunRecord]) -> str:
    many = len({record.seed for record in records}) > 1
    return f"{'Mean ± sd over seeds' if many else 'One run, seed'} {_listed(records)}."


def _listed(records: Sequence[RunRecord]) -> str:
    return ", ".join(map(str, sorted({record.seed for record in records})))


def _shares(records: Sequence[RunRecord]) -> str:
    counts = {r.sizes.get("dense", {}).get("dense_weights") for r in records} - {None}
    what = " or ".join(f"{count / 1e6:.2f}M" for count in sorted(counts))
    return (
        f"Both sparsities are shares of the dense model's {what} weights of q, k, v, o, up, gate "
        "and down."
        if what
        else ""
    )


def _pairs(records: Sequence[RunRecord]) -> str:
    metric = next(iter(records[0].metrics.get("names", ())), None)
    if metric is None:
        return ""
    what = "Difference and quality kept" if metric in IN_PERCENT else "Quality kept"
    many = len({record.seed for record in records}) > 1
    error = ", mean ± standard error over these pairs" if many else ""
    first = baseline(records)
    told = " (start: a model that was cut before, trained alike and not cut again)"
    which = f"{first} run{told if first != 'dense' else ''}"
    return f"{what}: {metric} against the {which} of the same seed{error}."


def unfinished(results: Path, name: str, groups: Mapping[str, Sequence[RunRecord]]) -> str:
    """Which rows have fewer seeds than wanted, or none, and which are not what their file says.

    Args:
        results: folder of the records; see `sources_of`.
        name: experiment folder inside it.
        groups: its records, by setting.

    Returns:
        Sentences; empty where all is there.

    Raises:
        ConfigError: a matrix or experiment beside the results is wrong.
    """
    sources = sources_of(results, name)
    cells = cells_of(plan(sources, results).jobs) if sources else _cells_of(results / name, groups)
    short = [cell for cell in cells if not cell.complete]
    untouched = [_row(cell) for cell in short if len(cell.of(State.MISSING)) == len(cell.seeds)]
    lacking = [_lack(cell) for cell in short if _row(cell) not in untouched]
    known = {_row(cell) for cell in cells}
    foreign = [key for key in groups if key not in known]
    parts = [f"Unfinished: {'; '.join(lacking)}."] if lacking else []
    if untouched:
        parts.append(f"Not run yet: {_shortened(untouched)}.")
    if foreign:
        parts.append(f"In no experiment or matrix: {', '.join(foreign)}.")
    return " ".join(parts)


def _shortened(rows: Iterable[str]) -> str:
    """Names of rows, those of one method together: "l1-25, -50; cofi-80"."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        name, setting = series_and_setting(row)
        settings = methods.setdefault(name, [])
        settings.append(row[len(name) :] if settings and setting else row)
    return "; ".join(", ".join(settings) for settings in methods.values())


def _row(cell: Cell) -> str:
    return cell.name.partition("/")[2]


def _lack(cell: Cell) -> str:
    """Such as "l1-95 has 1 of 3 seeds (2 stale; 3 failed: the loss became nan)"."""
    reasons = [f"{seed} {reason.splitlines()[0]}" for seed, reason in cell.reasons.items()]
    done = len(cell.of(State.DONE)) or "none"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return f"{_row(cell)} has {done} of {len(cell.seeds)} seeds{why}"


def _cells_of(folder: Path, groups: Mapping[str, Sequence[RunRecord]]) -> list[Cell]:
    """What there is where no file says what is wanted: every row the seeds that any row has."""
    failed = {
        (file.parent.relative_to(folder).as_posix(), int(found["seed"])): file
        for file in sorted(folder.rglob(f"*{FAILURE_SUFFIX}"))
        if (found := _FAILED_SEED.fullmatch(file.name))
    }
    done_somewhere = {record.seed for group in groups.values() for record in group}
    wanted = sorted(done_somewhere | {seed for _, seed in failed})
    cells = []
    for key in dict.fromkeys([*groups, *(key for key, _ in failed)]):
        done = {record.seed for record in groups.get(key, ())}
        seeds: dict[int, tuple[State, str]] = {}
        for seed in wanted:
            failure = failed.get((key, seed))
            if seed in done:
                seeds[seed] = (State.DONE, "")
            elif failure is not None:
                seeds[seed] = (State.FAILED, failure.read_text(encoding="utf-8").strip())
            else:
                seeds[seed] = (State.MISSING, "")
        cells.append(Cell(f"{folder.name}/{key}", seeds))
    return cells


def _again(
    results: Path,
    name: str,
    groups: Mapping[str, Sequence[RunRecord]],
    label: str,
    sources: Sequence[Path],
    settings: str = "",
) -> str:
    """The command for one row, typed in the folder that holds both document and records.

    With `settings`, a row holds all settings of a method, whose names end so.
    """
    key, group = next(iter(groups.items()))
    record = group[0]
    data = " --data-dir DATA" if record.config.get("task", {}).get("files") else ""
    # The label is relative to the document: without the way up, it is relative to that folder.
    seen = PurePosixPath(re.sub(r"^(\.\./)+", "", label))
    if not sources:
        file = seen / name / key / f"seed-{record.seed}.json"
        return (
            f"One run again: `neuroprune train --config {file}{data} --out {_AGAIN}`; the others "
            "by their own records."
        )
    source = seen.parent / sources[0].relative_to(results.parent).as_posix()
    row = f"{series_and_setting(key)[0]}{settings}" if settings else key
    start = str(record.config.get("model", {}).get("source", ""))
    made = ", from models that are made as its configuration says" if "$" in start else ""
    return (
        f"One row again: `neuroprune bench run {source} --only '{name}/{row}'{data} --out "
        f"{_AGAIN}`{made}; the others by their name after the `/`, one run with `--seed`."
    )
