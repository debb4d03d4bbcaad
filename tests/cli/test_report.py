"""`neuroprune report` on the command line: what it writes, says and refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroprune.cli.app import app
from tests.report.quick import draw_quickly
from tests.report.records import made_up

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
MATRIX = """
name = "small"
seeds = [1, 2]
[model]
source = "tiny"
[task]
kind = "classification"
name = "sst2"
files = { train = "train.jsonl", test = "test.jsonl" }
[methods.l1]
name = "l1"
target = 0.5
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_quickly(monkeypatch)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_it_names_what_the_matrix_wants_and_is_not_there(tmp_path: Path) -> None:
    made_up(1, 0.8, 0.5, 2.0, "neuroprune").save(tmp_path / "results/small/ours/seed-1.json")
    (tmp_path / "matrices").mkdir()
    (tmp_path / "matrices/small.toml").write_text(MATRIX)
    code, out, _ = run(tmp_path / "results", "--out", tmp_path / "out", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["runs"] == 1
    assert Path(said["page"]).is_file()
    assert all(Path(file).is_file() for file in said["figures"])
    assert "small: Not run yet: l1. In no experiment or matrix: ours." in said["warnings"]


def test_a_folder_of_a_training_has_a_report_of_its_own(tmp_path: Path) -> None:
    made_up(1, 0.8, 0.5, 2.0).save(tmp_path / "runs/demo/record.json")
    (tmp_path / "runs/demo/pruned").mkdir()
    (tmp_path / "runs/demo/pruned/config.json").write_text("{}")  # not a record
    code, out, _ = run(tmp_path / "runs/demo", "--out", tmp_path / "out")
    assert code == 0
    assert f"1 run, 1 figure: {tmp_path / 'out/index.html'}" in out.splitlines()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "does not exist: expected a folder of records"),
        ("empty", {}, "has no record of a training below it"),
        ("foreign", {"seed-1.json": '{"something": "else"}'}, "holds records and nothing else"),
        (
            "other",
            {"seed-1.json": '{"record_version": 99}'},
            "expected a RunRecord of version 1, got 99",
        ),
    ],
)
def test_a_wrong_folder_is_refused_by_name(
    tmp_path: Path, name: str, content: dict[str, str] | None, message: str
) -> None:
    folder = tmp_path / name
    if content is not None:
        folder.mkdir()
        for file, text in content.items():
            (folder / file).write_text(text)
    code, _, said = run(folder, "--out", tmp_path / "out")
    assert code == 2
    assert message in " ".join(said.split())
    assert str(folder) in said
    assert not (tmp_path / "out").exists()


def _small(tmp_path: Path) -> Path:
    """Records of two of three cells, beside the matrix that wants the third one."""
    for label, method in (("ours", "neuroprune"), ("dsp[red]", "dsp")):
        made_up(1, 0.8, 0.5, 2.0, method).save(tmp_path / f"results/small/{label}/seed-1.json")
    (tmp_path / "matrices").mkdir()
    (tmp_path / "matrices/small.toml").write_text(MATRIX)
    return tmp_path / "results"


@pytest.mark.parametrize("below", ["", "small", "small/ours"])
def test_what_the_matrix_wants_is_known_from_any_folder(tmp_path: Path, below: str) -> None:
    code, out, _ = run(_small(tmp_path) / below, "--out", tmp_path / "out")
    assert code == 0
    assert "note: small: Not run yet: l1." in out
    others = "ours" if below.endswith("ours") else "dsp[red], ours"
    assert set(out.partition("In no experiment or matrix: ")[2].partition(".")[0].split(", ")) == (
        set(others.split(", "))
    )


def test_standard_output_is_json_and_nothing_else(tmp_path: Path) -> None:
    code, out, _ = run(_small(tmp_path), "--out", tmp_path / "out", "--json")
    assert code == 0
    assert set(json.loads(out)) == {"page", "figures", "runs", "warnings"}
    code, out, said = run(tmp_path / "nowhere", "--out", tmp_path / "out", "--json")
    assert code == 2
    told = json.loads(out)
    assert told["exit_code"] == 2
    assert "does not exist" in told["error"]
    assert "Traceback" not in said


def test_one_of_several_experiments_of_a_folder_is_not_measured_by_the_matrix(
    tmp_path: Path,
) -> None:
    results = _small(tmp_path)
    record = made_up(2, 0.8, 0.5, 2.0, "l1")
    record = dataclasses.replace(record, config={**record.config, "training": {"epochs": 9}})
    record.save(results / "small/long/seed-2.json")
    code, out, _ = run(results, "--out", tmp_path / "out")
    assert code == 0
    assert "differ in training.epochs" in out
    assert "Not run yet" not in out
    for name in ("small, sst2", "small, sst2 (2)"):
        assert f"note: {name}: what its configuration wants besides was not looked up." in out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("matrices/small.toml", "name = [", "small.toml"),
        ("out", "a file", "is a file: expected a folder for the report"),
        ("out/thesis.txt", "years of work", "holds other files and no report"),
        ("results/small/ours/seed-2.json", "[1]", "expected a RunRecord of version 1, got None"),
        ("results/small/ours/seed-2.json", "\x00", "seed-2.json is not a RunRecord"),
    ],
)
def test_what_stands_in_the_way_is_named(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    results = _small(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    code, out, said = run(results, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said.startswith("error: ")
    assert message in " ".join(said.split())
    assert (tmp_path / file).read_text() == content
    assert not (tmp_path / "out/index.html").exists()


def test_without_jinja2_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, said = run(_small(tmp_path), "--out", tmp_path / "out")
    assert code == 2
    assert "pip install 'neuroprune[report]'" in said
