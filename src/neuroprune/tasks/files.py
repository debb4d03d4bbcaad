"""Rows of local files: JSON lines, JSON, CSV, TSV, Parquet and plain text."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neuroprune.tasks.errors import DataError, require

DATA_VARIABLE = "NEUROPRUNE_DATA"
_FIELD_LIMIT = 2**31 - 1  # the csv module's own limit, 128 KiB, is shorter than many documents
Row = tuple[int, Mapping[str, Any]]


def locate(path: str, data_dir: Path | str | None = None) -> Path:
    """The file that a path of a configuration stands for.

    Args:
        path: absolute, or relative to the data directory.
        data_dir: the data directory; `$NEUROPRUNE_DATA` where None, and the working directory
            where that is not set either.

    Raises:
        DataError: there is no such file.
    """
    root = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE, "")
    found = Path(root).expanduser() / Path(path).expanduser()
    if found.is_file():
        return found
    what = "is a folder" if found.is_dir() else "does not exist"
    raise DataError(
        f"the data file {found} {what}. Relative paths are relative to --data-dir (data_dir=...) "
        f"or ${DATA_VARIABLE}, which {'is' if root else 'are not set; the working directory was'} "
        f"{Path(root).resolve() if root else 'used'}."
    )


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, by its suffix, with their numbers (lines of a text file, from 1).

    Args:
        path: an existing file.

    Yields:
        Number and columns of each row. The lines of a `.txt` file are the column "text", with
        their line ends.

    Raises:
        DataError: an unknown suffix, a file that is not UTF-8 (with the byte offset), or rows that
            cannot be read (with the line).
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: files of type {path.suffix or '(none)'!r} cannot be read; expected one of "
            f"{', '.join(_READERS)}."
        )
    return reader(path)


def read_columns(path: Path, columns: Sequence[str]) -> tuple[list[int], dict[str, list[Any]]]:
    """Some columns of a file.

    Args:
        path: an existing file.
        columns: names; "a.b" reads b inside a.

    Returns:
        The row numbers, and the values by column.

    Raises:
        DataError: a column is missing (the ones there are are listed), or see `read_rows`.
    """
    numbers: list[int] = []
    values: dict[str, list[Any]] = {column: [] for column in columns}
    for number, row in read_rows(path):
        numbers.append(number)
        for column in columns:
            values[column].append(pick(row, column, f"{path}, row {number}"))
    return numbers, values


def pick(row: Mapping[str, Any], column: str, where: str) -> Any:
    """One value of a row.

    Raises:
        DataError: the row has no such column.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(
                f"{where} has no column {column!r}; its columns are "
                f"{', '.join(map(repr, row)) or 'none'}. Name the right one in the task's "
                "*_column settings."
            )
        value = value[part]
    return value


def decoded_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file with their ends, without a byte-order mark.

    Raises:
        DataError: the file is not UTF-8; names it and the offset of the first wrong byte.
    """
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                place = offset + error.start
                raise DataError(
                    f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {place}. "
                    f"Convert it, such as with `iconv -f latin1 -t utf-8 {path.name}`."
                ) from error
            yield line.removeprefix("\ufeff") if offset == 0 else line
            offset += len(raw)


def _text(path: Path) -> Iterator[Row]:
    for number, line in enumerate(decoded_lines(path), 1):
        yield number, {"text": line}


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(decoded_lines(path), 1):
        if line.strip():
            yield number, _object(path, number, _parse(path, number, line))


def _json(path: Path) -> Iterator[Row]:
    text = "".join(decoded_lines(path))
    if not text.strip():
        return
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{"):  # JSON lines under the suffix .json
            yield from _json_lines(path)
            return
        raise DataError(f"{path} is not JSON: {error}. Expected a list of objects.") from error
    for number, row in enumerate(data if isinstance(data, list) else [data], 1):
        yield number, _object(path, number, row)


def _parse(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number} is not JSON: {error}. Expected one object a line."
        ) from error


def _object(path: Path, number: int, row: Any) -> Mapping[str, Any]:
    if isinstance(row, dict):
        return row
    raise DataError(
        f"{path}, row {number}: expected a JSON object with named columns, got "
        f"{type(row).__name__}."
    )


def _csv(path: Path) -> Iterator[Row]:
    return _table(path, delimiter=",")


def _tsv(path: Path) -> Iterator[Row]:
    return _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: Path, **dialect: Any) -> Iterator[Row]:
    previous = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield from _table_rows(path, csv.reader(decoded_lines(path), **dialect))
    finally:
        csv.field_size_limit(previous)


def _table_rows(path: Path, reader: Any) -> Iterator[Row]:
    try:
        header = next(reader, None)
        for values in reader:
            if not values:
                continue
            if header is None or len(values) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(values)} fields, but the header names "
                    f"{len(header or ())}. Quote fields that hold the separator."
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} cannot be read: {error}.") from error


def _parquet(path: Path) -> Iterator[Row]:
    parquet = require("pyarrow.parquet", "reading a Parquet file")
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        number = 0
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _text,
}
