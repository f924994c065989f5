"""Write files and folders so that what has its final name is complete, and recognize a full disk.

The temporary name is in the same folder, hence on the same disk, and everything is closed before it is moved, as
Windows requires.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import DiskFull, MicrobudgetError
from ..units import format_bytes

TEMPORARY = ".partial"  # how the names of incomplete files end, and those of incomplete folders begin
REPLACED = ".replaced-"  # how the name of a folder begins while another takes its place
WINDOWS_DISK_FULL = 112
LINKED_FROM = 1_000_000  # bytes


@contextmanager
def open_whole(path: Path, *, durable: bool = False, same_bytes: bool = False) -> Iterator[BinaryIO]:
    """A stream to write the file with; the file appears, or takes the place of the old one, when the block ends.

    When the block fails nothing is left, and an old file stays. Several processes and threads may do this at once.
    durable: survive a power cut, which takes time. same_bytes: all processes that write it write the same. Raises
    OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        move_into_place(temporary, path, same_bytes=same_bytes)
    finally:
        with suppress(OSError):
            temporary.unlink()


def move_into_place(temporary: Path, path: Path, *, same_bytes: bool = False) -> None:
    """Rename a closed file to its final name. same_bytes: a file of that name that is in use may stay in its place."""
    try:
        temporary.replace(path)
    except PermissionError:  # Windows: another process has the file open
        if not (same_bytes and path.exists()):
            raise
        temporary.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """One file under two names where the disk allows it, else a copy. Neither may be written to afterwards.

    Small files are copied: they save nothing, and are what people edit.
    """
    if source.stat().st_size >= LINKED_FROM:
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `open_whole` does."""
    with open_whole(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `open_whole` does, with the same line ends on all platforms."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `path` when the block ends, and nothing is left when it fails.

    One process at a time, whose killed predecessor's leavings are removed: the caller holds a lock. Raises OSError.
    """
    partial, replaced = (path.with_name(f"{prefix}{path.name}") for prefix in (f"{TEMPORARY}-", REPLACED))
    _tidy(path, partial, replaced)
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.replace(replaced)
        partial.replace(path)
    finally:
        _tidy(path, partial, replaced)


def _tidy(path: Path, partial: Path, replaced: Path) -> None:
    """Remove the two temporary folders, or put the old one back where no new one took its place."""
    shutil.rmtree(partial, ignore_errors=True)
    if replaced.exists() and not path.exists():
        replaced.replace(path)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def explain_full_disk(message: str) -> Iterator[None]:
    """Raise DiskFull with this message in place of any library's error about a full disk."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(message) from error
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error of the system or of a library says that the disk, or the user's share of it, is full.

    torch raises a RuntimeError over the system's error. safetensors has an error that is no OSError, with the text of
    Rust's library.
    """
    while error is not None and not isinstance(error, MicrobudgetError):
        if isinstance(error, OSError):
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        numbers = (errno.ENOSPC, WINDOWS_DISK_FULL)
        if type(error).__name__ == "SafetensorError" and any(f"(os error {one})" in str(error) for one in numbers):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_space(folder: Path, wanted_bytes: int, what: str, advice: str = "choose another folder") -> None:
    """Raise DiskFull when so many bytes do not fit on the folder's disk.

    what: the subject and verb of the message, such as "the model takes". advice: what to do besides freeing space.
    """
    free_bytes = shutil.disk_usage(folder).free
    if wanted_bytes > free_bytes:
        raise DiskFull(
            f"{what} {format_bytes(wanted_bytes)} but {os.fspath(folder)} has {format_bytes(free_bytes)} left:"
            f" free some, or {advice}"
        )
