"""Folders below a data folder, and which of them are splits. A split has its name alone: `test`, not `blood_test`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ..errors import BadData
from . import metadata

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
UNLABELLED = "unlabelled"
SHOWN = 5


def some(names: Iterable[str]) -> str:
    """Up to five of the names, and how many more there are."""
    listed = list(names)
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def walk(folder: Path, ancestors: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All visible files below a folder, sorted; a symbolic link back to a folder that we are in is not followed."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BadData(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    here = (status.st_dev, status.st_ino)
    if here in ancestors:
        return
    for entry in entries:
        if not _visible(entry.name):
            continue
        if entry.is_dir():
            yield from walk(Path(entry.path), (*ancestors, here))
        elif entry.is_file() or entry.is_symlink():  # a broken link is a file that will be reported as unreadable
            yield Path(entry.path)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def subfolders(folder: Path) -> list[str]:
    """The names of the visible folders in a folder, sorted. Raises BadData."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if _visible(entry.name) and entry.is_dir())
    except OSError as error:
        raise BadData(f"the folder {folder} cannot be read: {error.strerror or error}") from error


def units(
    root: Path, extensions: Collection[str], warnings: list[str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The folders to read with their splits ("" and None for an unsplit root), and those without labels.

    Raises BadData where a folder such as `train` could be a split or a class: with classes beside it, and with folders
    in it.
    """
    children = subfolders(root)
    pool = [name for name in children if name in UNLABELLED_FOLDERS]
    named = [name for name in children if name.lower() in SPLIT_FOLDERS]
    others = [name for name in children if name not in pool and name not in named and _holds(root / name, extensions)]
    listed = metadata.find(root)
    # among classes "bus" and "car", a folder "train" that holds nothing but files is a class as well
    found = [name for name in named if listed is not None or not others or _has_structure(root / name)]
    if not found:
        if named:
            warnings.append(
                f"{some(named)} in {root}: read as classes, because of {some(others)}; as splits they would need a"
                " folder for each class"
            )
        return [("", None)], pool
    splits = [SPLIT_FOLDERS[name.lower()] for name in found]
    if len(set(splits)) < len(splits):
        raise BadData(f"{root} has the splits {', '.join(found)}: keep one folder for each of train, validation, test")
    if others:
        _check_others(root, found, others, listed)
    if ignored := sorted({*others, *named} - {*found}):
        warnings.append(f"{some(ignored)} in {root}: not used, because of the splits {', '.join(found)}")
    return list(zip(found, splits, strict=True)), pool


def _check_others(root: Path, found: list[str], others: list[str], listed: Path | None) -> None:
    """Raise BadData where the folders could be classes too. Folders with a class in common are splits."""
    classes: list[set[str]] = [set(subfolders(root / name)) for name in found]
    inside: set[str] = set().union(*classes)
    beside = {name for other in others for name in subfolders(root / other)}
    if (len(found) > 1 and set.intersection(*classes)) or beside & inside:
        return
    if any(metadata.find(root / name) is not None for name in found):
        return
    if listed is not None:
        rows = metadata.read(listed, ())
        outside = {row[metadata.FILE_NAME].split("/")[0] for row in rows} & {*others}
        if not outside:
            return
    split, beside_it = found[0], some(others)
    raise BadData(
        f"{split!r} in {root} could be a split or a class. As a split, its classes are"
        f" {some(sorted(inside)) or 'files'}, and {beside_it} are not used: then move those to another folder. As a"
        f" class, it is one beside {beside_it}: then give it another name"
    )


def _holds(folder: Path, extensions: Collection[str]) -> bool:
    """Whether there is an example below a folder."""
    return any(path.suffix.lower() in extensions for path in walk(folder))


def _has_structure(folder: Path) -> bool:
    return bool(subfolders(folder)) or metadata.find(folder) is not None
