"""The contents of files: a hash of the bytes, and whether they can be read. An index keeps them between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadData
from ..machine import files
from ..progress import SILENT, Progress
from . import parallel
from .folders import TOLERATED, some

REVISION = 1  # of what is remembered: raise it when the same file gives another Content
KEY_DIGITS = 16
SETTLED_S = 2.0  # a file younger than this could still change without changing its time


@dataclass(frozen=True)
class Content:
    """One file: `key` is the beginning of the SHA-256 of its bytes, empty when it could not be read at all."""

    key: str
    problem: str | None = None
    animated: bool = False
    seconds: float = 0.0  # of a recording


def content_key(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256: the identity of an example, whatever its file is called."""
    return hashlib.sha256(data).hexdigest()[:KEY_DIGITS]


def file_key(path: Path) -> str:
    """`content_key` of a file of any size. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:KEY_DIGITS]


def index_path(store: Path, root: Path, prefix: str = "") -> Path:
    """The file in the cache folder `store` that keeps the contents of a data folder between runs."""
    return store / "index" / f"{prefix}{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]}.json"


def scan(
    files: Mapping[str, Path],
    index: Path,
    examine: Callable[[Path], Content],
    what: str,
    *,
    threads: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Content]:
    """The content of each file, by its name. Files whose size and time are those in `index` are not read again.

    examine: reads a file, in several threads. what: is done with the files, for the progress.
    """
    remembered = _read(index)
    stamps = {name: _stamp(path) for name, path in files.items()}
    known = {
        name: Content(*remembered[name][1])
        for name, stamp in stamps.items()
        if stamp and name in remembered and tuple(remembered[name][0]) == stamp
    }
    new = [name for name in files if name not in known]
    if not new:
        return known
    results = parallel.each(lambda name: examine(files[name]), new, threads)
    found = dict(zip(new, progress.track(results, what, len(new)), strict=True))
    contents = {**known, **found}
    _remember(index, stamps, contents)
    return {name: contents[name] for name in files}


def about_unreadable(known: Mapping[str, Content], what: str) -> list[str]:
    """The warning of files that cannot be read, if any. what: "images in DATA". Raises BadData where a tenth are."""
    bad = [f"{name} ({content.problem})" for name, content in known.items() if content.problem]
    if bad and len(bad) >= TOLERATED * len(known):
        raise BadData(f"{len(bad)} of {len(known)} {what} cannot be read: {some(bad)}")
    return [f"{len(bad)} of {len(known)} {what} cannot be read (left out): {some(bad)}"] if bad else []


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _read(index: Path) -> dict[str, Any]:
    try:
        saved = json.loads(index.read_text(encoding="utf-8"))
        files: dict[str, Any] = saved["files"] if saved["revision"] == REVISION else {}
        return files
    except (OSError, ValueError, KeyError, TypeError):  # missing, or cut off by a crash: it is only a memory
        return {}


def _remember(index: Path, stamps: Mapping[str, tuple[int, int] | None], contents: Mapping[str, Content]) -> None:
    settled_ns = time.time_ns() - int(SETTLED_S * 1e9)
    rows = {}
    for name, content in contents.items():
        stamp = stamps[name]
        if stamp and content.key and stamp[1] < settled_ns:
            rows[name] = (stamp, (content.key, content.problem, content.animated, content.seconds))
    with contextlib.suppress(OSError):  # not being able to remember costs time, nothing else
        files.write_text(index, json.dumps({"revision": REVISION, "files": rows}))
