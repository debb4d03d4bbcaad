from __future__ import annotations

import csv
import json

import pytest

from neuroprune.tasks import DataError
from neuroprune.tasks.files import locate, pick, read_columns, read_rows

ROWS = [{"text": 'un, deux\n"trois"', "label": "1"}, {"text": "日本 tab", "label": "0"}]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", ROWS)
    assert [dict(row) for _, row in read_rows(path)] == ROWS
    _, values = read_columns(path, ["label", "text"])
    assert values == {"label": ["1", "0"], "text": [row["text"] for row in ROWS]}


def test_tsv_takes_quotes_as_they_stand(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"half a quote\t1\nplain\t0\n', encoding="utf-8")
    assert read_columns(path, ["text"])[1] == {"text": ['"half a quote', "plain"]}


def test_plain_text_keeps_its_line_ends(tmp_path):
    path = tmp_path / "data.txt"
    path.write_bytes(b"one\n\ntwo")
    assert read_columns(path, ["text"])[1] == {"text": ["one\n", "\n", "two"]}


def test_json_lines_may_be_called_json(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    assert read_columns(path, ["text"])[1] == {"text": ["a", "b"]}


def test_a_dotted_column_reads_inside_another():
    row = {"translation": {"en": "tree"}, "a.b": "plain"}
    assert pick(row, "translation.en", "x") == "tree"
    assert pick(row, "a.b", "x") == "plain"
    with pytest.raises(DataError, match=r"no column 'translation.fr'"):
        pick(row, "translation.fr", "x")


def test_long_fields_are_read(tmp_path):
    path = write(tmp_path / "long.csv", [{"text": "x" * 200_000, "label": "1"}])
    limit = csv.field_size_limit()
    assert len(read_columns(path, ["text"])[1]["text"][0]) == 200_000
    assert csv.field_size_limit() == limit


def test_a_missing_file_names_the_data_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("NEUROPRUNE_DATA", raising=False)
    with pytest.raises(DataError, match=r"does not exist.*--data-dir.*\$NEUROPRUNE_DATA.*not set"):
        locate("absent.jsonl")
    with pytest.raises(DataError, match=f"{tmp_path}/absent.jsonl does not exist"):
        locate("absent.jsonl", tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        locate(".", tmp_path)


def test_relative_paths_follow_the_argument_then_the_variable(tmp_path, monkeypatch):
    for name in ("argument", "variable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").touch()
    monkeypatch.setenv("NEUROPRUNE_DATA", str(tmp_path / "variable"))
    assert locate("x.txt") == tmp_path / "variable" / "x.txt"
    assert locate("x.txt", tmp_path / "argument") == tmp_path / "argument" / "x.txt"
    absolute = str(tmp_path / "argument" / "x.txt")
    assert str(locate(absolute)) == absolute


def test_a_missing_column_lists_the_columns_there_are(tmp_path):
    path = write(tmp_path / "data.jsonl", ROWS)
    with pytest.raises(
        DataError, match=r"row 1 has no column 'sentence'.*'text', 'label'.*_column"
    ):
        read_columns(path, ["sentence"])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_file_that_is_not_utf8_names_file_and_offset(tmp_path, suffix):
    path = tmp_path / f"latin{suffix}"
    start = b"text\nfirst line\nsecond caf"
    path.write_bytes(start + b"\xe9 line\n" if suffix != ".jsonl" else b'{"text": 1}\n"\xe9"\n')
    offset = len(start) if suffix != ".jsonl" else 13
    with pytest.raises(DataError, match=rf"latin{suffix} is not UTF-8.*0xe9 at offset {offset}\."):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", "", r"'\.xlsx' cannot be read; expected one of \.jsonl"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "row 1: expected a JSON object"),
        ("a.json", "[1, 2", "is not JSON.*list of objects"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header names 2"),
        ("a.parquet", "PAR1 nothing", "not a whole Parquet file"),
    ],
)
def test_damaged_files_say_where(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(read_rows(path))
