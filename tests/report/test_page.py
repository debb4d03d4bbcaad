"""The report: one page that parses, says what the records say, and leaves nothing out."""

from __future__ import annotations

import dataclasses
import html.parser
import re
import urllib.parse
from pathlib import Path

import pytest

from neuroprune.report.collect import collect
from neuroprune.report.drawings import drawings
from neuroprune.report.figure import ReportError
from neuroprune.report.page import Report, inlined, write_report
from tests.report.records import made_up, whole

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
        "heads-importance",
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
    assert "neuroprune is at least as good as the other method in 1 of 1 " in text
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


@pytest.mark.usefixtures("quick_figures")
def test_a_new_report_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for place in ("first/task", "first/other", "second/task"):
        _save(tmp_path / place)
    out = tmp_path / "out"
    write_report(tmp_path / "first", out)
    assert (out / "figures/other-curves.svg").is_file()
    made = write_report(tmp_path / "second", out)
    assert sorted(made.figures) == sorted((out / "figures").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "out", "second"]


@pytest.mark.usefixtures("quick_figures")
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


@pytest.mark.usefixtures("quick_figures")
def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    _save(tmp_path / "results/task")
    page = write_report(tmp_path / "results", tmp_path / "out").page
    before = page.read_bytes()
    (tmp_path / "results/task/neuroprune-50/seed-2.json").write_text("{}")
    with pytest.raises(ReportError, match=r"seed-2\.json"):
        write_report(tmp_path / "results", tmp_path / "out")
    assert page.read_bytes() == before


@pytest.mark.usefixtures("quick_figures")
def test_a_name_cannot_become_markup(tmp_path: Path) -> None:
    _save(tmp_path / "results/a<b>&c")
    text = write_report(tmp_path / "results", tmp_path / "out").page.read_text()
    assert Page(text).open == []
    assert "<b>&c" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_only_an_svg_can_be_put_into_the_page() -> None:
    with pytest.raises(ReportError, match="expected an SVG"):
        inlined("<html></html>", "a", "title")


@pytest.mark.usefixtures("quick_figures")
def test_odd_names_and_names_that_collide_give_sound_files_and_links(tmp_path: Path) -> None:
    ours, l1 = whole(1, 0.8, [[0], [1]], [4, 4]), whole(1, 0.7, [[0], [2]], [4, 4], "l1")
    dsp = whole(1, 0.7, [[0], [2]], [4, 4], "dsp")
    for folder in ("a b", "a-b", "a-b-curves", "summary", "#1?%20"):
        for label, record in {
            "ours/50": ours,
            "ours-50": ours,
            "Ours 50": ours,
            "relative": l1,
            "importance": l1,
            'l1\'s <x>&"y" (z)': l1,
            "dsp": dsp,
        }.items():
            record.save(tmp_path / f"results/{folder}/{label}/seed-1.json")
    made = write_report(tmp_path / "results", tmp_path / "out")
    wanted = drawings(collect(tmp_path / "results"))
    assert len({file.name.casefold() for file in made.figures}) == 2 * len(wanted)
    assert sorted(made.figures) == sorted((tmp_path / "out/figures").iterdir())
    page = Page(made.page.read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), "an identifier stands twice"
    files = 0
    for target in page.targets:
        if target.startswith("#"):
            assert urllib.parse.unquote(target[1:]) in page.ids, target
        else:
            assert (tmp_path / "out" / urllib.parse.unquote(target)).is_file(), target
            files += 1
    assert files == len(made.figures)


def test_every_cell_is_in_the_table_and_in_a_figure(report: Path) -> None:
    page = Page(report.read_text())
    for label in ("neuroprune-50", "neuroprune-75", "l1-50", "dsp-heads4"):
        assert label in page.cells
        for part in (f"{label}, 3 seeds: accuracy", f"{label}: 100% of the rows have a degree"):
            assert any(title.startswith(part) for title in page.titles), part
        assert f"sst2-patterns-{label}" in page.ids


