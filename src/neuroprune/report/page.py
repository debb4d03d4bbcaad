"""One self-contained HTML page of a results folder: tables, comparisons and the paper's figures.

The figures stand in the page as SVG, and beside it as SVG and PNG files. They can be read without
JavaScript; with it, one layer can be picked out of the patterns.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from neuroprune.record import write_text_atomic
from neuroprune.report.collect import collect
from neuroprune.report.compare import (
    Comparison,
    alone,
    tallies,
    uncompared,
    what_the_rule_is_worth,
)
from neuroprune.report.drawings import (
    Drawing,
    by_other_metrics,
    chosen,
    comparisons_of,
    drawings,
    not_drawn,
)
from neuroprune.report.figure import ReportError
from neuroprune.report.graphs import HEADER, NOTES, graph_summary
from neuroprune.report.levels import level_rows
from neuroprune.report.numbers import machines
from neuroprune.report.rows import experiment_rows, in_order
from neuroprune.report.runs import Collection, Experiment, lacking

PAGE = "index.html"
FIGURES = "figures"
_TEMPLATE = "report.html.j2"
_SIGN = '<meta name="generator" content="neuroprune'
_KINDS = {
    "curves": "What pruning costs",
    "heads": "Heads",
    "degrees": "Degrees in the MLPs",
    "patterns": "Sparsity patterns",
}
_OUTER = re.compile(r"<svg\b[^>]*>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_IDS = re.compile(r'(\sid="|href="#|url\(#)')
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_VIEW = re.compile(r'viewBox="[^"]*"')


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        page: the HTML file.
        figures: SVG and PNG files.
        runs: records with a training that it shows.
        warnings: what is missing, failed or could not be shown.
    """

    page: Path
    figures: tuple[Path, ...]
    runs: int
    warnings: tuple[str, ...]


def write_report(
    root: Path,
    out: Path,
    unfinished: Callable[[Experiment], Sequence[str]] = lacking,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notes: Sequence[str] = (),
) -> Report:
    """Draw everything below a results folder, and write the page.

    A report that `out` holds is replaced when the new one is complete.

    Args:
        root: folder of records, or one that `neuroprune train` left.
        out: folder of the report.
        unfinished: what an experiment lacks, in sentences; by default, seeds of which other cells
            have a run.
        progress: called with figures drawn and figures in all.
        notes: what else a reader should know, in sentences.

    Raises:
        ReportError: see `collect`; or `out` holds something else, or a package is missing.
        OSError: `out` cannot be written.
    """
    template = _template()
    _check_free(out)
    found = collect(root)
    wanted = drawings(found)
    graphs = {e.name: _graphs(e) for e in found.experiments}  # refused before anything is drawn
    warnings = [*_warnings(found, unfinished), *notes]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        stage = Path(name)
        drawn: list[tuple[Drawing, Path, Path]] = []
        progress(0, len(wanted))
        for number, drawing in enumerate(wanted, 1):
            drawn.append((drawing, *drawing.draw(stage / FIGURES / drawing.stem)))
            progress(number, len(wanted))
        page = template.render(_context(found, drawn, graphs, warnings, root))
        _put(stage / FIGURES, out / FIGURES)
        write_text_atomic(out / PAGE, page)
    files = [out / FIGURES / file.name for _, *pair in drawn for file in pair]
    return Report(out / PAGE, tuple(files), len(found.runs), tuple(warnings))


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ReportError("the report needs jinja2: pip install 'neuroprune[report]'.") from error
    source = resources.files("neuroprune.report").joinpath("templates", _TEMPLATE)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


