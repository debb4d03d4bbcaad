"""The numbers in README are those of the committed records."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroprune.bench.tables import stale_tables

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_readme_are_up_to_date() -> None:
    document = ROOT / "README.md"
    if "<!-- table:" not in document.read_text(encoding="utf-8"):
        pytest.skip("README.md has no table markers")
    stale = stale_tables(document, ROOT / "benchmarks" / "results")
    assert stale == [], "run `neuroprune bench table README.md`"
