"""Finding labelled files: the layouts of Hugging Face's imagefolder and audiofolder, with or without splits.

DATA/rose/1.jpg                     class folders
DATA/metadata.csv, DATA/1.jpg       a row per file: file_name,label (or .jsonl)
DATA/train/..., DATA/test/...       either of them in each split
DATA/unlabelled/...                 files that nobody has labelled yet
"""

from __future__ import annotations

import posixpath
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BadData
from . import metadata, splitting
from .splitting import SPLIT_FOLDERS, UNLABELLED, UNLABELLED_FOLDERS, some, subfolders, walk

__all__ = [  # the names of `splitting` that go with these
    "SPLIT_FOLDERS", "TOLERATED", "UNLABELLED", "UNLABELLED_FOLDERS", "FileFormats", "Found", "Listing", "find",
    "normal_name", "some", "walk",
]  # fmt: skip

_POOLS = tuple(f"{name}/" for name in UNLABELLED_FOLDERS)
TOLERATED = 0.1  # of the files may be unreadable or missing; with more the folder is refused
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class FileFormats:
    """The files that are examples of a data set."""

    name: str  # of the files, in the plural: "images"
    extensions: frozenset[str]  # that are read: lower case, with the dot
    foreign: frozenset[str]  # extensions of formats that are known and not read
    remedy: str  # what to do with those: "convert them to JPEG or PNG"

    def about_foreign(self, extensions: Iterable[str]) -> list[str]:
        """The warning of files that are not read, from the extensions of all files; none where there are none."""
        counts = Counter(extension for extension in extensions if extension in self.foreign)
        kinds = ", ".join(f"{count} {extension}" for extension, count in sorted(counts.items()))
        return [f"files in formats that are not read (left out): {kinds}; {self.remedy}"] if counts else []


@dataclass(frozen=True)
class Found:
    """A file: its name below the root with slashes, its split where the folders name one, its label as written."""

    name: str
    path: Path
    split: str | None
    label: str | None


@dataclass(frozen=True)
class Listing:
    """All files of a data folder; the labels as written (`values`) and as shown (`labels`), in the order of indices."""

    files: tuple[Found, ...]
    values: tuple[str, ...]
    labels: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class _Table:
    """The labels of the metadata files, by names below the root."""

    labels: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    label_names: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)  # those whose files are labelled by metadata, "" is the root
    repeated: list[str] = field(default_factory=list)

    def governs(self, folder: str) -> bool:
        """Whether the labels of a folder's files are here; a split without any row keeps its class folders."""
        if folder in self.folders:
            return True
        return "" in self.folders and any(name.startswith(f"{folder}/") for name in self.labels)


def find(root: Path, formats: FileFormats) -> Listing:
    """The files of these formats, sorted by name. Raises BadData."""
    _check_root(root, formats.name)
    warnings: list[str] = []
    units, pool = splitting.units(root, formats.extensions, warnings)
    table = _read_metadata(root, [folder for folder, _ in units])
    foreign: list[str] = []  # extensions
    files: list[Found] = []
    for folder, split in units:
        names = list(_walk_below(root, folder, formats, foreign, skip=pool))
        if table.governs(folder):
            files += _by_metadata(root, split, names, table)
        else:
            files += _by_class_folder(root, folder, split, names)
            warnings += _about_class_folders(root, folder, names, formats.name)
    for folder in pool:
        unnamed = _walk_below(root, folder, formats, foreign)
        files += [Found(name, root / name, UNLABELLED, None) for name in unnamed]
    if not files:
        known = ", ".join(sorted(formats.extensions))
        raise BadData("; ".join([f"{root} holds no {formats.name} ({known})", *formats.about_foreign(foreign)]))
    warnings += formats.about_foreign(foreign)
    warnings += _table_against_files(root, table, files)
    files.sort(key=lambda file: (file.name, file.label or ""))
    return _named(root, files, table, warnings)