def _check_free(out: Path) -> None:
    """Refuse a folder whose files are not those of a report."""
    if out.is_file():
        raise ReportError(f"{out} is a file: expected a folder for the report.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    page = out / PAGE
    if not (page.is_file() and _SIGN in page.read_text(encoding="utf-8", errors="replace")):
        raise ReportError(
            f"{out} holds other files and no report: expected a new or empty folder, or one with "
            "an older report, which is replaced."
        )


def _put(figures: Path, place: Path) -> None:
    """Put a folder in the place of another, which goes."""
    place.parent.mkdir(exist_ok=True)
    fresh, old = (place.with_name(f".{place.name}-{what}") for what in ("new", "old"))
    for left in (fresh, old):  # by a report that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    if figures.exists():
        shutil.copytree(figures, fresh)  # a rename would keep the stage's private mode
    if place.exists():
        place.rename(old)
    if fresh.exists():
        fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _warnings(found: Collection, unfinished: Callable[[Experiment], Sequence[str]]) -> list[str]:
    told = [f"{name}: failed: {reason}" for name, reason in found.failures]
    told += found.notes
    told += [f"{e.name}: {text}" for e in found.experiments for text in unfinished(e)]
    for experiment in found.experiments:
        silent = [run.name for run in experiment.runs if run.structure is None]
        if silent:
            told.append(
                f"{experiment.name}: {len(silent)} of {len(experiment.runs)} records come from an "
                "older version and do not say what is left of each matrix; they are in no picture "
                f"of heads, degrees or patterns: {', '.join(silent)}"
            )
        told += [f"{experiment.name}: {text}" for text in not_drawn(experiment)]
    return told


def _context(
    found: Collection,
    drawn: Sequence[tuple[Drawing, Path, Path]],
    graphs: Mapping[str, Mapping[str, Any] | None],
    warnings: Sequence[str],
    root: Path,
) -> dict[str, Any]:
    shown = {e.name: chosen(e) for e in found.experiments}
    compared = {name: comparisons_of(experiment) for name, experiment in shown.items()}
    every = [c for pair in compared.values() for c in pair]
    return {
        "version": metadata.version("neuroprune"),
        "source": root.resolve().name or str(root),
        "runs": len(found.runs),
        "warnings": list(warnings),
        "failed": bool(found.failures),
        "measurements": list(found.measurements),
        "tallies": [tally.sentence() for tally in tallies(every)],
        "rule": what_the_rule_is_worth(every),
        "machine": machines(run.record for run in found.runs),
        "experiments": [
            _section(e, compared[e.name], drawn)
            | {
                "levels": level_rows(shown[e.name]),
                "also": by_other_metrics(shown[e.name]),
                "alone": alone(uncompared(shown[e.name], compared[e.name])),
                "graphs": graphs[e.name],
            }
            for e in found.experiments
        ],
    }


def _section(
    experiment: Experiment,
    compared: Sequence[Comparison],
    drawn: Sequence[tuple[Drawing, Path, Path]],
) -> dict[str, Any]:
    header, rows = experiment_rows(in_order({c.label: c.records for c in experiment.cells}))
    mine = [entry for entry in drawn if entry[0].experiment == experiment.name]
    return {
        "name": experiment.name,
        "slug": experiment.slug,
        "task": f"{experiment.records[0].task}, {experiment.kind or 'task of unknown kind'}",
        "header": header,
        "rows": rows,
        "compared": [{**c.told(), "class": c.verdict.value} for c in compared],
        "groups": [
            (title, [_figure(*entry) for entry in mine if entry[0].kind == kind])
            for kind, title in _KINDS.items()
        ],
        "layers": _layers(experiment),
    }


def _figure(drawing: Drawing, svg: Path, png: Path) -> dict[str, str]:
    return {
        "id": drawing.stem,
        "title": drawing.title,
        "caption": drawing.caption,
        "svg": inlined(svg.read_text(encoding="utf-8"), drawing.stem, drawing.title),
        "svg_file": f"{FIGURES}/{svg.name}",
        "png_file": f"{FIGURES}/{png.name}",
    }


def inlined(svg: str, prefix: str, title: str) -> str:
    """An SVG file as part of a page: without prologue, its identifiers made its own.

    Args:
        svg: the file's text.
        prefix: put before every identifier, so that no two pictures share one; without "--".
        title: what a screen reader says of it.
    """
    found = _OUTER.search(svg)
    view = _VIEW.search(found[0]) if found else None
    if found is None or view is None:
        raise ReportError("expected an SVG with a viewBox, got something else.")
    rest = _METADATA.sub("", svg[found.end() :])
    body = _TAG.sub(lambda tag: _IDS.sub(lambda m: f"{m[1]}{prefix}--", tag[0]), rest)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return (
        f'<svg {view[0]} role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )


def _layers(experiment: Experiment) -> list[str]:
    """Names of the layers, in the order of their classes in the patterns."""
    from neuroprune.report.structures import layer_names

    first = next((s for cell in experiment.cells for s in cell.structures), None)
    return [] if first is None else layer_names(first.layers)


def _graphs(experiment: Experiment) -> Mapping[str, Any] | None:
    found = [(cell.label, graph_summary(cell.runs)) for cell in experiment.cells]
    cells = [
        {"label": label, "summary": summary} for label, summary in found if summary is not None
    ]
    return {"header": HEADER, "notes": NOTES, "cells": cells} if cells else None
