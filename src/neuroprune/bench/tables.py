"""Tables and numbers from committed RunRecords, written between markers in a document.

A document asks for a table with the two lines `<!-- table:NAME -->` and `<!-- /table -->`. NAME is
a folder of the results directory; what stands between the lines is replaced. `<!-- pairs:NAME -->`
asks for the comparisons of NeuroPrune with the other methods, pair by pair, instead;
`<!-- overview:NAME -->` for the quality kept alone, a row per method and a column per sparsity.
A number in a sentence is asked for as `neuroprune.bench.quotes` says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from neuroprune.bench.captions import caption, measurement_caption, overview_caption, unfinished
from neuroprune.bench.quotes import QuoteError, quote
from neuroprune.record import RunRecord, differences, write_text_atomic
from neuroprune.report.collect import collect
from neuroprune.report.compare import alone, tallies, uncompared, what_the_rule_is_worth
from neuroprune.report.drawings import by_other_metrics, chosen, comparisons_of, not_chosen
from neuroprune.report.names import sentence
from neuroprune.report.rows import experiment_rows, in_order, overview_rows

_OF_THE_DENSE_RUN = ("model", "task", "training")
_MARKER = re.compile(
    r"(?P<open><!-- (?P<kind>table|pairs|overview):(?P<name>[\w-]+) -->\n)"
    r"(?P<body>.*?)(?P<close><!-- /table -->)",
    re.DOTALL,
)
_OPEN = re.compile(r"<!-- ((?:table|pairs|overview):[^>]*?) -->")
_NUMBER = re.compile(
    r"(?P<open><!-- number: (?P<asked>[^>]*?) -->)(?P<body>[^<]*)(?P<close><!-- /number -->)"
)
_PAIRS = ("NeuroPrune", "other method", "weight sparsity", "difference", "pairs", "verdict")


class TableError(ValueError):
    """A document asks for a table that cannot be made; the message says why."""


def load_records(results: Path, name: str) -> dict[str, list[RunRecord]]:
    """Every record of the experiment folder `name`, by its setting's folder, seeds in order.

    Raises:
        TableError: there is no record, a seed has two, or records of one seed have different dense
            runs.
        RecordError: a file is no record.
    """
    found: dict[str, dict[int, tuple[Path, RunRecord]]] = {}
    dense: dict[int, tuple[Path, RunRecord]] = {}
    for path in sorted((results / name).rglob("*.json")):
        record = RunRecord.load(path)
        group = found.setdefault(str(path.parent.relative_to(results / name)), {})
        first, _ = group.setdefault(record.seed, (path, record))
        if first != path:
            raise TableError(
                f"{first} and {path} are both of seed {record.seed}: a seed counts once. Remove "
                "the one that does not belong there."
            )
        if "dense" in record.metrics:
            _one_dense_run(dense.setdefault(record.seed, (path, record)), (path, record))
    if not found:
        raise TableError(
            f"no records under {results / name}: run `neuroprune bench run` on the experiments of "
            f"{name!r} first, or remove the marker <!-- table:{name} -->."
        )
    return {key: [group[seed][1] for seed in sorted(group)] for key, group in found.items()}


def _one_dense_run(first: tuple[Path, RunRecord], second: tuple[Path, RunRecord]) -> None:
    """Refuse two records of one seed whose dense runs were not the same."""
    sides = []
    for _, record in (first, second):
        config = {key: record.config[key] for key in _OF_THE_DENSE_RUN if key in record.config}
        sides.append({"quality": record.metrics["dense"], **config})
    found = differences(*sides).replace(", now ", " against ")
    if found:
        raise TableError(
            f"{first[0]} and {second[0]} have different dense runs of seed {first[1].seed}: "
            f"{found}. One table compares with one dense run: make one of them again beside the "
            "other, or keep them in folders of their own."
        )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def experiment_table(results: Path, name: str, label: str | None = None) -> str:
    """The table of one experiment folder: a dense row, then one row per method and setting.

    What was kept of the dense model's quality is told pair by pair, each run against the dense run
    of its seed. Training times are not compared here: the two trainings of a run come one after
    the other, and a shared machine is not the same twice. `benchmarks/training_time.py` lets them
    take turns.

    Args:
        results: folder of the committed records.
        name: experiment folder inside it.
        label: the results folder as a reader sees it; defaults to `results`.
    """
    groups = in_order(load_records(results, name))
    header, rows = experiment_rows(groups)
    said = caption(results, name, groups, label or results.as_posix())
    return f"{_markdown(header, rows)}\n\n{said}"


def measurement_table(results: Path, name: str, label: str | None = None) -> str:
    """The table of a measurement without training: one row per entry of each record's `speeds`.

    Entries are mappings of numbers; their keys, with units in the name, become the columns.

    Args:
        results: folder of the committed records.
        name: folder of the measurement inside it.
        label: the results folder as a reader sees it; defaults to `results`.
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
    said = measurement_caption(results, name, records, label or results.as_posix())
    return f"{_markdown(header, rows)}\n\n{said}"


