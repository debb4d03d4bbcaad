"""The rows of the table of one experiment, as texts: the same in documents and in the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from neuroprune.record import RunRecord
from neuroprune.report.names import number
from neuroprune.report.numbers import (
    IN_PERCENT,
    OURS,
    Spread,
    baseline,
    dense_runs,
    difference_to_dense,
    metric_names,
    quality_kept,
    side_spread,
    spread_of,
)
from neuroprune.report.runs import series_and_setting

_NUMBER = re.compile(r"\d+(\.\d+)?")  # a setting of a grid is none
Groups = Mapping[str, Sequence[RunRecord]]


def in_order(groups: Groups) -> dict[str, Sequence[RunRecord]]:
    """The groups by method, our own first, then by what was reached.

    Args:
        groups: records by the name of their setting.
    """
    return {key: groups[key] for key in sorted(groups, key=lambda key: order_of(key, groups[key]))}


def experiment_rows(groups: Groups) -> tuple[list[str], list[list[str]]]:
    """A dense row, then one row per method and setting; mean and deviation over the seeds.

    The first row is called "start" where that model was cut before (see `baseline`). What was kept
    of its quality is told pair by pair, each run against the dense run of its seed: a ratio of
    means would not.

    Args:
        groups: records by the name of their setting, which begins its row.

    Returns:
        The titles of the columns, and the rows.
    """
    records = [record for group in groups.values() for record in group]
    metrics = metric_names(records)
    batches = sorted({int(b) for r in records for b in r.speeds.get("dense", {})})
    first = baseline(records)
    rows = [_row(first, dense_runs(records), "dense", metrics, batches)]
    rows += [_row(key, group, "pruned", metrics, batches) for key, group in groups.items()]
    header = ["run", *(f"{m} (%)" if m in IN_PERCENT else m for m in metrics)]
    header += ["weight sparsity (%)", "structural sparsity (%)", "parameters (M)", "disk (MB)"]
    header += [f"speed, batch {b} (x {first})" for b in batches]
    for title, cells in _pairs(metrics, groups, first):
        header.append(title)
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return header, rows


def overview_rows(groups: Groups) -> tuple[list[str], list[list[str]]]:
    """A row per method, a column per structural sparsity: the quality kept, in % of dense.

    Settings that ask for something else, such as zeros or heads, are not shown.

    Args:
        groups: records by the name of their setting, which ends with the structural sparsity in %.

    Returns:
        The titles of the columns, and the rows; no rows where no setting is such a one.
    """
    most = max((len(group) for group in groups.values()), default=0)
    found: dict[str, dict[float, str]] = {}
    for key, group in groups.items():
        asked, kept = _asked(key, group), _kept(group)
        if asked is not None and kept is not None:
            few = f" ({number(len(group), 'run')})" if len(group) < most else ""
            series = series_and_setting(key)[0]
            found.setdefault(series, {})[asked] = kept.text_of_mean(1, 100.0) + few
    columns = sorted({asked for cells in found.values() for asked in cells})
    header = ["quality kept (% of dense)", *(f"{asked:g}% removed" for asked in columns)]
    rows = [
        [series, *(cells.get(asked, "-") for asked in columns)] for series, cells in found.items()
    ]
    return header, rows


def not_in_overview(groups: Groups) -> list[str]:
    """Settings that `overview_rows` does not show.

    Args:
        groups: records by the name of their setting.
    """
    return [k for k, group in groups.items() if None in (_asked(k, group), _kept(group))]


def _asked(key: str, records: Sequence[RunRecord]) -> float | None:
    """The structural sparsity, in %, that a setting is named by and has; None for others."""
    setting = series_and_setting(key)[1]
    reached = side_spread(records, "sizes", "pruned", "structural_sparsity")
    if not _NUMBER.fullmatch(setting) or reached is None:
        return None
    return float(setting) if abs(100.0 * reached.mean - float(setting)) <= 0.5 else None


def _kept(records: Sequence[RunRecord]) -> Spread | None:
    metrics = metric_names(records)[:1]
    return spread_of([quality_kept(record, name) for record in records for name in metrics])


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


def order_of(key: str, records: Sequence[RunRecord]) -> tuple[bool, str, float, float, str]:
    """What rows are sorted by: our own method first, then by method and by what was reached.

    Args:
        key: the name of a setting.
        records: of it.
    """
    sizes = [
        side_spread(records, "sizes", "pruned", f"{kind}_sparsity")
        for kind in ("structural", "weight")
    ]
    structural, weight = (0.0 if size is None else round(size.mean, 3) for size in sizes)
    ours = all(record.method == OURS for record in records)
    return not ours, series_and_setting(key)[0], structural, weight, key


def _pairs(metrics: Sequence[str], groups: Groups, first: str) -> list[tuple[str, list[str]]]:
    """The columns that compare each record with its own dense run."""
    columns: list[tuple[str, list[str]]] = []
    for metric in metrics[:1]:
        changes = [
            spread_of([difference_to_dense(record, metric) for record in group])
            for group in groups.values()
        ]
        kept = [
            spread_of([quality_kept(record, metric) for record in group])
            for group in groups.values()
        ]
        if metric in IN_PERCENT:
            cells = ["-" if c is None else c.text_of_mean(1, 100.0, "+") for c in changes]
            columns.append((f"difference to {first} (points)", ["0", *cells]))
        cells = ["-" if k is None else k.text_of_mean(1, 100.0) for k in kept]
        columns.append((f"quality kept (% of {first})", ["100", *cells]))
    return columns


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
