"""Where decoded pixels and content hashes are kept between runs, and how files get there whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DiskFull, Failed
from ..units import format_bytes

VARIABLE = "MICROBUDGET_CACHE"
LIMIT_BYTES = 20 * 10**9
IN_USE_S = 3600.0  # a file read within the hour may belong to a run that goes on
ABANDONED_S = 24 * 3600.0
TEMPORARY = ".tmp"


def default_folder() -> Path:
    """`MICROBUDGET_CACHE`, else the platform's cache folder: `XDG_CACHE_HOME`, `LOCALAPPDATA`, or `~/.cache`."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    platform = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return (Path(platform) if platform else Path.home() / ".cache") / "microbudget"


@contextmanager
def failing_clearly(folder: Path) -> Iterator[None]:
    """Turn a disk that is full or not writable into an error that says what to do."""
    try:
        yield
    except OSError as error:
        advice = f"set {VARIABLE} to a folder with room"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space is left for the cache in {folder}: free some, or {advice}") from error
        raise Failed(f"the cache in {folder} cannot be written ({error.strerror or error}): {advice}") from error


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses."""
    return path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a whole file to its final name. Another process that was faster has written the same bytes."""
    try:
        temporary.replace(path)
    except PermissionError:  # Windows: the other one's file is open
        if not path.exists():
            raise
        temporary.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it into place. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(data)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def trim(folder: Path, limit_bytes: int = LIMIT_BYTES) -> int:
    """Delete the files that were not read for longest until the folder holds at most `limit_bytes`; bytes freed."""
    now = time.time()
    found = sorted(_files(folder), key=lambda entry: entry[1].st_mtime)
    excess = sum(stat.st_size for _, stat in found) - limit_bytes
    freed = 0
    for path, stat in found:
        age_s = now - stat.st_mtime
        old = freed < excess and age_s > IN_USE_S
        if old or (path.suffix == TEMPORARY and age_s > ABANDONED_S):
            with contextlib.suppress(OSError):  # in use on Windows, or gone already
                path.unlink()
                freed += stat.st_size
    return freed


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            yield path, path.stat()


def check_space(folder: Path, wanted_bytes: int) -> None:
    """Raise DiskFull before the work when it cannot fit."""
    free = shutil.disk_usage(folder).free
    if wanted_bytes > free:
        raise DiskFull(
            f"the decoded images take {format_bytes(wanted_bytes)} but {folder} has {format_bytes(free)} left:"
            f" free some, or set {VARIABLE} to a folder with room"
        )
