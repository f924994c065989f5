"""Threads over many files: decoding and hashing release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
CHUNK = 1024  # submitted at once, so that memory does not grow with the number of files


def thread_count(threads: int) -> int:
    """`threads`, or for 0 the cores that this process may use."""
    if threads > 0:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[T], R], items: Sequence[T], threads: int = 0) -> Iterator[R]:
    """The results in order. When the consumer stops (Ctrl-C, an error) what has not begun is dropped."""
    executor = ThreadPoolExecutor(thread_count(threads), thread_name_prefix="microbudget")
    try:
        for start in range(0, len(items), CHUNK):
            yield from executor.map(function, items[start : start + CHUNK])
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
