"""Threads over many files: decoding and hashing release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..machine.processor import thread_count

T = TypeVar("T")
R = TypeVar("R")
CHUNK = 1024  # submitted at once, so that memory does not grow with the number of files


def each(function: Callable[[T], R], items: Sequence[T], threads: int = 0) -> Iterator[R]:
    """The results in order. When the consumer stops (Ctrl-C, an error) what has not begun is dropped."""
    executor = ThreadPoolExecutor(thread_count(threads), thread_name_prefix="microbudget")
    try:
        for start in range(0, len(items), CHUNK):
            yield from executor.map(function, items[start : start + CHUNK])
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
