"""The folder where decoded pixels and content hashes are kept between runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DiskFull, Failed
from ..machine.files import TEMPORARY, is_disk_full

VARIABLE = "MICROBUDGET_CACHE"
LIMIT_BYTES = 20 * 10**9
IN_USE_S = 3600.0  # a file read within the hour may belong to a run that goes on
ABANDONED_S = 24 * 3600.0
ADVICE = f"set {VARIABLE} to a folder with room"


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
        if is_disk_full(error):
            raise DiskFull(f"no space is left for the cache in {folder}: free some, or {ADVICE}") from error
        raise Failed(f"the cache in {folder} cannot be written ({error.strerror or error}): {ADVICE}") from error


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
