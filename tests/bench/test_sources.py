"""The files that records are made from: beside the results, or copied among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroprune.bench.captions import caption, unfinished
from neuroprune.bench.sources import keep_sources, not_begun, sources_of
from tests.report.records import made_up

ROOT = Path(__file__).parents[2]
MATRIX = ROOT / "benchmarks/matrices/scitldr.toml"
EXPERIMENT = ROOT / "benchmarks/experiments/reviews"


def test_a_matrix_is_copied_and_says_what_was_wanted(tmp_path: Path) -> None:
    results = tmp_path / "my-results"
    record = made_up(1, 0.8, 0.5, 2.0)
    groups = {"neuroprune-50": [record]}
    assert unfinished(results, "scitldr-matrix", groups) == ""  # nobody knows
    keep_sources([MATRIX], results)
    copy = results / "scitldr-matrix/matrix.toml"
    assert copy.read_text() == MATRIX.read_text()
    assert sources_of(results, "scitldr-matrix") == [copy]
    said = unfinished(results, "scitldr-matrix", groups)
    assert "Not run yet: neuroprune-50, -80; " in said and "l1-50, -80" in said
    again = caption(results, "scitldr-matrix", groups, "my-results")
    assert "`neuroprune bench run my-results/scitldr-matrix/matrix.toml --only " in again
    keep_sources([copy], results)  # going on from the copy
    assert copy.read_text() == MATRIX.read_text()


def test_an_older_copy_is_replaced(tmp_path: Path) -> None:
    keep_sources([MATRIX], tmp_path)
    changed = tmp_path / "new.toml"
    changed.write_text(MATRIX.read_text().replace("seeds = [1, 2, 3]", "seeds = [1]"))
    keep_sources([changed], tmp_path)
    assert "seeds = [1]" in (tmp_path / "scitldr-matrix/matrix.toml").read_text()


def test_experiments_are_copied_cell_by_cell(tmp_path: Path) -> None:
    keep_sources([EXPERIMENT], tmp_path)
    own = EXPERIMENT / "target-80/config.toml"
    assert (tmp_path / "reviews/target-80/config.toml").read_text() == own.read_text()
    assert sources_of(tmp_path, "reviews") == [tmp_path / "reviews"]
    groups = {"other": [made_up(1, 0.8, 0.5, 2.0)]}
    assert "Not run yet: target-80." in unfinished(tmp_path, "reviews", groups)


@pytest.mark.parametrize("path", [MATRIX, EXPERIMENT])
def test_beside_the_results_nothing_is_copied(path: Path, tmp_path: Path) -> None:
    project = tmp_path / "benchmarks"
    (project / "matrices").mkdir(parents=True)
    (project / "matrices/scitldr.toml").write_text(MATRIX.read_text())
    (project / "experiments/reviews/target-80").mkdir(parents=True)
    own = EXPERIMENT / "target-80/config.toml"
    (project / "experiments/reviews/target-80/config.toml").write_text(own.read_text())
    keep_sources([path], project / "results")
    assert not (project / "results").exists()


def test_what_was_not_begun_is_known(tmp_path: Path) -> None:
    project = tmp_path / "benchmarks"
    for name in ("scitldr", "rte"):
        (project / "matrices").mkdir(parents=True, exist_ok=True)
        own = ROOT / f"benchmarks/matrices/{name}.toml"
        (project / f"matrices/{name}.toml").write_text(own.read_text())
    for name in ("reviews/target-80", "reviews/other", "demo"):
        (project / "experiments" / name).mkdir(parents=True)
        (project / "experiments" / name / "config.toml").write_text("")
    results = project / "results"
    assert not_begun(results) == ["rte-matrix", "scitldr-matrix", "demo", "reviews"]
    made_up(1, 0.8, 0.5, 2.0).save(results / "rte-matrix/l1-50/seed-1.json")
    made_up(1, 0.8, 0.5, 2.0).save(results / "reviews/other/seed-1.json")
    assert not_begun(results) == ["scitldr-matrix", "demo"]
    assert not_begun(tmp_path / "elsewhere") == []
