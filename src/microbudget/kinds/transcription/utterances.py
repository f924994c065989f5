"""Finding recordings with their transcripts, in the layouts that people have already.

DATA/metadata.csv, DATA/1.flac          a row per file: file_name,transcription (or .jsonl): Hugging Face's audiofolder
DATA/train/..., DATA/test/...           any of these in each split
DATA/1089/134686/1089-134686.trans.txt  LibriSpeech's: a line per file, its name and its text
DATA/metadata.csv with |, DATA/wavs/    LJSpeech's: name|text|normalized text
DATA/unlabelled/...                     recordings that nobody has transcribed
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
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
    """The texts of the metadata, by names below the root; a name without an ending matches any."""

    texts: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def of(self, name: str) -> str | None:
        """The text of a file, None without a row."""
        stem = name.rsplit(".", 1)[0]
        folder, _, last = stem.rpartition("/")
        above = posixpath.join(posixpath.dirname(folder), last)  # LJSpeech keeps its files in wavs/
        for table, key in ((self.texts, name), (self.stems, stem), (self.stems, above)):
            if key in table:
                self.used.add(key)
                return table[key]
        return None

    @property
    def names(self) -> list[str]:
        """All names with a row."""
        return [*self.texts, *self.stems]


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
    splits = _splits([name for name, _ in sounds])
    files, outside = [], []
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
        warnings.append(f"{len(outside)} files lie outside the splits (left out): {some(outside)}")
    return Listing(tuple(sorted(files, key=lambda file: file.name)), tuple(warnings))


def _in_pool(name: str) -> bool:
    return name.split("/")[0] in UNLABELLED_FOLDERS and "/" in name


def _splits(names: Iterable[str]) -> dict[str, str]:
    """The folders of the first level that are splits; empty without a train, validation or test folder."""
    found: dict[str, str] = {}
    for folder in sorted({name.split("/")[0] for name in names if "/" in name}):
        lower = folder.lower()
        split = SPLIT_FOLDERS.get(lower) or (PREFIXES.get(lower.split("-")[0]) if "-" in lower else None)
        if split:
            found[folder] = split
    return found


def _read_texts(root: Path, paths: Iterable[Path]) -> _Texts:
    texts = _Texts()
    for path in paths:
        folder = path.parent.relative_to(root).as_posix()
        folder = "" if folder == "." else folder
        if path.name.endswith(TRANSCRIPTS):
            for stem, text in _trans_lines(path):
                texts.stems[normal_name(posixpath.join(folder, stem))] = text
        elif path.name in metadata.NAMES and path.parent in (root, *_children(root)):
            metadata.find(path.parent)  # complains about two
            _add_metadata(texts, path, folder, root)
    return texts


def _children(root: Path) -> tuple[Path, ...]:
    return tuple(path for path in root.iterdir() if path.is_dir())


def _trans_lines(path: Path) -> Iterator[tuple[str, str]]:
    """LibriSpeech: `1089-134686-0000 HE HOPED THERE ...`."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            stem, _, text = line.strip().partition(" ")
            if "/" in stem or stem.startswith("."):
                raise BadData(f"line {number} of {path} does not begin with a file's name: {line[:60]!r}")
            yield stem, text.strip()


def _add_metadata(texts: _Texts, path: Path, folder: str, root: Path) -> None:
    first = _text(path).partition("\n")[0]
    if path.suffix == ".csv" and "|" in first and metadata.FILE_NAME not in first:
        for stem, text in _ljspeech_lines(path):
            texts.stems[normal_name(posixpath.join(folder, stem))] = text
        return
    rows = metadata.read(path)
    column = next((name for name in TEXT_COLUMNS if any(name in row for row in rows)), None)
    if column is None:
        raise BadData(f"{path} has no column {TEXT_COLUMNS[0]!r}: each row needs {metadata.FILE_NAME} and what is said")
    for row in rows:
        name = normal_name(posixpath.join(folder, row[metadata.FILE_NAME]))
        if name.startswith(("../", "/")):
            raise BadData(f"{path} names {row[metadata.FILE_NAME]!r}, which lies outside {root}")
        texts.texts[name] = row.get(column, "")


def _ljspeech_lines(path: Path) -> Iterator[tuple[str, str]]:
    """LJSpeech: `LJ001-0001|text|text with numbers in words`; the last is what is spoken."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        parts = [part.strip() for part in line.split("|")]
        if line.strip() and len(parts) < 2:
            raise BadData(f"line {number} of {path} has no '|' between the file's name and its text: {line[:60]!r}")
        if line.strip():
            yield parts[0], parts[2] if len(parts) > 2 and parts[2] else parts[1]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8 (byte {error.start}): save it again with the encoding UTF-8") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error


def _about(root: Path, files: list[Utterance], texts: _Texts) -> Iterator[str]:
    missing = [name for name in texts.names if name not in texts.used]
    if len(missing) > TOLERATED * max(1, len(texts.names)):
        raise BadData(
            f"{len(missing)} of {len(texts.names)} files in the transcripts of {root} are not there: {some(missing)};"
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
