"""Keeping: files of a folder that is DATA afterwards, each under a name that its content gives."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

from ..errors import AlreadyExists, BadData

LONGEST_LABEL = 80
_LOCK = threading.Lock()  # two people may keep at once


def keep_file(source: Path, folder: Path, root: Path) -> Path:
    """Copy a file into `folder`, below `root`. Raises AlreadyExists where the same content is kept there already."""
    with source.open("rb") as stream:
        name = hashlib.file_digest(stream, "sha256").hexdigest()[:16] + source.suffix.lower()
    with _LOCK:
        found = next(root.rglob(name), None) if root.is_dir() else None
        if found is not None:
            raise AlreadyExists(f"it is kept already, as {found.relative_to(root)}: delete that file to change it")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    return folder / name


def keep_row(path: Path, row: dict[str, str]) -> Path:
    """Add a row to a CSV file, which begins with the names of the columns. Raises AlreadyExists for the same row."""
    line = _csv(row.values())
    with _LOCK:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.is_file() else _csv(row)
        if f"\n{line}" in before:
            raise AlreadyExists(f"it is kept already, in {path.name}")
        path.write_text(before + line, encoding="utf-8", newline="")
    return path


def keep_line(path: Path, row: dict[str, Any]) -> Path:
    """Add a line to a file of JSON lines. Raises AlreadyExists for the same line."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    with _LOCK:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and line in path.read_text(encoding="utf-8"):
            raise AlreadyExists(f"it is kept already, in {path.name}")
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line)
    return path


def folder_name(label: str) -> str:
    """A label as the name of a folder. Raises BadData for what would be another folder, or none."""
    name = " ".join(label.split())
    if not name:
        raise BadData("say what is right of it first")
    unfit = name.startswith(".") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name)
    if unfit or len(name) > LONGEST_LABEL:
        raise BadData(f"{name[:40]!r} cannot be the name of a folder: give a short label of letters and digits")
    return name


def one_line(text: str) -> str:
    """A text in one line. Raises BadData for an empty one."""
    line = " ".join(text.split())
    if not line:
        raise BadData("say what is right of it first")
    return line


def _csv(values: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()
