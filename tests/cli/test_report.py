"""`neuroprune report` on the command line: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neuroprune.cli.app import app
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
    assert "1 runs, 1 figures" in out.replace("\n", "")


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
