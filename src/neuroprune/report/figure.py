"""What all plots share: colours that everybody can tell apart, labels beside the data, files.

matplotlib is imported when a plot is made. The same numbers give the same bytes with the same
matplotlib: fixed salt for the identifiers of an SVG, and no dates.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroprune.record import write_text_atomic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; yellow is left out, since it cannot be seen on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6B6B6B"
LEGEND_COLUMNS = 5
_SHADES = "viridis"
_FEWEST = 3.0  # of what is counted, the width of an axis
_MARK = re.compile(
    r'<(?P<tag>g|image)(?P<before>[^<>]*?) id="mark:(?P<part>[^"|]*)\|(?P<text>[^"]*)"'
    r"(?P<after>[^<>]*)>"
)
_SETTINGS: Any = {
    "svg.hashsalt": "neuroprune",
    "svg.fonttype": "none",  # text stays text: it can be searched, and read by a screen reader
    "font.family": ["DejaVu Sans", "sans-serif"],  # the first one ships with matplotlib
    "font.size": 10,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "errorbar.capsize": 2.5,
}


class ReportError(ValueError):
    """A plot cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class Label:
    """A text beside a point.

    Args:
        text: what it says.
        x: the point, in the data's units.
        y: the point, in the data's units.
        color: of the text.
        size: of the text, in points.
    """

    text: str
    x: float
    y: float
    color: str
    size: float = 10.0


@contextmanager
def figure(title: str, right: float = 0.8) -> Iterator[tuple[Figure, Axes]]:
    """An empty plot in the house's style.

    Args:
        title: above it.
        right: where the plot ends, as a share of the width; what follows is free for texts.

    Raises:
        ReportError: matplotlib is not installed.
    """
    with canvas(7.6, 4.4) as made:
        made.subplots_adjust(left=0.09, right=right, bottom=0.12, top=0.92)
        axes = made.add_subplot()
        axes.set_title(title, loc="left", fontsize=11)
        yield made, axes


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """An empty page in the house's style.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        ReportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError("plots need matplotlib: pip install 'neuroprune[report]'.") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own style
        matplotlib.rcParams.update(_SETTINGS)
        made = Figure(figsize=(width, height))
        FigureCanvasAgg(made)  # no window, no global state
        yield made


def mark(artist: Artist, text: str = "", part: str = "") -> None:
    """Give what is drawn a text to show over it, and a class by which a page can find it.

    Args:
        artist: what is drawn; an image has a class only.
        text: what a browser shows over it.
        part: the class.
    """
    artist.set_gid(f"mark:{part}|{text}")


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every line; the first one stands out.

    Args:
        names: of the lines, in order.
    """
    return {
        name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }


def shade(number: int, of: int) -> str:
    """Colour of a setting of one method, dark to light in the order of the settings.

    Args:
        number: of the setting, from 0.
        of: how many there are.
    """
    import matplotlib
    from matplotlib.colors import to_hex

    return to_hex(matplotlib.colormaps[_SHADES](0.85 * number / max(of - 1, 1)))


