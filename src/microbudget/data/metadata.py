"""`metadata.csv` and `metadata.jsonl`: a row for each file, as Hugging Face's folders have them.

A row is one line. CSV would allow a quoted value to go on over several lines, but then one stray quotation mark takes
all rows up to the next one for a single value, and nothing looks wrong.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import BadData

NAMES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
DELIMITERS = ",;\t|"
_INTEGER = re.compile(r"(-?[0-9]+)(?:\.0*)?")
_LINES = re.compile(r"\r\n|\n|\r")  # str.splitlines would cut at U+2028 and others, which are part of a text
_UNICODE = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

Row = dict[str, str]


def find(folder: Path) -> Path | None:
    """The metadata file of a folder, or None. Raises BadData when there are two."""
    found = [folder / name for name in NAMES if os.path.isfile(folder / name)]  # noqa: PTH113 - never raises
    if len(found) > 1:
        raise BadData(f"{folder} has both {' and '.join(NAMES)}: keep one of them")
    return found[0] if found else None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises BadData for another encoding, by its name."""
    try:
        data = path.read_bytes()
        refuse_wide(data[:4], path)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadData(f"{path} is not UTF-8 (line {line}): save it again with the encoding UTF-8") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error


def refuse_wide(head: bytes, path: Path) -> None:
    """Raise BadData for a file of UTF-16 or UTF-32, by its mark or by the zeros of plain letters. head: 4 bytes."""
    encoding = next((name for mark, name in _UNICODE if head.startswith(mark)), None)
    if encoding is None and len(head) == 4:
        zeros = "".join("0" if byte == 0 else "x" for byte in head)
        wide = {"x000": "UTF-32LE", "000x": "UTF-32BE", "x0x0": "UTF-16LE", "0x0x": "UTF-16BE"}
        encoding = wide.get(zeros)
    if encoding is not None:
        command = f"iconv -f {encoding.lower()} -t utf-8"
        raise BadData(f"{path} is {encoding}: save it again with the encoding UTF-8 ({command})")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1. Raises BadData."""
    for number, line in enumerate(_LINES.split(read_text(path)), start=1):
        if line.strip():
            yield number, line


def read(path: Path, columns: Iterable[str]) -> list[Row]:
    """The rows as text, with a slash between folders in `file_name`. Raises BadData when it cannot be read.

    columns: those that are used besides `file_name`. A list or an object in one of them is an error.
    """
    numbered = list(_json_lines(path, {FILE_NAME, *columns}) if path.suffix == ".jsonl" else _csv_rows(path))
    for number, row in numbered:
        if not row.get(FILE_NAME):
            raise BadData(f"line {number} of {path} names no file; it has {_quoted(row)}, each needs {FILE_NAME!r}")
        row[FILE_NAME] = slashed(row[FILE_NAME])
    return [row for _, row in numbered]


def slashed(name: str) -> str:
    """A file's name with slashes, where Windows writes backslashes."""
    return name.replace("\\", "/").removeprefix("./")


def canonical_labels(rows: list[Row], column: str) -> None:
    """Write whole numbers in one form: spreadsheets and pandas turn 3 into 3.0 as soon as one label is missing."""
    matches = [_INTEGER.fullmatch(row.get(column, "")) for row in rows if row.get(column)]
    if matches and all(matches):
        for row in rows:
            if match := _INTEGER.fullmatch(row.get(column, "")):
                row[column] = str(int(match[1]))


def is_captions(path: Path) -> bool:
    """Whether a list of files in CSV has no column `label`: its rows are not read, captions may have several lines."""
    if path.suffix != ".csv":
        return False
    _, _, columns, _ = _header(path)
    return FILE_NAME in columns and "label" not in columns


def _header(path: Path) -> tuple[list[tuple[int, str]], str, list[str], bool]:
    """The lines behind the header, the delimiter, the columns, and whether there is a header at all."""
    found = list(lines(path))
    if found and re.fullmatch(r"sep=.", found[0][1].strip()):  # Excel's line for other delimiters
        del found[0]
    first, header = found[0] if found else (1, "")
    delimiter = _delimiter(header)
    return found[1:], delimiter, _values(path, first, header, delimiter), bool(header)


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    rows, delimiter, columns, headed = _header(path)
    if FILE_NAME not in columns:
        given = _quoted(columns if headed else ())
        raise BadData(f"{path} has no column {FILE_NAME!r}, only {given}; columns are split by commas")
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise BadData(f"{path} has the column {twice[0]!r} twice: keep one")
    for number, line in rows:
        values = _values(path, number, line, delimiter)
        while len(values) > len(columns) and not values[-1]:  # spreadsheets write empty columns at the end
            values.pop()
        if len(values) != len(columns):
            raise BadData(
                f"line {number} of {path} has {'more' if len(values) > len(columns) else 'fewer'} values"
                f" ({len(values)}) than the {len(columns)} columns: a value with {delimiter!r} in it stands between"
                " quotation marks"
            )
        yield number, dict(zip(columns, values, strict=True))


def _delimiter(header: str) -> str:
    """What splits the columns: of the characters in use the one that makes `file_name` a column of its own."""
    for delimiter in DELIMITERS:
        if FILE_NAME in next(csv.reader([header], delimiter=delimiter), []):
            return delimiter
    return DELIMITERS[0]


def _values(path: Path, number: int, line: str, delimiter: str) -> list[str]:
    """The values of one line. Raises BadData where a quotation mark is open at its end or in the wrong place."""
    try:
        found = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise BadData(
            f"line {number} of {path} is not CSV: a quotation mark at the beginning of a value is not closed before the"
            f' value\'s end ({error}): a value that holds one is written "so ""quoted"" here", on one line: '
            f"{line[:60]!r}"
        ) from error
    return [value.strip() for value in found]


def _json_lines(path: Path, used: set[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # \r is white space in JSON
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadData(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadData(f"line {number} of {path} is not an object such as {{{FILE_NAME!r}: ..., 'label': ...}}")
        yield number, {str(key): _scalar(value, str(key), number, path, used) for key, value in row.items()}


def _scalar(value: Any, key: str, number: int, path: Path, used: set[str]) -> str:
    """A text, number or truth value as text; null is empty."""
    if isinstance(value, (list, dict)):
        if key in used:
            what = "a list" if isinstance(value, list) else "an object"
            raise BadData(f"line {number} of {path}: {key!r} is {what} ({json.dumps(value)[:60]}), give one text")
        return ""
    if isinstance(value, bool):
        return json.dumps(value)
    return "" if value is None else str(value).strip()


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
