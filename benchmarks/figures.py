"""Draw the pictures of README and docs/results.md from the committed records.

Usage: python benchmarks/figures.py [--check]

Each picture says here what it shows. With --check nothing is written, and pictures that the records
would draw otherwise are named; the same records give the same bytes with the same matplotlib.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from neuroprune.bench.tables import load_records
from neuroprune.cli.settings import chosen_names
from neuroprune.record import RunRecord
from neuroprune.report.collect import collect
from neuroprune.report.pace import plot_pace
from neuroprune.report.pareto import (
    plot_quality_against_sparsity,
    plot_quality_against_speed,
    plot_snapshots,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"
DRAWN_WITH = "3.11.2"  # matplotlib; another one may write the same picture in other bytes

# l1 and Fisher at 95% are left out: runs of them end at chance, and all else would be one line.
SEVEN = (
    *(f"neuroprune-{size}" for size in (25, 50, 70, 80, 90, 95)),
    *(f"l1-{size}" for size in (25, 50, 70, 80, 90)),
    *("fisher-50", "fisher-80"),
    *(f"{m}-??" for m in ("cofi", "magnitude", "movement", "proximal-group")),
)
# So is the paper's mode at 90%.
BOTH_MODES = (
    *("neuroprune-??", "activity-??", "paper-penalty", "paper-prox", "paper-prox-[258]?"),
    *("fisher-50", "fisher-80", "magnitude-??"),
)


def _records(name: str, only: Sequence[str]) -> Mapping[str, Sequence[RunRecord]]:
    records = load_records(RESULTS, name)
    wanted = chosen_names(records, only)
    return {label: group for label, group in records.items() if label in wanted}


def _speed(name: str, only: Sequence[str], path: Path) -> None:
    plot_quality_against_speed(_records(name, only), "accuracy", 32, path)


def _sparsity(name: str, only: Sequence[str], path: Path) -> None:
    plot_quality_against_sparsity(_records(name, only), "accuracy", path)


def _pace(name: str, labels: Sequence[str], path: Path) -> None:
    (experiment,) = collect(RESULTS / name).experiments
    plot_pace("neuroprune", [cell for cell in experiment.cells if cell.label in labels], path)


def _snapshots(name: str, path: Path) -> None:
    plot_snapshots(RESULTS / name, path)


PICTURES: Mapping[str, Callable[[Path], None]] = {
    "sst2-target-speed-batch-32": partial(_speed, "sst2-target", ("*",)),
    "sst2-matrix-speed-batch-32": partial(_speed, "sst2-matrix", SEVEN),
    "sst2-matrix-sparsity": partial(_sparsity, "sst2-matrix", SEVEN),
    "sst2-five-speed-batch-32": partial(_speed, "sst2-matrix", BOTH_MODES),
    "sst2-snapshots": partial(_snapshots, "snapshots/sst2-50-70-80-90/seed-1.json"),
    "mrpc-matrix-pace": partial(
        _pace, "mrpc-matrix", ("neuroprune-25", "neuroprune-70", "neuroprune-90")
    ),
}


def stale() -> list[str]:
    """Pictures that are not those of the records."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in PICTURES.items():
            draw(Path(folder) / name)
            kept = FIGURES / f"{name}.svg"
            if not kept.is_file() or kept.read_bytes() != (Path(folder) / kept.name).read_bytes():
                found.append(kept.name)
    return found


def main() -> int:
    """Draw, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name what is stale")
    if parser.parse_args().check:
        for name in (found := stale()):
            print(f"{name} is not up to date: run python benchmarks/figures.py")
        return int(bool(found))
    for name, draw in PICTURES.items():
        draw(FIGURES / name)
        (FIGURES / f"{name}.png").unlink(missing_ok=True)  # documents show the SVG
        print(FIGURES / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
