"""Ctrl-C during a long call into C, and while what a run delivers is being written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """In the block Ctrl-C calls `stop`, and is raised when the block ends.

    For calls into C that call back into Python: there a KeyboardInterrupt would be raised at the callback's first line,
    outside of every `try` of its own, and ctypes would print it and go on. Only the main thread handles signals: in
    another thread, and where Ctrl-C is ignored, the block just runs.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    caught: list[tuple[int, Any]] = []

    def handle(number: int, frame: Any) -> None:
        caught.append((number, frame))
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            before(*caught[0])


def deferred_interrupts() -> AbstractContextManager[None]:
    """Ctrl-C during the block is raised when it ends. For blocks of a few seconds whose files must be whole."""
    return stopping(lambda: None)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ctrl-C during the block is ignored: the work was interrupted already, and only the end is being written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
