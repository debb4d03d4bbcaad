"""Plots: the files are sound, say what they show, and are the same every time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from neuroprune.report import pareto
from neuroprune.report.figure import Label, ReportError, figure, write_labels
from neuroprune.report.pareto import (
    plot_quality_against_sparsity,
    plot_quality_against_speed,
    plot_snapshots,
)
from neuroprune.report.snapshots import read_snapshots
from tests.report.records import experiment, made_up

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


def texts(svg: Path) -> list[str]:
    """Every text of an SVG that parses."""
    root = ElementTree.parse(svg).getroot()
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()).strip() for element in found]


def test_a_start_that_was_cut_before_stands_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = experiment()
    for group in records.values():
        for record in group:
            record.sizes["dense"]["structural_sparsity"] = 0.3
    found = texts(plot_quality_against_speed(records, "accuracy", 32, tmp_path / "s")[0])
    assert "start" in found
    assert "dense" not in found
    assert any(text.startswith("speed-up (x start)") for text in found)
    places = []
    draw = pareto._draw_dense
    monkeypatch.setattr(pareto, "_draw_dense", lambda *a: places.append(a[1]) or draw(*a))
    assert "start" in texts(plot_quality_against_sparsity(records, "accuracy", tmp_path / "p")[0])
    assert places == [pytest.approx(30.0)]


def test_speed_has_one_line_per_method_and_a_label_at_each(tmp_path: Path) -> None:
    svg, png = plot_quality_against_speed(experiment(), "accuracy", 32, tmp_path / "a/speed.svg")
    assert (svg, png) == (tmp_path / "a/speed.svg", tmp_path / "a/speed.png")
    assert png.read_bytes().startswith(PNG)
    found = texts(svg)
    for once in ("neuroprune", "magnitude-units", "l1", "dense", "95"):
        assert found.count(once) == 1, once
    assert found.count("50") == 2  # a setting of both
    assert "accuracy (%)" in found
    assert "speed-up (x dense): forward pass, batch 32 x 64 tokens" in found
    assert "sst2: accuracy, mean ± sd over 1 to 3 seeds" in found  # of l1 there is one run
    whole = {label: group for label, group in experiment().items() if label != "l1"}
    svg, _ = plot_quality_against_speed(whole, "accuracy", 32, tmp_path / "b")
    assert "sst2: accuracy, mean ± sd over 3 seeds" in texts(svg)


def test_sparsity_says_what_it_is_a_share_of(tmp_path: Path) -> None:
    svg, _ = plot_quality_against_sparsity(experiment(), "accuracy", tmp_path / "sst2-0.8")
    assert svg.name == "sst2-0.8.svg"  # a number in the name is no file type
    assert "structural sparsity (% of the dense model's prunable weights)" in texts(svg)


def test_a_setting_that_the_axis_tells_is_not_written_beside_its_point(tmp_path: Path) -> None:
    records = {
        "neuroprune-53": [made_up(1, 0.8, 0.53, 2.0)],  # no number of an axis
        "neuroprune-83": [made_up(1, 0.8, 0.83, 3.0)],
        "neuroprune-97": [made_up(1, 0.8, 0.9, 4.0)],  # it missed what it was asked for
    }
    found = texts(plot_quality_against_sparsity(records, "accuracy", tmp_path / "p")[0])
    assert "neuroprune" in found
    assert [name in found for name in ("53", "83", "97")] == [False, False, True]
    found = texts(plot_quality_against_speed(records, "accuracy", 32, tmp_path / "s")[0])
    assert all(name in found for name in ("53", "83", "97"))


def test_one_setting_alone_keeps_its_name(tmp_path: Path) -> None:
    records = {"neuroprune-80": [made_up(1, 0.8, 0.8, 3.0)]}
    found = texts(plot_quality_against_speed(records, "accuracy", 32, tmp_path / "p")[0])
    assert "neuroprune-80" in found
    assert "sst2: accuracy, one seed" in found


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        plot_quality_against_speed(experiment(), "accuracy", 32, tmp_path / name)
        for name in ("first", "second")
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[0].read_bytes()


def test_a_style_of_the_user_changes_nothing(tmp_path: Path) -> None:
    import matplotlib

    plain = plot_quality_against_sparsity(experiment(), "accuracy", tmp_path / "plain")[0]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        styled = plot_quality_against_sparsity(experiment(), "accuracy", tmp_path / "styled")[0]
        assert matplotlib.rcParams["font.size"] == 30
    assert plain.read_bytes() == styled.read_bytes()


def test_labels_keep_clear_of_each_other_and_stay_inside() -> None:
    with figure("labels") as (made, axes):
        line = [(0.0, 0.0), (1.0, 1.0)]
        axes.plot(*zip(*line, strict=True))
        points = [(0.5, 0.5)] * 3 + [(1.0, 1.0)]
        labels = [Label(f"label {i}", x, y, "#0072B2") for i, (x, y) in enumerate(points)]
        write_labels(axes, labels, [line])
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 4
        for i, box in enumerate(boxes):
            assert box.x1 <= made.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])
            along = axes.transData.transform([(t / 200, t / 200) for t in range(201)])
            assert not any(box.contains(*point) for point in along)


@pytest.mark.parametrize(
    ("metric", "batch", "message"),
    [
        ("f1", 32, r"neuroprune-50: expected the metric 'f1' in every record, got accuracy"),
        ("accuracy", 7, r"neuroprune-50: .*no speed-up at batch 7: add 7 to .*speed_batches"),
    ],
)
def test_what_a_record_lacks_is_named(
    tmp_path: Path, metric: str, batch: int, message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        plot_quality_against_speed(experiment(), metric, batch, tmp_path / "plot")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("records", [{}, {"neuroprune": []}])
def test_nothing_to_plot(tmp_path: Path, records: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="run `neuroprune bench run` first"):
        plot_quality_against_sparsity(records, "accuracy", tmp_path / "plot")


def test_without_matplotlib_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReportError, match=r"pip install 'neuroprune\[report\]'"):
        plot_quality_against_sparsity(experiment(), "accuracy", tmp_path / "plot")


def _snapshots(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_snapshots_are_points_of_one_training(tmp_path: Path) -> None:
    entries = [
        {"structural_sparsity": share, "metrics": {"accuracy": 0.9 - 0.1 * share}}
        for share in (0.8, 0.5)
    ]
    whole = {"metric": "accuracy", "dense": {"accuracy": 0.9}, "snapshots": entries}
    with_dense = plot_snapshots(_snapshots(tmp_path / "a.json", whole), tmp_path / "a")[0]
    assert {"50%", "80%", "dense", "accuracy (%)"} <= set(texts(with_dense))
    alone = plot_snapshots(_snapshots(tmp_path / "b.json", entries), tmp_path / "b")[0]
    assert "dense" not in texts(alone)


def test_snapshots_of_a_record_end_with_the_finished_model(tmp_path: Path) -> None:
    record = made_up(1, 0.8, 0.85, 2.0)
    taken = [{"structural_sparsity": share, "metrics": {"accuracy": 0.7}} for share in (0.5, 0.8)]
    training = {**record.training, "pruned": {"snapshots": taken}}
    dataclasses.replace(record, training=training).save(tmp_path / "seed-1.json")
    found = read_snapshots(tmp_path / "seed-1.json")
    assert found.points == ((0.5, 0.7), (0.8, record.metrics["pruned"]["accuracy"]))
    assert found.dense == record.metrics["dense"]["accuracy"]
    record.save(tmp_path / "none.json")
    with pytest.raises(ReportError, match="expected a list of snapshots"):
        read_snapshots(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "expected a JSON file of snapshots"),
        ([], "expected a list of snapshots"),
        ({"snapshots": {}}, "expected a list of snapshots"),
        ([{"metrics": {"accuracy": 0.9}}], "expected 'structural_sparsity'"),
        ([{"structural_sparsity": 0.5}], "expected 'structural_sparsity' and 'metrics'"),
        ([{"structural_sparsity": 0.5, "metrics": {}}], "with 'quality' in every snapshot"),
        ([3], "expected 'structural_sparsity'"),
        ({"record_version": 1, "task": "t"}, "a RunRecord has the keys"),
    ],
)
def test_a_file_of_another_form(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        plot_snapshots(_snapshots(tmp_path / "s.json", data), tmp_path / "plot")


def test_importing_the_report_imports_nothing_heavy() -> None:
    code = (
        "import sys; import neuroprune.report.pareto; "
        "print([m for m in ('torch', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
