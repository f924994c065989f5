"""Allocator: memory that a training frees is kept for its next step, and given back to the system when it ends.

glibc maps every tensor above 32 MB anew and unmaps it when it is freed, so that each step of a training touches, and
the kernel clears, the same gigabytes again: a third of the time of MobileNetV2 (`benchmarks/allocator.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
NEVER, ALWAYS = 2**31 - 1, 0  # for the threshold; for the number of maps
USUAL_THRESHOLD, USUAL_MAPS = 128 * 1024, 65536
_depth = 0  # of blocks within blocks: the outermost one gives the memory back


@contextlib.contextmanager
def reused_memory() -> Iterator[None]:
    """While the block lasts freed memory stays with the process; other C libraries than glibc are left alone.

    The process may take a quarter more at its peak. For a training, and not for a worker whose memory is measured.
    """
    global _depth
    libc = _glibc()
    if libc is None:
        yield
        return
    if _depth == 0:
        libc.mallopt(M_MMAP_MAX, ALWAYS)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            libc.mallopt(M_MMAP_MAX, USUAL_MAPS)
            libc.mallopt(M_TRIM_THRESHOLD, USUAL_THRESHOLD)
            libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library, where it has these settings."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    known: Callable[[str], bool] = lambda name: hasattr(libc, name)  # noqa: E731
    return libc if known("mallopt") and known("malloc_trim") and known("gnu_get_libc_version") else None
