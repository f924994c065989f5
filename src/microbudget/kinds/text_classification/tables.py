"""Tables of labelled texts: CSV, TSV and JSON lines, each row a dictionary of texts by column."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data import metadata
from ...data.folders import TOLERATED
from ...errors import BadData

DELIMITED = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*DELIMITED, *LINES)
DELIMITERS = ",;\t|"
# Names that a header is known by. The order is that in which they are looked for.
TEXT_NAMES = (
    "text", "sentence", "review", "content", "document", "utterance", "tweet", "message", "comment", "query",
    "question", "body", "title", "headline", "description",
)  # fmt: skip
PAIRS = (
    ("text1", "text2"), ("sentence1", "sentence2"), ("text_a", "text_b"), ("premise", "hypothesis"),
    ("question1", "question2"), ("question", "sentence"), ("question", "context"), ("query", "passage"),
    ("title", "description"), ("title", "text"), ("title", "content"), ("title", "body"),
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "label_text", "y")
KNOWN = {*TEXT_NAMES, *LABEL_NAMES, *(name for pair in PAIRS for name in pair)}
FEW = 0.2  # of the rows: a column with fewer different values can be one of labels

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """The rows of a file with the number of the line that each begins in, and lines that are no rows."""

    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, Row]]
    odd: list[str] = field(default_factory=list)  # lines that were left out, with the reason


def read(path: Path) -> Table:
    """The table of a file by its suffix. Raises BadData."""
    table = _json_lines(path) if path.suffix.lower() in LINES else _delimited(path)
    if not table.rows:
        raise BadData(f"{path} has no rows" + (f": {table.odd[0]}" if table.odd else ""))
    if len(table.odd) > TOLERATED * (len(table.rows) + len(table.odd)):
        raise BadData(
            f"{len(table.odd)} of {len(table.rows) + len(table.odd)} rows of {path} are not as the others:"
            f" {table.odd[0]}"
        )
    return table


def _json_lines(path: Path) -> Table:
    rows: list[tuple[int, Row]] = []
    text = metadata.read_text(path)
    if text.lstrip().startswith("["):
        raise BadData(f"{path} is one JSON list: write one object on each line (JSON lines)")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise BadData(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise BadData(f"line {number} of {path} is not an object such as {{'text': ..., 'label': ...}}")
        rows.append((number, {str(key): _scalar(value) for key, value in found.items()}))
    columns = tuple(dict.fromkeys(name for _, row in rows for name in row))
    return Table(path, columns, rows)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)):
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _delimited(path: Path) -> Table:
    text = metadata.read_text(path)
    if "\0" in text:
        raise BadData(f"{path} holds zero bytes: it is no text file")
    delimiter = _delimiter(text, DELIMITED.get(path.suffix.lower(), ","))
    lines = _parsed(text, delimiter, path)
    if not lines:
        return Table(path, (), [])
    width = Counter(len(values) for _, values in lines).most_common(1)[0][0]
    headed = _has_header([values for _, values in lines], width)
    columns = _columns(lines[0][1], path) if headed else tuple(str(place) for place in range(1, width + 1))
    rows, odd = [], []
    for number, values in lines[1:] if headed else lines:
        while len(values) > len(columns) and not values[-1].strip():
            values.pop()
        if len(values) == len(columns):
            rows.append((number, dict(zip(columns, values, strict=True))))
        else:
            odd.append(f"line {number} has {len(values)} values, and there are {len(columns)} columns")
    return Table(path, columns, rows, odd)


def _delimiter(text: str, usual: str) -> str:
    """What splits the columns: the usual one of the suffix where the first line has it, else the one that it has."""
    first = text.split("\n", 1)[0]
    return usual if usual in first else max(DELIMITERS, key=first.count)


def _parsed(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    """The rows with their first line's number. Where quotation marks do not balance they are taken as characters."""
    csv.field_size_limit(1 << 30)
    quoted = _rows(text, delimiter, csv.QUOTE_MINIMAL)
    lines = sum(bool(line.strip()) for line in text.split("\n"))
    if delimiter != "\t" and quoted is not None:
        return quoted
    if quoted is not None and len(quoted) == lines:  # nothing in quotation marks goes on over a line
        return quoted
    plain = _rows(text, delimiter, csv.QUOTE_NONE)
    if plain is None:
        raise BadData(f"{path} is not CSV: a quotation mark is open at the end of the file")
    return plain


