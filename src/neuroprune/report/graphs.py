"""Graph measures of the layers before and after pruning, where a record has them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.report.figure import ReportError
from neuroprune.report.runs import Run

_KINDS = {"attention": "attention", "mlp": "MLP"}
_Block = Mapping[str, Any]
HEADER = ("layers", "measure", "dense", "pruned")
NOTES = (
    "Means over the blocks of a kind, and over the runs. Gini: how unequally connections are "
    "shared, 0 to 1. Strongest 5%: the graph of the strongest connections, at equal density in "
    "both models. Modularity above that of random graphs means groups that talk among themselves; "
    "sigma above 1 means a small world. Effective rank is a share of a matrix's smaller side. A "
    "heavy tail fits a power law better than an exponential, and no worse than a lognormal; "
    "networks that are called scale-free have exponents of 2 to 3. Blocks whose tail is too short "
    "for a fit do not count, as where all degrees are equal, nor do blocks without a sigma."
)


@dataclass(frozen=True)
class GraphSummary:
    """What the records of one cell say about the graphs of its layers.

    Args:
        rows: kind of block, measure, dense value, pruned value.
        reading: the same in words, from the first run that has the measures.
        seed: of that run.
        runs: how many records have the measures.
    """

    rows: tuple[tuple[str, str, str, str], ...]
    reading: tuple[str, ...]
    seed: int
    runs: int


def _rank(block: _Block) -> float | None:
    shares = [float(rank["share"]) for rank in block["effective_rank"].values() if rank["side"]]
    return statistics.fmean(shares) if shares else None


def _heavy(tail: Mapping[str, Any]) -> float | None:
    """As `TailFit.is_heavy`, 1 or 0; None where the tail has no fit."""
    against, other = tail["exponential"], tail["lognormal"]
    if against is None or other is None:
        return None
    heavier = against["ratio"] > 0.0 and against["p"] < 0.1
    return float(heavier and not (other["ratio"] < 0.0 and other["p"] < 0.1))


_MEASURES: Mapping[str, tuple[Callable[[_Block], float | None], str]] = {
    "mean degree": (lambda b: b["degrees"]["mean"], ".0f"),
    "Gini of degrees": (lambda b: b["degrees"]["gini"], ".2f"),
    "degrees: exponent of a power law": (lambda b: b["degrees"]["tail"]["alpha"], ".1f"),
    "degrees: blocks with a heavy tail": (lambda b: _heavy(b["degrees"]["tail"]), ".0%"),
    "strongest 5%: Gini": (lambda b: b["backbone"]["degrees"]["gini"], ".2f"),
    "strongest 5%: modularity": (lambda b: b["backbone"]["modularity"], ".2f"),
    "the same, random graphs": (lambda b: b["backbone"]["modularity_random"], ".2f"),
    "strongest 5%: sigma": (lambda b: b["backbone"]["small_world"]["sigma"], ".2f"),
    "strongest 5%: blocks with a heavy tail": (
        lambda b: _heavy(b["backbone"]["degrees"]["tail"]),
        ".0%",
    ),
    "effective rank": (_rank, ".0%"),
}


def graph_summary(runs: Sequence[Run]) -> GraphSummary | None:
    """Means over blocks and records, dense and pruned.

    Args:
        runs: of one cell.

    Returns:
        None where no record has graph measures.

    Raises:
        ReportError: a record's graph measures have another form; the file is named.
    """
    measured = [run for run in runs if "topology" in run.record.structure]
    if not measured:
        return None
    readings = [_reading(run) for run in measured]
    found = [run.record.structure["topology"] for run in measured]
    return GraphSummary(tuple(_rows(found)), readings[0], measured[0].record.seed, len(found))


def _reading(run: Run) -> tuple[str, ...]:
    """The sentences of one run, whose measures are all looked at."""
    topology = run.record.structure["topology"]
    try:
        _rows([topology])
        if isinstance(topology["reading"], str):
            raise TypeError("the reading is one text, not a list of sentences")
        return tuple(map(str, topology["reading"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{run.path}: expected graph measures of dense and pruned, got another form "
            f"({type(error).__name__}: {error}). Run the experiment again."
        ) from error


def _rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    rows = []
    for kind, told in _KINDS.items():
        sides = [
            [b for topology in found for b in topology[side]["blocks"] if b["kind"] == kind]
            for side in ("dense", "pruned")
        ]
        for name, (value, form) in _MEASURES.items():
            if any(sides):
                dense, pruned = (_mean(blocks, value, form) for blocks in sides)
                rows.append((told, name, dense, pruned))
    return rows


def _mean(blocks: Sequence[_Block], value: Callable[[_Block], float | None], form: str) -> str:
    known = [v for v in map(value, blocks) if v is not None]
    return f"{statistics.fmean(known):{form}}" if known else "-"