def _check_root(root: Path, what: str) -> None:
    try:
        mode = root.stat().st_mode
    except FileNotFoundError as error:
        raise BadData(f"there is no folder {root}") from error
    except OSError as error:
        raise BadData(f"the folder {root} cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise BadData(f"{root} is a file: give the folder with the {what}")


def _walk_below(
    root: Path, folder: str, formats: FileFormats, foreign: list[str], skip: Iterable[str] = ()
) -> Iterator[str]:
    """Names below the root of the files in `folder`; the extensions of those that are not read go into `foreign`."""
    skipped = tuple(f"{name}/" for name in skip)
    for path in walk(root / folder):
        suffix = path.suffix.lower()
        name = path.relative_to(root).as_posix()
        if name.startswith(skipped):
            continue
        if suffix in formats.extensions:
            yield name
        elif suffix in formats.foreign:
            foreign.append(suffix)


def _read_metadata(root: Path, folders: list[str]) -> _Table:
    table = _Table()
    for folder in dict.fromkeys(["", *folders]):
        path = metadata.find(root / folder)
        if path is None or metadata.is_captions(path):
            continue
        rows = metadata.read(path, ("label", "label_name"))
        if not any("label" in row for row in rows):
            continue  # captions or the like: the class folders have the labels
        metadata.canonical_labels(rows, "label")
        table.folders.add(folder)
        for row in rows:
            _add_row(table, root, folder, row)
    return table


def _add_row(table: _Table, root: Path, folder: str, row: metadata.Row) -> None:
    name = normal_name(posixpath.join(folder, row[metadata.FILE_NAME]))
    if name.startswith(("../", "/")):
        raise BadData(f"the metadata of {root} names {row[metadata.FILE_NAME]!r}, which lies outside that folder")
    label = row.get("label", "")
    known = table.labels[name]
    if label in known:
        table.repeated.append(name)
    else:
        known.append(label)
    shown = row.get("label_name", "")
    if label and shown and table.label_names.setdefault(label, shown) != shown:
        raise BadData(f"label {label} is named {table.label_names[label]!r} and {shown!r} in the metadata of {root}")


def normal_name(name: str) -> str:
    """macOS writes accents in file names as two characters, most editors as one."""
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _by_metadata(root: Path, split: str | None, names: list[str], table: _Table) -> Iterator[Found]:
    """A file without a row, or with an empty label, is unlabelled."""
    for name in names:
        labels = [label for label in table.labels.get(normal_name(name), ()) if label]
        for label in labels:
            yield Found(name, root / name, split, label)
        if not labels:
            yield Found(name, root / name, UNLABELLED, None)


def _by_class_folder(root: Path, folder: str, split: str | None, names: list[str]) -> Iterator[Found]:
    """The class is the folder's child that the file lies below."""
    below = folder.count("/") + 1 if folder else 0
    for name in names:
        parts = name.split("/")[below:]
        if len(parts) > 1:
            yield Found(name, root / name, split, parts[0])


def _about_class_folders(root: Path, folder: str, names: list[str], what: str) -> Iterator[str]:
    prefix = f"{folder}/" if folder else ""
    inside = [name.removeprefix(prefix) for name in names]
    stray = [prefix + name for name in inside if "/" not in name]
    if stray and len(stray) == len(names):
        raise BadData(
            f"the {what} in {root / folder} have no labels: put them into a folder per class, or add a metadata.csv"
            " with the columns file_name,label"
        )
    if stray:
        yield f"{len(stray)} files lie outside the class folders (left out): {some(stray)}"
    empty = set(subfolders(root / folder)) - {name.split("/")[0] for name in inside} - set(UNLABELLED_FOLDERS)
    if empty and names:
        yield f"class folders without {what} in {folder or root.name}: {some(sorted(empty))}"


def _table_against_files(root: Path, table: _Table, files: list[Found]) -> Iterator[str]:
    present = {normal_name(file.name) for file in files}
    missing = [name for name in table.labels if name not in present]
    if len(missing) > TOLERATED * max(1, len(table.labels)):
        raise BadData(
            f"{len(missing)} of {len(table.labels)} files in the metadata of {root} are not there: {some(missing)};"
            " file_name is relative to the folder of the metadata file"
        )
    # those of the pool have neither a row nor a need for one
    bare = [file.name for file in files if file.label is None and not file.name.startswith(_POOLS)]
    unlisted = [name for name in bare if normal_name(name) not in table.labels]
    empty = [name for name in bare if normal_name(name) in table.labels]
    for names, what in (
        (missing, "rows of the metadata have no file (left out)"),
        (table.repeated, "rows of the metadata are repeated (counted once)"),
        (unlisted, "files have no row in the metadata (taken as unlabelled)"),
        (empty, "rows of the metadata have an empty label (taken as unlabelled)"),
    ):
        if names:
            yield f"{len(names)} {what}: {some(names)}"


def _named(root: Path, files: list[Found], table: _Table, warnings: list[str]) -> Listing:
    """Labels in their order: alphabetical; whole numbers by number, those of metadata under their `label_name`s."""
    raw = {file.label for file in files if file.label is not None}
    numeric = all(_WHOLE_NUMBER.fullmatch(label) for label in raw)
    values = sorted(raw, key=lambda label: (int(label), label)) if numeric else sorted(raw)
    if numeric and not table.folders and values != sorted(raw):
        warnings.append(
            f"the class folders are numbers and in the order of numbers: {some(values)}. A model that knows no names"
            " of classes, and was trained with the folders in the order of text, answers in another order"
        )
    labels = [table.label_names.get(value, value) if numeric else value for value in values]
    if twice := sorted(name for name, count in Counter(labels).items() if count > 1):
        warnings.append(f"several labels have the same name: {some(twice)}")
    _check_labels(root, files, labels)
    return Listing(tuple(files), tuple(values), tuple(labels), tuple(warnings))


def _check_labels(root: Path, files: list[Found], labels: list[str]) -> None:
    if not labels:
        raise BadData(f"none of the {len(files)} files in {root} has a label: use a folder per class, or metadata.csv")
    if len(labels) > 1:
        return
    below = {file.name.split("/")[1] for file in files if file.label is not None and file.name.count("/") > 1}
    hint = f"; the classes may be one folder deeper: {some(sorted(below))}" if len(below) > 1 else ""
    raise BadData(f"{root} has one class only, {labels[0]!r}: a classifier needs two or more{hint}")
