"""The file that says how good the models are that one training saved on its way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroprune.record import RecordError, RunRecord
from neuroprune.report.figure import ReportError


@dataclass(frozen=True)
class Snapshots:
    """Quality along one training.

    Args:
        metric: name of the quality metric.
        points: structural sparsity and quality of every snapshot, by sparsity.
        dense: quality of the dense model, where it is known.
    """

    metric: str
    points: tuple[tuple[float, float], ...]
    dense: float | None = None


def read_snapshots(path: Path) -> Snapshots:
    """Read a list of snapshots, an object that has it as "snapshots", or the record of such a run.

    The object may name the "metric" (otherwise the first one counts) and the metrics of the "dense"
    model:

        {"metric": "accuracy", "dense": {"accuracy": 0.90},
         "snapshots": [{"structural_sparsity": 0.5, "metrics": {"accuracy": 0.89}}]}

    Of a record, the last snapshot has the quality of the finished model, after recovery.

    Args:
        path: the file.

    Raises:
        ReportError: it is of another form.
        OSError: it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{path}: expected a JSON file of snapshots: {error}.") from error
    whole: Mapping[str, Any] = data if isinstance(data, Mapping) else {"snapshots": data}
    if "record_version" in whole:
        try:
            whole = _of_record(RunRecord.from_dict(whole))
        except RecordError as error:
            raise ReportError(f"{path}: {error}") from error
    entries = whole.get("snapshots")
    if not isinstance(entries, list) or not entries:
        raise ReportError(
            f"{path}: expected a list of snapshots, or an object with it as 'snapshots'; got "
            f"{_short(data)}. Ask for snapshots with `neuroprune train --snapshots 0.5,0.7`."
        )
    metric = whole.get("metric") or _first_metric(entries[0])
    points = sorted(_point(path, entry, str(metric)) for entry in entries)
    dense = whole.get("dense")
    known = _number(dense.get(metric)) if isinstance(dense, Mapping) else None
    return Snapshots(str(metric), tuple(points), known)


def _of_record(record: RunRecord) -> Mapping[str, Any]:
    """The snapshots of a record, as an object of their own."""
    pruned, metrics = record.training.get("pruned", {}), record.metrics
    entries = list(pruned.get("snapshots", []))
    if entries and "pruned" in metrics:
        entries[-1] = {**entries[-1], "metrics": metrics["pruned"]}
    return {"snapshots": entries, "dense": metrics.get("dense")}


def _point(path: Path, entry: Any, metric: str) -> tuple[float, float]:
    good = isinstance(entry, Mapping) and isinstance(entry.get("metrics"), Mapping)
    x = _number(entry.get("structural_sparsity")) if good else None
    y = _number(entry["metrics"].get(metric)) if good else None
    if x is None or y is None:
        raise ReportError(
            f"{path}: expected 'structural_sparsity' and 'metrics' with {metric!r} in every "
            f"snapshot, got {_short(entry)}. Measure the saved models with `neuroprune eval`."
        )
    return x, y


def _first_metric(entry: Any) -> str:
    metrics = entry.get("metrics") if isinstance(entry, Mapping) else None
    return str(next(iter(metrics), "quality")) if isinstance(metrics, Mapping) else "quality"


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
