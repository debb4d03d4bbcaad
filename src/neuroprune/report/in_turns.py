"""Training times that were taken in turns, beside the runs whose trainings they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from neuroprune.record import RunRecord, differing
from neuroprune.report.runs import Experiment, Run, dense_config, table_of

_SAID_OTHERWISE = {"name", "teacher"}  # in a measurement


def in_turns(experiment: Experiment, measurements: Iterable[Run]) -> dict[str, float]:
    """Time of a step in units of a dense one, of cells whose training was measured in turns.

    A measurement is of a cell where its model, task and training are the experiment's, but for the
    seed, its device and threads are, too, and its method is the cell's, setting by setting. Of
    several the last counts.

    Args:
        experiment: the cells.
        measurements: records without a quality, such as those of `benchmarks/training_time.py`.

    Returns:
        By the cell's label; empty where nothing was measured.
    """
    first, machine = dense_config(experiment.records[0]), _machine(experiment.records[0])
    methods = {cell.label: table_of(cell.records[0].config, "method") for cell in experiment.cells}
    found: dict[str, float] = {}
    for run in measurements:
        record = run.record
        if differing(first, dense_config(record)) or _machine(record) != machine:
            continue
        for label, method in table_of(record.config, "trainings").items():
            time = table_of(record.speeds, label).get("times_dense")
            if label not in methods or not isinstance(method, Mapping):
                continue
            apart = set(differing(methods[label], method)) - _SAID_OTHERWISE
            if isinstance(time, int | float) and not apart:
                found[label] = time
    return found


def _machine(record: RunRecord) -> tuple[Any, Any]:
    return record.environment.get("device"), record.environment.get("threads")
