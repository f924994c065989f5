"""Where labelled texts come from: a table, a folder of tables, or a folder of .txt files for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data import folders, metadata
from ...data.folders import FileFormats, some
from ...data.splitting import SPLIT_FOLDERS, UNLABELLED, UNLABELLED_FOLDERS
from ...errors import BadData
from ...task import Columns
from . import tables

FILES = FileFormats("texts", frozenset({".txt"}), frozenset({".pdf", ".docx", ".html", ".md", ".rtf"}), "save as .txt")
SPLITS = {**SPLIT_FOLDERS, "dev": "validation", "eval": "validation", "evaluation": "validation"}
SPLITS |= dict.fromkeys(UNLABELLED_FOLDERS, UNLABELLED)
CLASS_LISTS = ("classes.txt", "labels.txt")  # beside tables whose labels are numbers: their names, a line each


@dataclass(frozen=True)
class Found:
    """A text, or a pair of texts: where it is from, its split where the files name one, its label as written."""

    name: str
    texts: tuple[str, ...]
    split: str | None
    label: str | None


@dataclass(frozen=True)
class Source:
    """All texts of a data set; the labels as written (`values`) and as shown, in the order of their indices."""

    found: list[Found]
    values: tuple[str, ...]
    labels: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # how the data were understood


def find(root: Path, columns: Columns) -> Source:
    """The texts at a path. Raises BadData."""
    if root.is_file():
        return _of_tables([root], columns, root)
    if not root.is_dir():
        raise BadData(f"there is no file or folder {root}")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in tables.SUFFIXES and path.is_file())
    if files:
        return _of_tables(files, columns, root)
    return _of_folders(root)


def _of_tables(paths: Sequence[Path], columns: Columns, root: Path) -> Source:
    for path in paths:
        if path.suffix.lower() not in tables.SUFFIXES:
            raise BadData(f"{path} is no table of labelled texts: give {', '.join(tables.SUFFIXES)} or Parquet")
    splits = _splits(paths, root)
    read = [tables.read(path) for path in splits]
    text, label = tables.chosen(read, columns.text, columns.label)
    warnings, found = [], []
    for table in read:
        metadata.canonical_labels([row for _, row in table.rows], label or "")
        rows = list(_rows(table, text, label, splits[table.path]))
        empty = len(table.rows) - len(rows)
        if empty > folders.TOLERATED * len(table.rows):
            raise BadData(f"{empty} of {len(table.rows)} rows of {table.path} have an empty text ({', '.join(text)})")
        if empty:
            warnings.append(f"{empty} rows of {table.path.name} have an empty text (left out)")
        if table.odd:
            warnings.append(f"{len(table.odd)} lines of {table.path.name} are no rows (left out): {table.odd[0]}")
        found += rows
    values = _labels(found, root)
    shown = " and ".join(text)
    notes = [f"the texts are the column {shown}, the labels {label}"]
    return Source(found, values, _named(values, root), warnings, notes)


def _splits(paths: Sequence[Path], root: Path) -> dict[Path, str | None]:
    """The tables to read with their splits. Files without a split's name beside some that have one are left out."""
    named = {path: SPLITS.get(path.stem.lower()) for path in paths}
    if len(paths) == 1:
        return named if root != paths[0] else {paths[0]: None}
    if not any(named.values()):
        raise BadData(
            f"{root} holds the tables {some(path.name for path in paths)}: name them train, validation and test, or"
            " give one of them"
        )
    kept: dict[Path, str | None] = {path: split for path, split in named.items() if split}
    twice = [split for split, count in Counter(kept.values()).items() if count > 1]
    if twice:
        both = ", ".join(path.name for path, split in kept.items() if split == twice[0])
        raise BadData(f"{root} holds {both}, which are all the split {twice[0]}: keep one")
    return kept


def _rows(table: tables.Table, text: Sequence[str], label: str | None, split: str | None) -> Iterator[Found]:
    """The rows with a text; without a label they are unlabelled."""
    for number, row in table.rows:
        texts = tuple(row.get(name, "").strip() for name in text)
        if not texts[0]:
            continue
        answer = row.get(label, "") if label else ""
        given = answer if answer.strip() and split != UNLABELLED else None
        name = f"{table.path.name}:{number}"
        yield Found(name, texts, split if given is not None else UNLABELLED, given)


def _of_folders(root: Path) -> Source:
    listing = folders.find(root, FILES)
    found: list[Found] = []
    empty: list[str] = []
    for file in listing.files:
        text = metadata.read_text(file.path).strip()
        if not text:
            empty.append(file.name)
            continue
        found.append(Found(file.name, (text,), file.split, file.label))
    warnings = list(listing.warnings)
    if empty:
        warnings.append(f"{len(empty)} empty texts (left out): {some(empty)}")
    return Source(found, listing.values, listing.labels, warnings)


def _labels(found: Sequence[Found], root: Path) -> tuple[str, ...]:
    """The labels: whole numbers by number, others alphabetically. Raises BadData."""
    raw = {each.label for each in found if each.label is not None}
    if not raw:
        raise BadData(f"no row of {root} has a label: name the column with --label-column")
    similar: dict[str, list[str]] = {}
    for label in sorted(raw):
        similar.setdefault(" ".join(label.casefold().split()), []).append(label)
    for same in similar.values():
        if len(same) > 1:
            raise BadData(
                f"the labels {' and '.join(map(repr, same))} of {root} differ by case or space only: are they one"
                " class? Then write them alike, else give one of them another name"
            )
    if len(raw) == 1:
        raise BadData(f"{root} has one class only, {raw.pop()!r}: a classifier needs two or more")
    if all(label.removeprefix("-").isdecimal() for label in raw):
        return tuple(sorted(raw, key=int))
    return tuple(sorted(raw))


def _named(values: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """The labels as they are shown: by a list of names beside the tables, where the values count its lines."""
    folder = root if root.is_dir() else root.parent
    for name in CLASS_LISTS:
        if (folder / name).is_file() and all(value.isdecimal() for value in values):
            lines = metadata.read_text(folder / name).split("\n")
            names = [line.strip() for line in lines if line.strip()]
            start = int(values[0])
            if start in (0, 1) and [int(value) for value in values] == list(range(start, start + len(names))):
                return tuple(names)
    return values