def pairs_table(results: Path, name: str) -> str:
    """NeuroPrune against every other method at equal sparsity: a row per pair of settings.

    Settings of other methods that are compared with nothing are named below it.

    Args:
        results: folder of the committed records.
        name: experiment folder inside it.

    Raises:
        ReportError: the records cannot be compared; the files are named.
        TableError: there is no setting of another method at equal sparsity.
    """
    found = collect(results / name)
    shown = [chosen(experiment) for experiment in found.experiments]
    pairs = {experiment.name: comparisons_of(experiment) for experiment in shown}
    compared = [c for of_one in pairs.values() for c in of_one]
    if not compared:
        raise TableError(
            f"{results / name} has no two methods at equal sparsity with a seed in common: run "
            f"more of it, or remove the marker <!-- pairs:{name} -->."
        )
    rows = [list(c.told().values()) for c in compared]
    metrics = " and ".join(dict.fromkeys(c.metric for c in compared))
    said = (
        f"NeuroPrune minus the other method, {metrics}, over the seeds that both have, mean ± "
        "standard error; better is above 0, level is within one standard error. Equally sparse are "
        "models with as many zeros and as much removed, within two points and a tenth of what is "
        "left; where both keep zeros in place, with as many zeros."
    )
    sentences = [what_the_rule_is_worth(compared)]
    sentences += [tally.sentence() for tally in tallies(compared)]
    sentences += [said for experiment in shown for said in by_other_metrics(experiment)]
    left = alone([cell for e in shown for cell in uncompared(e, pairs[e.name])])
    sentences += [left] if left else []
    sentences += [sentence(text) for e in found.experiments if (text := not_chosen(e))]
    groups = {cell.label: cell.records for e in found.experiments for cell in e.cells}
    sentences += [unfinished(results, name, groups)]
    told = " ".join(text for text in (said, *sentences, *found.notes) if text)
    return f"{_markdown(_PAIRS, rows)}\n\n{told}"


def overview_table(results: Path, name: str, label: str | None = None) -> str:
    """The quality kept at equal structural sparsity: a row per method, a column per sparsity.

    Args:
        results: folder of the committed records.
        name: experiment folder inside it.
        label: the results folder as a reader sees it; defaults to `results`.

    Raises:
        TableError: there is no setting of a structural sparsity.
    """
    groups = in_order(load_records(results, name))
    header, rows = overview_rows(groups)
    if not rows:
        raise TableError(
            f"{results / name} has no setting named by its structural sparsity, such as "
            f"neuroprune-80: run one, or remove the marker <!-- overview:{name} -->."
        )
    said = overview_caption(results, name, groups, label or results.as_posix())
    return f"{_markdown(header, rows)}\n\n{said}"


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _renderer(results: Path, name: str) -> Callable[[Path, str, str], str]:
    groups = load_records(results, name)
    first = next(iter(groups.values()))[0]
    return experiment_table if "dense" in first.metrics else measurement_table


def render(text: str, results: Path, label: str | None = None) -> str:
    """`text` with every table and number between markers made anew from the records.

    Args:
        text: a document.
        results: folder of the committed records.
        label: that folder as the document's reader sees it; defaults to `results`.

    Raises:
        TableError: a marker without its end, without records, or of a number they do not have.
        RecordError: a file under `results` is no record.
    """
    done = []

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        done.append(f"{found['kind']}:{name}")
        seen = label or results.as_posix()
        if found["kind"] == "pairs":
            table = pairs_table(results, name)
        elif found["kind"] == "overview":
            table = overview_table(results, name, seen)
        else:
            table = _renderer(results, name)(results, name, seen)
        return f"{found['open']}{table} Records: `{seen}/{name}/`.\n{found['close']}"

    out = _MARKER.sub(fill, text)
    asked = _OPEN.findall(text)
    if len(asked) != len(done):
        bad = next((name for name in asked if name not in done), asked[-1])
        raise TableError(
            f"the marker <!-- {bad} --> has no line <!-- /table --> after it, or its name "
            "is not made of letters, digits, - and _."
        )
    return _with_numbers(out, results)


def _with_numbers(text: str, results: Path) -> str:
    load = cache(partial(load_records, results))

    def fill(found: re.Match[str]) -> str:
        try:
            return f"{found['open']}{quote(found['asked'], load)}{found['close']}"
        except QuoteError as error:
            raise TableError(f"the marker {found['open']} cannot be filled: {error}") from error

    filled, done = _NUMBER.subn(fill, text)
    if text.count("<!-- number:") != done:
        raise TableError("a marker <!-- number: ... --> has no <!-- /number --> right after it.")
    return filled


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
    """What differs in a document from its records, such as "table:sst2" or "number: kept a/b"."""
    text = document.read_text(encoding="utf-8")
    fresh = render(text, results, _label(document, results))
    found = []
    for marker, name in ((_MARKER, "{kind}:{name}"), (_NUMBER, "number: {asked}")):
        pairs = zip(marker.finditer(text), marker.finditer(fresh), strict=True)
        found += [
            name.format(**old.groupdict()) for old, new in pairs if old["body"] != new["body"]
        ]
    return found
