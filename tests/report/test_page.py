"""The report: one page that parses, says what the records say, and leaves nothing out."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest

from neuroprune.report.figure import ReportError
from neuroprune.report.page import Report, inlined, write_report
from tests.report.records import made_up

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects identifiers, references and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href", "src"):
                self.targets.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data.strip())
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


@pytest.fixture(scope="module")
def report(whole_report: Report) -> Path:
    assert whole_report.runs == 12
    return whole_report.page


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(report: Path) -> None:
    page = Page(report.read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), "an identifier stands twice"
    for target in page.targets:
        if target.startswith("#"):
            assert target[1:] in page.ids, target
        elif not target.startswith("data:"):
            assert (report.parent / target).is_file(), target
    used = set(re.findall(r"url\(#([^)]+)\)", report.read_text()))
    assert used <= set(page.ids)


def test_every_figure_of_the_paper_is_there(report: Path) -> None:
    ids = Page(report.read_text()).ids
    for name in (
        "curves",
        "equal-heads",
        "heads-neuroprune",
        "heads-dsp-heads",
        "heads-relative",
        "degree-spread",
        "degrees-l1",
        "patterns-neuroprune-75",
    ):
        assert f"sst2-{name}" in ids
        for ending in ("svg", "png"):
            assert (report.parent / f"figures/sst2-{name}.{ending}").stat().st_size > 1000


def test_tables_and_comparisons_say_what_the_records_say(report: Path) -> None:
    page, text = Page(report.read_text()), report.read_text()
    assert "86.2 ± 0.1" in page.cells  # mean and deviation of 86.1, 86.2 and 86.3
    assert "+1.00 ± 0.00" in page.cells  # ours minus l1, the same in every pair
    assert "Against l1, NeuroPrune is at least as good in 1 of 1 comparisons" in text
    assert "Compared with nothing" in text
    assert "dsp-heads4" in text


def test_what_failed_is_named(report: Path) -> None:
    assert "sst2/l1-75/seed-1.failed.txt: failed: the loss became nan" in report.read_text()


def test_hovering_tells_the_numbers(report: Path) -> None:
    titles = Page(report.read_text()).titles
    assert any(t.startswith("neuroprune-50, 3 seeds: accuracy (%) 86.200") for t in titles)
    assert "layer 1, head 0: removed in 100% of 6 models" in titles


def _save(path: Path) -> None:
    """A record that gives one figure."""
    made_up(1, 0.8, 0.5, 2.0).save(path / "neuroprune-50/seed-1.json")


def test_a_new_report_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for place in ("first/task", "first/other", "second/task"):
        _save(tmp_path / place)
    out = tmp_path / "out"
    write_report(tmp_path / "first", out)
    assert (out / "figures/other-curves.svg").is_file()
    made = write_report(tmp_path / "second", out)
    assert sorted(made.figures) == sorted((out / "figures").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "out", "second"]


def test_records_that_are_in_no_picture_are_named(tmp_path: Path) -> None:
    _save(tmp_path / "results/task")
    made = write_report(tmp_path / "results", tmp_path / "out")
    told = "task: 1 of 1 records come from an older version"
    assert any(w.startswith(told) and "task/neuroprune-50/seed-1.json" in w for w in made.warnings)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    _save(tmp_path / "results/task")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ReportError, match="holds other files and no report"):
        write_report(tmp_path / "results", tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    _save(tmp_path / "results/task")
    page = write_report(tmp_path / "results", tmp_path / "out").page
    before = page.read_bytes()
    (tmp_path / "results/task/neuroprune-50/seed-2.json").write_text("{}")
    with pytest.raises(ReportError, match=r"seed-2\.json"):
        write_report(tmp_path / "results", tmp_path / "out")
    assert page.read_bytes() == before


def test_a_name_cannot_become_markup(tmp_path: Path) -> None:
    _save(tmp_path / "results/a<b>&c")
    text = write_report(tmp_path / "results", tmp_path / "out").page.read_text()
    assert Page(text).open == []
    assert "<b>&c" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_only_an_svg_can_be_put_into_the_page() -> None:
    with pytest.raises(ReportError, match="expected an SVG"):
        inlined("<html></html>", "a", "title")