def _rows(text: str, delimiter: str, quoting: Any) -> list[tuple[int, list[str]]] | None:
    """None where a quotation mark is not closed, or closed in the middle of a value."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    found: list[tuple[int, list[str]]] = []
    number = 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                found.append((number, values))
            number = reader.line_num + 1
    except csv.Error:
        return None
    return found


def _has_header(lines: Sequence[Sequence[str]], width: int) -> bool:
    """By a known name in the first line; without one, unless one of its values is one of a few that recur below."""
    first = [value.strip() for value in lines[0]]
    if {value.casefold() for value in first} & KNOWN:
        return True
    below = [line for line in lines[1:] if len(line) == width]
    for place, value in enumerate(first[:width]):
        others = Counter(line[place].strip() for line in below)
        if value in others and len(others) <= max(2, FEW * len(below)):
            return False
    return True


def _columns(values: Sequence[str], path: Path) -> tuple[str, ...]:
    names = tuple(value.strip() for value in values)
    if twice := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise BadData(f"{path} has the column {twice[0]!r} twice: keep one")
    return names


def chosen(tables: Sequence[Table], text: Sequence[str], label: str | None) -> tuple[tuple[str, ...], str | None]:
    """The columns of the text (or the pair) and of the label; the label's is None where no table has any.

    text, label: as the user named them. Raises BadData with the columns that there are.
    """
    columns = tuple(dict.fromkeys(name for table in tables for name in table.columns))
    for name in (*text, *([label] if label else [])):
        if name not in columns:
            raise BadData(f"{tables[0].path} has no column {name!r}; it has {', '.join(columns)}")
    labelled = label or _label_column(tables, columns, text)
    texts = tuple(text) or _text_columns(tables, columns, labelled)
    for name in texts:
        values = list(_values(tables, name))
        if values and all(_is_number(value) for value in values):
            raise BadData(
                f"the column {name!r} of {tables[0].path} holds numbers, not texts: name the other (--text-column)"
            )
    return texts, labelled


def _values(tables: Sequence[Table], column: str) -> Iterator[str]:
    return (value for table in tables for _, row in table.rows if (value := row.get(column, "").strip()))


def _label_column(tables: Sequence[Table], columns: Sequence[str], text: Sequence[str]) -> str | None:
    """By its name, else the one column of which few values recur."""
    by_name = {name.casefold(): name for name in columns if name not in text}
    named = next((by_name[name] for name in LABEL_NAMES if name in by_name), None)
    if named is not None:
        return named
    few = []
    for name in columns:
        values = list(_values(tables, name))
        if name in text or name.casefold() in TEXT_NAMES:
            continue
        if 2 <= len(set(values)) <= max(2, FEW * len(values)) and len(set(values)) < len(values):
            few.append((max(map(len, values)), name))
    if len(few) > 1 and few[0][0] == few[1][0]:
        raise BadData(
            f"{tables[0].path}: each of the columns {', '.join(name for _, name in few)} could hold the labels: name it"
            " with --label-column"
        )
    return min(few)[1] if few else None


def _text_columns(tables: Sequence[Table], columns: Sequence[str], label: str | None) -> tuple[str, ...]:
    """A pair by its names, else a text by its name, else all other columns that hold longer texts: one, or a pair."""
    by_name = {name.casefold(): name for name in columns if name != label}
    for pair in PAIRS:
        if all(name in by_name for name in pair):
            return tuple(by_name[name] for name in pair)
    named = [by_name[name] for name in TEXT_NAMES if name in by_name]
    if named:
        return (named[0],)
    found = [name for name in columns if name != label and any(" " in value for value in _values(tables, name))]
    if 1 <= len(found) <= 2:
        return tuple(found)
    raise BadData(
        f"which column of {tables[0].path} holds the texts is not known: name it with --text-column; it has"
        f" {', '.join(columns)}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
