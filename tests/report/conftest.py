"""One report with every kind of figure, drawn once: drawing takes most of the tests' time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroprune.report import drawings
from neuroprune.report.page import Report, write_report
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
    """Files of a few bytes in place of figures, for tests of what stands around them."""

    def draw(*arguments: Any) -> tuple[Path, Path]:
        path = arguments[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        svg, png = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
        svg.write_text('<svg viewBox="0 0 1 1"><path id="p"/><use href="#p"/></svg>')
        png.write_bytes(b"png")
        return svg, png

    for name in [name for name in vars(drawings) if name.startswith("plot_")]:
        monkeypatch.setattr(drawings, name, draw)
