"""record.py: a record is whole or absent, and one of another version is refused."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from neuroprune.record import (
    RECORD_VERSION,
    RecordError,
    RunRecord,
    differences,
    environment,
    write_text_atomic,
)


def record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "config": {"method": {"alpha": 1e-4}, "data": "Käse/рис.jsonl"},
        "method": "neuroprune",
        "task": "toy",
        "seed": 3,
        "metrics": {"accuracy": 0.75},
        "environment": environment(threads=1),
    }
    return RunRecord(**{**values, **changes})


# --- records --------------------------------------------------------------------------------------


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "record.json"
    saved = record()
    saved.save(path)
    assert RunRecord.load(path) == saved
    assert RunRecord.load(str(path)) == saved
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text)["record_version"] == RECORD_VERSION


def test_the_same_record_is_the_same_file(tmp_path: Path) -> None:
    """Committed results must not change by being written again."""
    first = record()
    first.save(tmp_path / "a.json")
    RunRecord.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.75", "NaN", "NaN is no number of JSON"),
        ("0.75", "-Infinity", "-Infinity is no number"),
        ("0.75", "[" * 100_000, "is not a RunRecord: "),
        ("0.75", "9" * 6_000, "is not a RunRecord: .* digits"),
        ("0.75", "", "is not a RunRecord: "),
        ('"seed": 3', '"seed": "3"', "expected an integer as seed, got '3'"),
    ],
)
def test_a_file_that_is_no_record_is_named(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.json"
    record().save(path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=message) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)


def test_the_environment_says_what_a_number_depends_on() -> None:
    got = environment(threads=2)
    assert got["threads"] == 2
    assert got["cpu_count"] == os.cpu_count()
    assert got["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers"} <= set(got["packages"])
    assert got["machine"]
    assert got["processor"]
    json.dumps(got)


def test_created_is_utc() -> None:
    assert record().created.endswith("+00:00")


@pytest.mark.parametrize("version", [RECORD_VERSION + 1, 0, None, str(RECORD_VERSION)])
def test_another_version_is_refused_with_the_remedy(tmp_path: Path, version: Any) -> None:
    data = {**record().to_dict(), "record_version": version}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    message = rf"record\.json: expected a RunRecord of version {RECORD_VERSION}.*experiment again"
    with pytest.raises(RecordError, match=message):
        RunRecord.load(path)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", "3", "null", "{}"])
def test_what_is_no_record_is_refused_by_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"damaged\.json"):
        RunRecord.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(RecordError, match=r"damaged\.json is not a RunRecord"):
        RunRecord.load(path)


@pytest.mark.parametrize("key", ["config", "method", "task", "seed"])
def test_a_missing_key_is_refused(key: str) -> None:
    data = record().to_dict()
    del data[key]
    with pytest.raises(RecordError, match="a RunRecord has the keys"):
        RunRecord.from_dict(data)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(RecordError, match=r"a RunRecord has the keys .*got .*'speling'"):
        RunRecord.from_dict({**record().to_dict(), "speling": 1})


# --- atomic writing -------------------------------------------------------------------------------


def assert_untouched(path: Path) -> None:
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "something left behind"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file.json"
    path.write_text("old")
    return path


def test_the_new_text_replaces_the_old_whole(old: Path) -> None:
    text = "new " * 10_000 + "Käse\n"
    write_text_atomic(old, text)
    assert old.read_text(encoding="utf-8") == text
    assert [entry.name for entry in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(os, "replace", fail)
            patch.setattr(Path, "replace", fail)
        with pytest.raises(type(error)):
            write_text_atomic(old, "new")
    assert_untouched(old)


def test_a_failed_first_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text_atomic(tmp_path / "file.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_text_that_cannot_be_encoded_leaves_the_old_file(old: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(old, "half of it\ud800")
    assert_untouched(old)


def test_a_record_that_cannot_be_written_as_json_leaves_the_old_file(old: Path) -> None:
    with pytest.raises(TypeError):
        record(metrics={"accuracy": object()}).save(old)
    assert_untouched(old)


def test_the_old_file_is_whole_until_the_last_moment(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader during the write sees the old text: the new one is complete before it has a name."""
    seen = []
    replace = Path.replace

    def spy(self: Path, target: Any) -> Path:
        seen.append((old.read_text(), Path(self).read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_text_atomic(old, "new")
    assert seen == [("old", "new")]
    assert old.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_what_an_ordinary_file_would_let_them(tmp_path: Path) -> None:
    """A shrunk model in a shared folder is of no use if its plan is private to its author."""
    ordinary, atomic = tmp_path / "ordinary", tmp_path / "atomic"
    ordinary.write_text("text")
    write_text_atomic(atomic, "text")
    assert stat.S_IMODE(atomic.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, ""),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b 1, now 2"),
        ({"a": {"b": 1}}, {"a": {"c": 0}}, "a.b 1, now absent; a.c absent, now 0"),
        ({"a": {}}, {"a": {"b": False}}, "a {}, now absent; a.b absent, now False"),
        ({"a": 1, "b": None}, {"a": 1}, ""),
        ({}, {"a": {"b": 1}}, "an empty one"),
        ({}, {}, ""),
        ({"a": 1}, {}, "a 1, now absent"),
        ({"a": 1}, {"a": 1, "method": {"lr_growth": 0.0}}, ""),  # what it was before it was named
        (
            {"a": 1},
            {"a": 1, "method": {"lr_growth": 0.5}},
            "method.lr_growth 0.0, now 0.5",
        ),
        (
            dict.fromkeys("abcde", 1),
            {"e": 1},
            "a 1, now absent; b 1, now absent; c 1, now absent; 1 more",
        ),
    ],
)
def test_differences_of_two_configurations(
    old: dict[str, Any], new: dict[str, Any], text: str
) -> None:
    assert differences(old, new) == text


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ({"name": "neuroprune", "target": ["structural:0.8"]}, "structural:0.8"),
        (
            {"name": "neuroprune", "target": ["structural:0.8", "heads:24"]},
            "structural:0.8, heads:24",
        ),
        ({"name": "l1", "target": "weights:0.5"}, "weights:0.5"),
        ({"name": "magnitude", "structure": "units", "target": 0.8}, "structural:0.8"),
        ({"name": "magnitude", "structure": "weights", "target": 0.8}, "weights:0.8"),
        ({"name": "dsp", "heads": 36}, "heads:36"),
        ({"name": "neuroprune", "alpha": 1e-4}, ""),
        (None, ""),
    ],
)
def test_a_record_says_what_was_asked_for(method: Any, target: str) -> None:
    made = record(config={"method": method})
    assert made.target == target
    assert made.to_dict()["target"] == target
    assert RunRecord.from_dict(made.to_dict()) == made
