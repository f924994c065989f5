"""`metadata.csv` and `metadata.jsonl`: a row for each file, as Hugging Face's folders have them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import BadData

NAMES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
_INTEGER = re.compile(r"(-?[0-9]+)(?:\.0*)?")

Row = dict[str, str]


def find(folder: Path) -> Path | None:
    """The metadata file of a folder, or None. Raises BadData when there are two."""
    found = [folder / name for name in NAMES if os.path.isfile(folder / name)]  # noqa: PTH113 - never raises
    if len(found) > 1:
        raise BadData(f"{folder} has both {' and '.join(NAMES)}: keep one of them")
    return found[0] if found else None


def read(path: Path) -> list[Row]:
    """The rows as text, with a slash between folders in `file_name`. Raises BadData when it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadData(f"{path} is not UTF-8 (line {line}): save it again with the encoding UTF-8") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error
    rows = list(_json_lines(text, path) if path.suffix == ".jsonl" else _csv_rows(text, path))
    for number, row in enumerate(rows, start=1):
        if not row.get(FILE_NAME):
            raise BadData(f"row {number} of {path} names no file; it has {_quoted(row)}, each row needs {FILE_NAME!r}")
        row[FILE_NAME] = row[FILE_NAME].replace("\\", "/").removeprefix("./")
    return rows


def canonical_labels(rows: list[Row], column: str) -> None:
    """Write whole numbers in one form: spreadsheets and pandas turn 3 into 3.0 as soon as one label is missing."""
    matches = [_INTEGER.fullmatch(row.get(column, "")) for row in rows if row.get(column)]
    if matches and all(matches):
        for row in rows:
            if match := _INTEGER.fullmatch(row.get(column, "")):
                row[column] = str(int(match[1]))


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or []
        if FILE_NAME not in columns:
            raise BadData(f"{path} has no column {FILE_NAME!r}, only {_quoted(columns)}; columns are split by commas")
        for row in reader:
            if None in row:
                raise BadData(f"line {reader.line_num} of {path} has more values than the {len(columns)} columns")
            yield {key: (value or "").strip() for key, value in row.items()}
    except csv.Error as error:
        raise BadData(f"{path} is not CSV: {error} (line {reader.line_num})") from error


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadData(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadData(f"line {number} of {path} is not an object such as {{{FILE_NAME!r}: ..., 'label': ...}}")
        yield {str(key): "" if value is None else str(value).strip() for key, value in row.items()}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
