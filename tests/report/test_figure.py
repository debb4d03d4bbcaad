"""What a figure's file holds: titles to hover, classes, and identifiers that a page can share."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from neuroprune.report.figure import canvas, mark, save
from neuroprune.report.names import slug, unique
from neuroprune.report.page import inlined

pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"
DOLLARS = r"costs $1, \no$ more"
ODD = """a "quoted" <b> & 'c' | 50% > 5"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A point with a text and a class, one with a text alone, an image, and a plain line."""
    with canvas(2.0, 2.0) as made:
        axes = made.add_subplot()
        (first,) = axes.plot([0.5], [0.5], marker="o")
        (second,) = axes.plot([0.6], [0.6], marker="s")
        axes.plot([0.0, 1.0], [0.0, 1.0])
        axes.set_title(DOLLARS)
        mark(first, ODD, "layer layer-1")
        mark(second, "plain")
        mark(axes.imshow([[0.0, 1.0]]), "never shown", "layer layer-0")
        return save(made, tmp_path_factory.mktemp("figure") / "a.b")[0]


def test_a_mark_becomes_a_title_and_a_class(drawn: Path) -> None:
    root = ElementTree.parse(drawn).getroot()
    titles = [e for e in root.iter(f"{SVG}g") if e.find(f"{SVG}title") is not None]
    told = {e.findtext(f"{SVG}title"): e.get("class") for e in titles}
    assert told == {ODD: "layer layer-1", "plain": None}
    assert all(next(iter(e)).tag == f"{SVG}title" for e in titles), "a title comes first"
    assert not any(e.get("id") for e in titles)
    (image,) = root.iter(f"{SVG}image")
    assert image.get("class") == "layer layer-0"
    assert "mark:" not in drawn.read_text()
    assert "never shown" not in drawn.read_text()


def test_a_dollar_in_a_name_is_a_dollar(drawn: Path) -> None:
    texts = ["".join(e.itertext()) for e in ElementTree.parse(drawn).getroot().iter(f"{SVG}text")]
    assert DOLLARS in texts


def test_a_dot_in_a_name_is_no_ending(drawn: Path) -> None:
    assert [p.name for p in sorted(drawn.parent.iterdir())] == ["a.b.png", "a.b.svg"]


def test_identifiers_and_all_references_to_them_become_the_pictures_own(drawn: Path) -> None:
    svg = inlined(drawn.read_text(), "one", 'a "title" & <more>')
    assert 'aria-label="a &quot;title&quot; &amp; &lt;more>"' in svg
    assert "<metadata>" not in svg
    assert "<?xml" not in svg
    root = ElementTree.fromstring(svg)
    ids = [e.get("id", "") for e in root.iter() if e.get("id")]
    assert ids
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one--") for name in ids)
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
    assert any(link for link, _ in references), "markers are used by reference"
    assert any(clip for _, clip in references), "the axes clip what they show"
    assert {link or clip for link, clip in references} <= set(ids)


def test_every_form_of_reference_is_met_and_no_text_is_touched() -> None:
    body = (
        '<defs><path id="m1"/><clipPath id="c1"/></defs><text x="1">say id="m1" and url(#c1)</text>'
        '<use xlink:href="#m1"/><use href="#m1"/><image xlink:href="data:image/png;base64,AA=="/>'
        '<g clip-path="url(#c1)" style="fill: url(#c1)" data-grid="m1"/></svg>'
    )
    found = inlined(f'<?xml version="1.0"?><svg width="1" viewBox="0 0 1 1">{body}', "p", "t")
    assert found.endswith(
        '<defs><path id="p--m1"/><clipPath id="p--c1"/></defs>'
        '<text x="1">say id="m1" and url(#c1)</text><use xlink:href="#p--m1"/>'
        '<use href="#p--m1"/><image xlink:href="data:image/png;base64,AA=="/>'
        '<g clip-path="url(#p--c1)" style="fill: url(#p--c1)" data-grid="m1"/></svg>'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sst2-matrix", "sst2-matrix"),
        ("a/b c#d%e?f", "a-b-c-d-e-f"),
        ("t, sst2 (2)", "t-sst2-2"),
        ("a--b", "a-b"),
        ("../up", "up"),
        ("0.5", "0.5"),
        ("url(x)", "url-x"),
        ("", "x"),
        ("…", "x"),
    ],
)
def test_a_slug_holds_nothing_that_a_link_cannot(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_equal_names_are_numbered() -> None:
    assert unique(["a", "a", "A", "b", "a-2"], ["b"]) == ["a", "a-2", "A-3", "b-2", "a-2-2"]
