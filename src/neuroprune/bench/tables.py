"""Markdown tables from committed RunRecords, written between markers in a document.

A document asks for a table with the two lines `<!-- table:NAME -->` and `<!-- /table -->`. NAME is
a folder of the results directory; what stands between the lines is replaced. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from neuroprune.record import RunRecord, write_text_atomic
from neuroprune.report.numbers import (
    IN_PERCENT,
    dense_runs,
    has_target,
    quality_kept,
    side_spread,
    spread_of,
)

_MARKER = re.compile(
    r"(?P<open><!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<close><!-- /table -->)",
    re.DOTALL,
)
_OPEN = re.compile(r"<!-- table:([^>]*?) -->")


class TableError(ValueError):
    """A document asks for a table that cannot be made; the message says why."""


def load_records(results: Path, name: str) -> dict[str, list[RunRecord]]:
    """Every record of the experiment folder `name`, by its setting's folder, seeds in order.

    Raises:
        TableError: there is no record.
        RecordError: a file is no record.
    """
    out: dict[str, list[RunRecord]] = {}
    for path in sorted((results / name).rglob("*.json")):
        out.setdefault(str(path.parent.relative_to(results / name)), []).append(
            RunRecord.load(path)
        )
    if not out:
        raise TableError(
            f"no records under {results / name}: run `neuroprune bench` on the experiments of "
            f"{name!r} first, or remove the marker <!-- table:{name} -->."
        )
    return {key: sorted(records, key=lambda r: r.seed) for key, records in out.items()}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _metric(records: Sequence[RunRecord], side: str, name: str) -> str:
    spread = side_spread(records, "metrics", side, name)
    if spread is None:
        return "-"
    return spread.text(1, 100.0) if name in IN_PERCENT else spread.text(2)


def _cell(
    records: Sequence[RunRecord], section: str, side: str, keys: Sequence[str], scale: float, n: int
) -> str:
    spread = side_spread(records, section, side, *keys)
    return "-" if spread is None else spread.text(n, scale)


def experiment_table(results: Path, name: str) -> str:
    """The table of one experiment folder: a dense row, then one row per method and setting.

    Where a run asked for a target, the table also says what was kept of the dense model's quality.
    Training times are not compared here: the two trainings of a run come one after the other, and
    a shared machine is not the same twice. `benchmarks/training_time.py` lets them take turns.

    Args:
        results: folder of the committed records.
        name: experiment folder inside it.
    """
    groups = load_records(results, name)
    records = [record for group in groups.values() for record in group]
    metrics = list(records[0].metrics.get("names", ()))
    batches = sorted({int(b) for r in records for b in r.speeds.get("dense", {})})
    rows = [_row("dense", dense_runs(records), "dense", metrics, batches)]
    rows += [_row(key, group, "pruned", metrics, batches) for key, group in groups.items()]
    header = ["run", *(f"{m} (%)" if m in IN_PERCENT else m for m in metrics)]
    header += ["weight sparsity (%)", "structural sparsity (%)", "parameters (M)", "disk (MB)"]
    header += [f"speed, batch {b} (x dense)" for b in batches]
    caption = _caption(records)
    if metrics and any(has_target(record) for record in records):
        header.append("quality kept (% of dense)")
        rows[0].append("100")
        for row, group in zip(rows[1:], groups.values(), strict=True):
            row.append(_kept(group, metrics[0]))
        caption += f" Quality kept: {metrics[0]} against the dense run of the same seed."
    return f"{_markdown(header, rows)}\n\n{caption}"


def _kept(records: Sequence[RunRecord], metric: str) -> str:
    """What was kept, record by record: a ratio of means would hide the pairs."""
    kept = spread_of([quality_kept(record, metric) for record in records])
    return "-" if kept is None else kept.text(1, 100.0)


def _row(
    title: str,
    records: Sequence[RunRecord],
    side: str,
    metrics: Sequence[str],
    batches: Sequence[int],
) -> list[str]:
    row = [title, *(_metric(records, side, name) for name in metrics)]
    for key, scale, digits in (
        ("weight_sparsity", 100.0, 1),
        ("structural_sparsity", 100.0, 1),
        ("parameters", 1e-6, 2),
        ("bytes_on_disk", 1e-6, 1),
    ):
        row.append(_cell(records, "sizes", side, (key,), scale, digits))
    for batch in batches:  # a ratio of interleaved medians: absolute times say more of the machine
        ratio = _cell(records, "speeds", "speedup", (side, str(batch), "value"), 1.0, 2)
        row.append("1" if side == "dense" else ratio)
    return row


def _machines(records: Iterable[RunRecord]) -> str:
    lines: dict[str, None] = {}  # in order, each once
    for record in records:
        env = record.environment
        packages = env.get("packages", {})
        versions = ", ".join(
            f"{name} {packages[name]}"
            for name in ("neuroprune", "torch", "transformers")
            if name in packages
        )
        threads = env.get("threads")
        count = f"{threads} thread{'' if threads == 1 else 's'}" if threads else "threads not set"
        machine = f"{env.get('device') or env.get('processor', 'unknown machine')}, {count}"
        lines[f"{machine}; {versions}" if versions else machine] = None
    return "; and ".join(lines)


def _caption(records: Sequence[RunRecord]) -> str:
    seeds = sorted({record.seed for record in records})
    counts = {r.sizes.get("dense", {}).get("dense_weights") for r in records} - {None}
    what = " or ".join(f"{count / 1e6:.2f}M" for count in sorted(counts))
    share = (
        f" Both sparsities are shares of the dense model's {what} weights of q, k, v, o, up, gate "
        "and down."
        if what
        else ""
    )
    spread = "Mean ± sd over" if len(seeds) > 1 else "One run,"
    many = "seeds" if len(seeds) > 1 else "seed"
    return f"{spread} {many} {', '.join(map(str, seeds))}. {_machines(records)}.{share}"


def measurement_table(results: Path, name: str) -> str:
    """The table of a measurement without training: one row per entry of each record's `speeds`.

    Entries are mappings of numbers; their keys, with units in the name, become the columns.
    """
    groups = load_records(results, name)
    records = [record for group in groups.values() for record in group]
    entries = [(key, values) for record in records for key, values in record.speeds.items()]
    named = {column for _, values in entries for column in values}
    columns = sorted(named, key=lambda column: (column != "median_ms", column))
    rows = [
        [key.replace("_", " "), *(_plain(values.get(column)) for column in columns)]
        for key, values in entries
    ]
    header = ["measured", *(column.replace("_", " ") for column in columns)]
    return f"{_markdown(header, rows)}\n\n{_machines(records)}."


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _renderer(results: Path, name: str) -> Callable[[Path, str], str]:
    groups = load_records(results, name)
    first = next(iter(groups.values()))[0]
    return experiment_table if "dense" in first.metrics else measurement_table


def render(text: str, results: Path, label: str | None = None) -> str:
    """`text` with every table between markers made anew from the records.

    Args:
        text: a document.
        results: folder of the committed records.
        label: that folder as the document's reader sees it; defaults to `results`.

    Raises:
        TableError: a marker without its end, or without records.
        RecordError: a file under `results` is no record.
    """
    done = []

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        done.append(name)
        table = _renderer(results, name)(results, name)
        source = f"Records: `{label or results.as_posix()}/{name}/`."
        return f"{found['open']}{table} {source}\n{found['close']}"

    out = _MARKER.sub(fill, text)
    asked = _OPEN.findall(text)
    if len(asked) != len(done):
        bad = next((name for name in asked if name not in done), asked[-1])
        raise TableError(
            f"the marker <!-- table:{bad} --> has no line <!-- /table --> after it, or its name "
            "is not made of letters, digits, - and _."
        )
    return out


def _label(document: Path, results: Path) -> str:
    return Path(os.path.relpath(results.resolve(), document.resolve().parent)).as_posix()


def render_file(document: Path, results: Path) -> bool:
    """Bring the tables of a document up to date.

    Returns:
        True where the document changed.
    """
    old = document.read_text(encoding="utf-8")
    new = render(old, results, _label(document, results))
    if new != old:
        write_text_atomic(document, new)
    return new != old


def stale_tables(document: Path, results: Path) -> list[str]:
    """Names of the tables in a document that differ from what its records say."""
    text = document.read_text(encoding="utf-8")
    fresh = render(text, results, _label(document, results))
    pairs = zip(_MARKER.finditer(text), _MARKER.finditer(fresh), strict=True)
    return [old["name"] for old, new in pairs if old["body"] != new["body"]]