def test_tables_have_headers_for_rows_and_columns(report: Path) -> None:
    text = report.read_text()
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        assert "<caption>" in table
        head, body = table.split("<tbody>")
        assert head.count("<th ") == head.count('<th scope="col"')
        rows = body.count("<tr>")
        assert rows
        assert body.count('<tr><th scope="row"') == rows
    assert text.count("<svg ") == text.count('role="img" aria-label="')


def test_a_metric_that_only_some_records_have_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuroprune.report.page.drawings", lambda found: [])
    record = made_up(1, 0.8, 0.5, 1.0)
    both = {side: {"accuracy": 0.89, "f1": 0.75} for side in ("dense", "pruned")}
    more = made_up(2, 0.7, 0.5, 1.0, "l1")
    more = dataclasses.replace(more, metrics={"names": ["accuracy", "f1"], **both})
    record.save(tmp_path / "results/t/ours/seed-1.json")
    more.save(tmp_path / "results/t/l1/seed-2.json")
    page = Page(write_report(tmp_path / "results", tmp_path / "out").page.read_text())
    assert "f1 (%)" in page.cells
    assert "75.0" in page.cells


def test_the_page_says_what_is_not_shown_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuroprune.report.page.drawings", lambda found: [])
    ours = whole(1, 0.8, [[0, 1, 2, 3]], [4])
    ours.save(tmp_path / "results/t/ours/seed-1.json")
    l1 = made_up(2, 0.7, 0.25, 1.0, "l1")  # of equal sparsity, but no common seed
    l1.save(tmp_path / "results/t/l1/seed-2.json")
    metrics = {"pruned": {"accuracy": 0.8}}
    dataclasses.replace(ours, metrics=metrics).save(tmp_path / "results/t/half/seed-1.json")
    made = write_report(tmp_path / "results", tmp_path / "out")
    assert list(made.warnings) == [
        "t/half/seed-1.json has the quality of the pruned model alone: not shown.",
        "t: ours has 1 of 2 seeds, not 2.",
        "t: l1 has 1 of 2 seeds, not 1.",
        "t: 1 of 2 records come from an older version and do not say what is left of each matrix; "
        "they are in no picture of heads, degrees or patterns: t/l1/seed-2.json",
        "t: no picture of removed heads, since none is removed: ours.",
    ]
    text = made.page.read_text()
    assert "5 notes" in text
    assert "equal sparsity there with a result of the same seed: ours, l1." in text


def test_patterns_are_of_the_first_seed_that_has_them(tmp_path: Path) -> None:
    bare, full = whole(1, 0.8, [[0]], [4]), whole(2, 0.8, [[0]], [4])
    for block in bare.structure["pruned"]["blocks"]:
        for matrix in block["matrices"].values():
            del matrix["pattern"]
    for record in (bare, full):
        record.save(tmp_path / f"t/ours/seed-{record.seed}.json")
    (found,) = [d for d in drawings(collect(tmp_path)) if d.kind == "patterns"]
    assert found.title.endswith("ours, seed 2")


def test_a_single_cell_has_its_figures(tmp_path: Path) -> None:
    whole(1, 0.8, [[0, 1]], [4]).save(tmp_path / "t/ours/seed-1.json")
    made = write_report(tmp_path / "t/ours", tmp_path / "out")
    names = sorted(file.stem for file in made.figures if file.suffix == ".svg")
    parts = "curves degree-spread degrees-ours heads-importance heads-ours patterns-ours"
    assert names == [f"t-{part}" for part in parts.split()]
    assert made.warnings == ()
    titles = Page(made.page.read_text()).titles
    assert any(t.startswith("ours, 1 seed: accuracy (%) 80.000") for t in titles)
    assert any(t.startswith("layer 0, Q: density 0.500, 2 of 4 heads left") for t in titles)
