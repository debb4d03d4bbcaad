"""One report with every kind of figure, drawn once: drawing takes most of the tests' time."""

from __future__ import annotations

import pytest

from neuroprune.report.page import Report, write_report
from tests.report.quick import draw_quickly
from tests.report.records import save_experiment


@pytest.fixture(scope="session")
def whole_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of `save_experiment`, with one failed run."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    root = tmp_path_factory.mktemp("report")
    save_experiment(root / "results")
    (root / "results/sst2/l1-75").mkdir()
    (root / "results/sst2/l1-75/seed-1.failed.txt").write_text("the loss became nan\n")
    return write_report(root / "results", root / "out")


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `draw_quickly`."""
    draw_quickly(monkeypatch)
