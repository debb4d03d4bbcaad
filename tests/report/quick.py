"""Files of a few bytes in place of figures, for tests of what stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuroprune.report import drawings


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, every figure is a small file."""

    def draw(*arguments: Any) -> tuple[Path, Path]:
        path = arguments[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        svg, png = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
        svg.write_text('<svg viewBox="0 0 1 1"><path id="p"/><use href="#p"/></svg>')
        png.write_bytes(b"png")
        return svg, png

    for name in [name for name in vars(drawings) if name.startswith("plot_")]:
        monkeypatch.setattr(drawings, name, draw)
