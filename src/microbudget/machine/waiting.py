"""Waiting for a processor: how long threads that could run did not, because other programs had the cores."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

from .processor import cores

TASKS = Path("/proc/self/task")
PROBE_S = 0.1
WAITED = 0.05  # share of the time, from which on a core is not ours alone


def waited_ns(tasks: Path = TASKS) -> int | None:
    """Nanoseconds that this process's threads have waited for a processor so far; None where nothing says (not Linux).

    The second number of `schedstat` (the kernel's Documentation/scheduler/sched-stats.rst).
    """
    found = None
    for thread in tasks.glob("*/schedstat"):
        try:
            found = (found or 0) + int(thread.read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
    return found


def waiting_share(threads: int = 0, seconds: float = PROBE_S) -> float | None:
    """Which share of the time one of `threads` threads that only compute waits for a processor now; None: unknown.

    threads: 0 means one for each core. They hold Python's lock in turn, so what one waits for the lock is no waiting
    for a processor: a thread that sleeps is not ready to run.
    """
    before, started = waited_ns(), time.perf_counter()
    if before is None:
        return None
    end = started + seconds
    others = [threading.Thread(target=_compute_until, args=(end,)) for _ in range((threads or cores()) - 1)]
    for thread in others:
        thread.start()
    _compute_until(end)
    after, elapsed = waited_ns(), time.perf_counter() - started
    for thread in others:
        thread.join()
    return None if after is None else max(0, after - before) * 1e-9 / elapsed


def _compute_until(end: float) -> None:
    block = bytes(1 << 20)  # long enough that hashlib lets the other threads run meanwhile
    while time.perf_counter() < end:
        hashlib.sha256(block).digest()
