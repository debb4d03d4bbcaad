"""Numbers of committed RunRecords inside a sentence, between markers in a document.

`<!-- number: kept sst2/neuroprune-80 -->96.5 ± 0.5<!-- /number -->` is filled from the records as
tables are. What can be asked for, of a cell EXPERIMENT/SETTING (SETTING "dense" is what the pruned
models are compared with):

    METRIC CELL             mean over the seeds, in % where the tables have it so
    kept CELL               the quality kept, in % of dense: mean ± standard error
    difference CELL CELL    the first minus the second, pair by pair: mean ± standard error, and the
                            number of pairs where there are fewer than three
    speed-BATCH CELL        times the dense speed: mean ± standard error
    time CELL               training time, times that of the dense run: mean ± standard error
    importance CELL         of the removed heads, mean of all heads 1: mean ± standard error
    least CELL              the same of as many heads that are the least important
    measured NAME/KEY/FIELD one number of a measurement without training
    ratio N*A+M*B C         (N * A + M * B) / C of such numbers; N, M are whole, 1 if absent

`kept~0` and so on give the mean alone, with so many decimals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroprune.record import RunRecord
from neuroprune.report.compare import ENOUGH
from neuroprune.report.figure import ReportError
from neuroprune.report.importance import least_important, relative, removed_and_all
from neuroprune.report.names import number
from neuroprune.report.numbers import (
    IN_PERCENT,
    Spread,
    metric_names,
    number_of,
    quality_kept,
    spread_of,
    time_ratio,
)
from neuroprune.report.structures import Structure, read_structure

_ASKED = re.compile(r"(?P<what>[\w-]+)(?:~(?P<digits>\d))? (?P<of>.+)")
_TERM = re.compile(r"(?:(?P<times>\d+)\*)?(?P<path>.+)")
_DENSE = "dense"
Load = Callable[[str], Mapping[str, Sequence[RunRecord]]]  # experiment -> setting -> its records


class QuoteError(ValueError):
    """A document asks for a number that the records do not have; the message says why."""


def quote(asked: str, load: Load) -> str:
    """The number that a marker asks for, as text.

    Args:
        asked: such as "kept~0 sst2/neuroprune-80"; see the module.
        load: an experiment's records.

    Raises:
        QuoteError: no such number.
    """
    found = _ASKED.fullmatch(asked)
    if found is None:
        raise QuoteError(f"expected WHAT EXPERIMENT/SETTING, got {asked!r}.")
    what, of = found["what"], found["of"]
    spread, digits, with_error = _number(what, of, load)
    if spread is None:
        raise QuoteError(f"{asked!r}: not every record has it, or there is no seed in common.")
    if found["digits"] is not None:
        told = f"{spread.mean:.{found['digits']}f}"
    else:
        told = spread.text_of_mean(digits) if with_error else f"{spread.mean:.{digits}f}"
    few = what == "difference" and spread.count < ENOUGH
    return f"{told} ({number(spread.count, 'pair')})" if few else told


def _number(what: str, of: str, load: Load) -> tuple[Spread | None, int, bool]:
    """Mean and deviation in the unit of the text, its decimals, and whether the error is told."""
    if what == "measured":
        return _measured(of, load), 2, False
    if what == "ratio":
        return _ratio(of.split(), load), 2, False
    if what == "difference":
        return _difference(of.split(), load)
    records, side = _cell(of, load)
    if what == "kept":
        metric = _first_metric(records)
        return _scaled([quality_kept(r, metric) for r in records], 100.0), 1, True
    if what == "time":
        return spread_of([time_ratio(r) for r in records]), 2, True
    if what in _OF_HEADS:
        found = [_OF_HEADS[what](r.structure, of) if side == "pruned" else None for r in records]
        return spread_of(found), 2, True
    if what.startswith("speed-"):
        way = (side, what.removeprefix("speed-"), "value")
        return spread_of([number_of(r, "speeds", "speedup", *way) for r in records]), 2, True
    return _scaled([number_of(r, "metrics", side, what) for r in records], _unit(what)), 1, False


def _measured(path: str, load: Load) -> Spread | None:
    name, _, rest = path.partition("/")
    key, _, field = rest.rpartition("/")
    found = [
        number_of(record, "speeds", key, field)
        for records in load(name).values()
        for record in records
        if key in record.speeds
    ]
    return spread_of(found)


def _ratio(parts: Sequence[str], load: Load) -> Spread | None:
    if len(parts) != 2:
        raise QuoteError(
            "expected a sum such as 4*NAME/KEY/FIELD+NAME/KEY/FIELD and a number that divides it, "
            f"got {' '.join(parts)!r}."
        )
    over, total = _measured(parts[1], load), 0.0
    for term in parts[0].split("+"):
        found = _TERM.fullmatch(term)
        value = _measured(found["path"], load) if found else None
        if found is None or value is None:
            return None
        total += int(found["times"] or 1) * value.mean
    return Spread(total / over.mean, None) if over is not None and over.mean else None


def _difference(cells: Sequence[str], load: Load) -> tuple[Spread | None, int, bool]:
    if len(cells) != 2:
        raise QuoteError(f"expected two cells of which one is subtracted, got {' '.join(cells)!r}.")
    (ours, side), (theirs, other) = (_cell(cell, load) for cell in cells)
    metric = _first_metric(ours)
    beside = {record.seed: record for record in theirs}
    pairs = [
        (
            number_of(record, "metrics", side, metric),
            number_of(beside[record.seed], "metrics", other, metric),
        )
        for record in ours
        if record.seed in beside
    ]
    found = [None if a is None or b is None else a - b for a, b in pairs]
    return _scaled(found, _unit(metric)), 1, True


def _cell(name: str, load: Load) -> tuple[Sequence[RunRecord], str]:
    """Records of a cell, and the side that it is."""
    experiment, _, setting = name.partition("/")
    groups = load(experiment)
    if setting == _DENSE:
        every = [record for records in groups.values() for record in records]
        return list({record.seed: record for record in every}.values()), "dense"
    if setting not in groups:
        raise QuoteError(f"no records of {setting!r} in {experiment!r}: got {name!r}.")
    return groups[setting], "pruned"


def _heads(structure: Mapping[str, Any], cell: str) -> Structure | None:
    try:
        return read_structure(structure, Path(cell))
    except ReportError as error:
        raise QuoteError(str(error)) from error


def _importance(structure: Mapping[str, Any], cell: str) -> float | None:
    found = _heads(structure, cell)
    return None if found is None else relative(found)


def _least(structure: Mapping[str, Any], cell: str) -> float | None:
    found = _heads(structure, cell)
    if found is None or relative(found) is None:
        return None
    return least_important(found)[len(removed_and_all(found)[0]) - 1]


_OF_HEADS = {"importance": _importance, "least": _least}


def _first_metric(records: Sequence[RunRecord]) -> str:
    return next(iter(metric_names(records)), "")


def _unit(metric: str) -> float:
    return 100.0 if metric in IN_PERCENT else 1.0


def _scaled(values: Sequence[float | None], factor: float) -> Spread | None:
    found = spread_of(values)
    return None if found is None else found.times(factor)
