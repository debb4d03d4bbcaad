"""The numbers in README and in the design notes are those of the committed records."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from neuroprune.bench.tables import stale_tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/results.md", "docs/design/0006-connectivity.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_of_a_document_are_up_to_date(name: str) -> None:
    stale = stale_tables(ROOT / name, ROOT / "benchmarks" / "results")
    assert stale == [], f"run `neuroprune bench table {name}`"


def test_the_pictures_are_those_of_the_records() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    script = runpy.run_path(str(ROOT / "benchmarks" / "figures.py"))
    if matplotlib.__version__ != script["DRAWN_WITH"]:
        pytest.skip(f"drawn with matplotlib {script['DRAWN_WITH']}, not {matplotlib.__version__}")
    assert script["stale"]() == [], "run `python benchmarks/figures.py`"
    drawn = {f"{name}.svg" for name in script["PICTURES"]}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}


def test_no_other_document_has_tables() -> None:
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        if "<!-- /table -->\n" in path.read_text(encoding="utf-8")
    }
    assert marked == set(DOCUMENTS)