def whole_ticks(axes: Axes) -> None:
    """Ticks of x at whole numbers only, for what is counted; room for at least three.

    Args:
        axes: the plot, with everything in it.
    """
    from matplotlib.ticker import MaxNLocator

    left, right = axes.get_xlim()
    if abs(right - left) < _FEWEST:
        middle, half = (left + right) / 2, math.copysign(_FEWEST / 2, right - left)
        axes.set_xlim(middle - half, middle + half)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend(
    made: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int = LEGEND_COLUMNS
) -> int:
    """Names of the lines, below all panels, in fewer columns where they are wider than the plot.

    Args:
        made: the plot.
        handles: one per line.
        names: of the lines.
        columns: how many stand beside each other, at most.

    Returns:
        Rows that they take.
    """
    for count in range(min(columns, max(len(names), 1)), 0, -1):
        drawn = made.legend(
            handles, names, loc="outside lower center", ncols=count, frameon=False, fontsize=9
        )
        if count == 1 or drawn.get_window_extent().width <= made.bbox.width:
            break
        drawn.remove()
    return -(-len(names) // count)


def save(made: Figure, path: Path) -> tuple[Path, Path]:
    """Write a plot as SVG and as PNG.

    Args:
        made: the plot.
        path: of the files, with or without ".svg" or ".png".

    Returns:
        The two files.
    """
    stem = path.name.removesuffix(".svg").removesuffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    svg, png = path.with_name(f"{stem}.svg"), path.with_name(f"{stem}.png")
    drawn = io.StringIO()
    made.savefig(drawn, format="svg", metadata={"Date": None, "Creator": "neuroprune"})
    write_text_atomic(svg, _MARK.sub(_marked, drawn.getvalue()))
    made.set_layout_engine("none")  # what was just laid out stays where it is
    half = png.with_name(f".{png.name}")
    made.savefig(half, format="png", dpi=160, metadata={"Software": "neuroprune"})
    half.replace(png)
    return svg, png


def _marked(found: re.Match[str]) -> str:
    """The opening tag with a class and a title in place of the identifier."""
    part = f' class="{found["part"]}"' if found["part"] else ""
    title = f"<title>{found['text']}</title>" if found["text"] and found["tag"] == "g" else ""
    return f"<{found['tag']}{found['before']}{part}{found['after']}>{title}"


def write_labels(
    axes: Axes, labels: Sequence[Label], lines: Sequence[Sequence[tuple[float, float]]]
) -> None:
    """Write every text where it covers neither a point, nor a line, nor another text.

    A thin line leads to one that had to go far. Call it last: it measures the plot as it stands.
    The margin on the right is free for texts.

    Args:
        axes: the plot, whose limits are fixed from now on.
        labels: the texts; the first ones choose first.
        lines: what must not be covered, in the data's units: points, and the lines between them.
    """
    made = axes.get_figure(root=True)
    assert made is not None
    made.draw_without_rendering()  # brings limits and ticks up to date
    pixels = made.dpi / 72.0
    inside = axes.get_window_extent()
    frame = (inside.x0, inside.y0, made.bbox.x1, inside.y1)
    taken = [box for line in lines for box in _covered(axes.transData.transform(line), pixels)]
    for label in labels:
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=_ink(label.color),
            fontsize=label.size,
        )
        x, y = axes.transData.transform((label.x, label.y))
        extent = text.get_window_extent()
        places = [
            (dx, dy, _box(x + dx, y + dy, extent.width, extent.height))
            for dx, dy in _places(extent.width, extent.height, pixels)
        ]
        costs = [
            sum(_overlap(box, other) for other in taken) + 10.0 * _outside(box, frame)
            for _, _, box in places
        ]
        dx, dy, box = places[costs.index(min(costs))]  # the first of the best: the nearest
        text.set_position((dx / pixels, dy / pixels))
        taken.append(box)
        if costs.index(min(costs)) >= _FAR:
            _lead(axes, label, (dx / pixels, dy / pixels), extent.width / pixels / 2)


def _lead(axes: Axes, label: Label, middle: tuple[float, float], half: float) -> None:
    """A thin line from a point to the nearer end of its text; offsets in points."""
    x, y = middle
    end = x - half if x > half else x + half if x < -half else x
    axes.annotate(
        "",
        (label.x, label.y),
        xytext=(end, y),
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "color": _ink(label.color),
            "linewidth": 0.6,
            "shrinkA": 1.0,
            "shrinkB": 4.0,
        },
    )


def _ink(color: str) -> tuple[float, ...]:
    """A darker shade, in which small text can be read."""
    return tuple(0.75 * int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


_Box = tuple[float, float, float, float]


_FAR = 3 * 8  # places of the first three gaps


def _places(width: float, height: float, pixels: float) -> Iterator[tuple[float, float]]:
    """Offsets of a text's middle from its point, the preferred ones first."""
    for gap in (6.0, 10.0, 16.0, 24.0, 36.0):
        aside, above = width / 2 + gap * pixels, height / 2 + gap * pixels
        yield from ((aside, 0.0), (0.0, above), (0.0, -above), (-aside, 0.0))
        yield from ((aside, above), (aside, -above), (-aside, above), (-aside, -above))


def _covered(line: Any, pixels: float) -> Iterator[_Box]:
    """Small boxes along a line, and larger ones for its markers; in pixels."""
    previous = None
    for x, y in line:
        yield _box(x, y, 9.0 * pixels, 9.0 * pixels)
        if previous is not None:
            steps = int(max(abs(x - previous[0]), abs(y - previous[1])) / (3.0 * pixels))
            for i in range(1, steps):
                part = i / steps
                middle = (
                    previous[0] + part * (x - previous[0]),
                    y + (part - 1) * (y - previous[1]),
                )
                yield _box(*middle, 3.0 * pixels, 3.0 * pixels)
        previous = (x, y)


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: _Box, frame: _Box) -> float:
    """Area of a box that lies outside the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
