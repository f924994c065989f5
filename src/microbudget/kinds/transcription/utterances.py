"""Finding recordings with their transcripts, in the layouts that people have already; names may lack their ending.

DATA/metadata.csv, DATA/1.flac          a row per file: file_name,transcription (or .jsonl): Hugging Face's audiofolder
DATA/train/..., DATA/test/...           any of these in each split
DATA/1089/134686/1089-134686.trans.txt  LibriSpeech's: a line per file, its name and its text
DATA/metadata.csv with |, DATA/wavs/    LJSpeech's: name|text|normalized text
DATA/unlabelled/...                     recordings that nobody has transcribed
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...audio.sound import FORMATS
from ...data import metadata
from ...data.folders import (
    SPLIT_FOLDERS,
    TOLERATED,
    UNLABELLED,
    UNLABELLED_FOLDERS,
    normal_name,
    some,
    walk,
)
from ...errors import BadData

TEXT_COLUMNS = ("transcription", "text", "sentence", "transcript")
PREFIXES = {"train": "train", "dev": "validation", "test": "test"}  # LibriSpeech: train-clean-100, dev-other
TRANSCRIPTS = ".trans.txt"
_LIBRISPEECH = re.compile(r"(train|dev|test)-(?:clean|other)(?:-[0-9]+)?")


@dataclass(frozen=True)
class Utterance:
    """A recording: its name below the root, its split where the folders name one, its text where it is known."""

    name: str
    path: Path
    split: str | None
    text: str | None


@dataclass(frozen=True)
class Listing:
    """All recordings of a folder, sorted by name, and the warnings about them."""

    files: tuple[Utterance, ...]
    warnings: tuple[str, ...]


@dataclass
class _Texts:
    """The texts of the lists, by names below the root as they are written there, with or without an ending."""

    rows: dict[str, str] = field(default_factory=dict)
    by_file: dict[str, str] = field(default_factory=dict)  # the name of the row, by the name of the file
    missing: list[str] = field(default_factory=list)

    def match(self, names: Iterable[str]) -> None:
        """Find the file of each row: of its name, else of its name but for the ending, else so one folder deeper.

        LJSpeech keeps its files in wavs/, and people convert the MP3 that a list names to WAV. Raises BadData where a
        row fits files in two folders.
        """
        places: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        for name in names:
            folder, _, last = name.rpartition("/")
            above = posixpath.join(posixpath.dirname(folder), last)
            for table, key in zip(places, (name, _stem(name), above, _stem(above)), strict=True):
                table.setdefault(key, []).append(name)
        exact = {name for name in self.rows if name in places[0]}
        for row in self.rows:
            keys = (row, _stem(row), row, _stem(row))
            fitting = next((table[key] for table, key in zip(places, keys, strict=True) if key in table), [])
            found = [name for name in fitting if row in exact or name not in exact]
            if len({posixpath.dirname(name) for name in found}) > 1:
                raise BadData(f"the transcript of {row!r} fits {some(found)}: list the files with their folders")
            self.by_file |= dict.fromkeys(found, row)
            if not found:
                self.missing.append(row)

    def of(self, name: str) -> str | None:
        """The text of a file, None without a row."""
        return self.rows[self.by_file[name]] if name in self.by_file else None

    def add(self, folder: str, name: str, text: str, path: Path, root: Path) -> None:
        """A row of a list that lies in a folder. Raises BadData for a file outside the data, or with two texts."""
        full = normal_name(posixpath.join(folder, metadata.slashed(name)))
        if full.startswith(("../", "/")):
            raise BadData(f"{path} names {name!r}, which lies outside {root}")
        if self.rows.setdefault(full, text) != text:
            raise BadData(f"{path} has two transcripts of {name!r}: keep one")


def _stem(name: str) -> str:
    """A name without the ending of a sound file; what else is behind a dot belongs to the name."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in FORMATS.extensions | FORMATS.foreign else name


def find(root: Path) -> Listing:
    """The recordings below a folder. Raises BadData."""
    if not root.is_dir():
        what = "is a file: give the folder with the recordings" if root.is_file() else "does not exist"
        raise BadData(f"the folder {root} {what}")
    paths = list(walk(root))
    names = [(normal_name(path.relative_to(root).as_posix()), path) for path in paths]
    sounds = [(name, path) for name, path in names if path.suffix.lower() in FORMATS.extensions]
    foreign = FORMATS.about_foreign(path.suffix.lower() for path in paths)
    if not sounds:
        readable = ", ".join(sorted(FORMATS.extensions))
        raise BadData("; ".join([f"{root} holds no recordings ({readable})", *foreign]))
    texts = _read_texts(root, paths)
    texts.match(name for name, _ in sounds)
    splits = _splits([name for name, _ in sounds])
    files: list[Utterance] = []
    outside: list[str] = []
    for name, path in sounds:
        split = splits.get(name.split("/")[0])
        if splits and split is None and not _in_pool(name):
            outside.append(name)
            continue
        text = texts.of(name)
        known = None if _in_pool(name) or not text else text
        files.append(Utterance(name, path, UNLABELLED if known is None else split, known))
    warnings = [*_about(root, files, texts), *foreign]
    if outside:
        _check_outside(root, splits, [name for name in outside if texts.of(name)])
        warnings.append(f"{len(outside)} files lie outside the splits (left out): {some(outside)}")
    return Listing(tuple(sorted(files, key=lambda file: file.name)), tuple(warnings))


