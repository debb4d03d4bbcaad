"""The report in a real browser: it opens from a file, without an error, and picks out a layer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from neuroprune.report.page import Report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
# Appended to the page: chooses the second layer, and writes down what can be seen of it.
_CHECK = """
<script>
document.querySelector('.pick button[data-layer="1"]').click();
const faded = document.querySelectorAll("svg .faded");
const other = [...faded].filter((part) => part.classList.contains("layer-1"));
document.title = `faded ${faded.length}, of layer 1 ${other.length}, figures ` +
  document.querySelectorAll("figure svg").length + ", empty " +
  [...document.querySelectorAll("figure svg")].filter((s) => s.closest("details:not([open])") ===
    null && s.getBoundingClientRect().height < 50).length;
</script>
"""


def _open(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None  # otherwise skipped
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            *arguments,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_the_page_opens_without_an_error_and_picks_out_a_layer(
    whole_report: Report, tmp_path: Path
) -> None:
    checked = whole_report.page.with_name("checked.html")
    checked.write_text(whole_report.page.read_text().replace("</body>", f"{_CHECK}</body>"))
    done = _open(checked, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    said = re.search(
        r"<title>faded (\d+), of layer 1 (\d+), figures (\d+), empty (\d+)</title>", done.stdout
    )
    assert said is not None, done.stdout[:500]
    faded, wrongly, figures, empty = map(int, said.groups())
    assert faded > 0
    assert (wrongly, figures, empty) == (0, len(whole_report.figures) // 2, 0)


def test_a_screenshot_shows_more_than_an_empty_page(whole_report: Report, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shot = tmp_path / "shot.png"
    _open(whole_report.page, tmp_path, f"--screenshot={shot}", "--window-size=1200,4000")
    with image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 100