def _in_pool(name: str) -> bool:
    return name.split("/")[0] in UNLABELLED_FOLDERS and "/" in name


def _splits(names: Iterable[str]) -> dict[str, str]:
    """The folders of the first level that are splits; empty without a train, validation or test folder."""
    found: dict[str, str] = {}
    for folder in sorted({name.split("/")[0] for name in names if "/" in name}):
        lower = folder.lower()
        libri = _LIBRISPEECH.fullmatch(lower)
        split = SPLIT_FOLDERS.get(lower) or (PREFIXES[libri[1]] if libri else None)
        if split:
            found[folder] = split
    return found


def _check_outside(root: Path, splits: Mapping[str, str], transcribed: list[str]) -> None:
    """Raise BadData where the folders may be no splits: one alone, with transcribed recordings beside it."""
    if transcribed and len(splits) == 1:
        (folder,) = splits
        raise BadData(
            f"{folder!r} in {root} could be a split, or a folder like the others. As a split, {len(transcribed)}"
            f" transcribed recordings outside of it are not used ({some(transcribed)}): then move them to another"
            " folder. If it is none: give it another name"
        )


def _read_texts(root: Path, paths: Iterable[Path]) -> _Texts:
    texts = _Texts()
    for path in paths:
        folder = path.parent.relative_to(root).as_posix()
        folder = "" if folder == "." else folder
        if path.name.endswith(TRANSCRIPTS):
            for stem, text in _trans_lines(path):
                texts.add(folder, stem, text, path, root)
        elif path.name in metadata.NAMES and path.parent in (root, *_children(root)):
            metadata.find(path.parent)  # complains about two
            _add_metadata(texts, path, folder, root)
    return texts


def _children(root: Path) -> tuple[Path, ...]:
    return tuple(path for path in root.iterdir() if path.is_dir())


def _trans_lines(path: Path) -> Iterator[tuple[str, str]]:
    """LibriSpeech: `1089-134686-0000 HE HOPED THERE ...`."""
    for number, line in metadata.lines(path):
        parts = line.strip().split(maxsplit=1)
        stem, text = parts[0], parts[1] if parts[1:] else ""
        if "/" in stem or stem.startswith("."):
            raise BadData(f"line {number} of {path} does not begin with a file's name: {line[:60]!r}")
        yield stem, text


def _add_metadata(texts: _Texts, path: Path, folder: str, root: Path) -> None:
    first = next((line for _, line in metadata.lines(path)), "")
    if path.suffix == ".csv" and "|" in first and metadata.FILE_NAME not in first:
        for stem, text in _ljspeech_lines(path):
            texts.add(folder, stem, text, path, root)
        return
    rows = metadata.read(path, TEXT_COLUMNS)
    column = next((name for name in TEXT_COLUMNS if any(name in row for row in rows)), None)
    if column is None:
        raise BadData(f"{path} has no column {TEXT_COLUMNS[0]!r}: each row needs {metadata.FILE_NAME} and what is said")
    for row in rows:
        texts.add(folder, row[metadata.FILE_NAME], row.get(column, ""), path, root)


def _ljspeech_lines(path: Path) -> Iterator[tuple[str, str]]:
    """LJSpeech: `LJ001-0001|text|text with numbers in words`; the last is what is spoken."""
    for number, line in metadata.lines(path):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) < 2:
            raise BadData(f"line {number} of {path} has no '|' between the file's name and its text: {line[:60]!r}")
        if len(parts) > 3:
            raise BadData(f"line {number} of {path} has {len(parts)} values, not name|text|normalized text")
        yield parts[0], parts[2] if len(parts) > 2 and parts[2] else parts[1]


def _about(root: Path, files: list[Utterance], texts: _Texts) -> Iterator[str]:
    missing = texts.missing
    if len(missing) > TOLERATED * max(1, len(texts.rows)):
        raise BadData(
            f"{len(missing)} of {len(texts.rows)} files in the transcripts of {root} are not there: {some(missing)};"
            " names are relative to the folder of the file that lists them"
        )
    if missing:
        yield f"{len(missing)} transcripts have no file (left out): {some(missing)}"
    bare = [file.name for file in files if file.text is None and not _in_pool(file.name)]
    empty = [name for name in bare if texts.of(name) is not None]
    unlisted = [name for name in bare if texts.of(name) is None]
    if unlisted:
        yield f"{len(unlisted)} recordings have no transcript (taken as unlabelled): {some(unlisted)}"
    if empty:
        yield f"{len(empty)} transcripts are empty (taken as unlabelled): {some(empty)}"
