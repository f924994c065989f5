"""Blocks of timed calls, with what is needed to judge whether a block can be trusted."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .processor import cores
from .waiting import WAITED, waited_ns

SLEEP_NS = 10_000_000  # clocks that drift apart by more than this inside one block: the machine slept or a clock jumped
DRIFT = 0.01  # and by more than this share of the block


def _since_boot_ns() -> int:
    """Nanoseconds since boot, sleep included; where there is no such clock, the wall's."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.time_ns()


@dataclass(frozen=True)
class Clocks:
    """The clocks that a block reads, all in nanoseconds. Tests give their own."""

    now: Callable[[], int] = time.perf_counter_ns  # monotonic, stops while the machine sleeps
    wall: Callable[[], int] = time.time_ns
    since_boot: Callable[[], int] = _since_boot_ns
    processor: Callable[[], int] = time.process_time_ns
    cores: Callable[[], int] = cores
    waited: Callable[[], int | None] = waited_ns


@dataclass(frozen=True)
class Block:
    """Consecutive timed calls of one model.

    durations_ns: (calls,). processor_ns: time of all threads of the process over those calls. trouble: why the block
    cannot be trusted, or None. waited: of all threads for a processor, as a share of the time; None: unknown.
    """

    durations_ns: NDArray[np.int64]
    processor_ns: int
    cores: int
    trouble: str | None = None
    waited: float | None = None

    @property
    def quiet(self) -> bool:
        """Whether the threads had the processor when they were ready, as far as the system says."""
        return self.waited is None or self.waited < WAITED

    @cached_property  # a timing looks at all of its blocks again and again
    def median_s(self) -> float:
        """Median duration of a call."""
        return float(np.median(self.durations_ns)) * 1e-9

    @property
    def processor_s(self) -> float:
        """Processor time per call."""
        return self.processor_ns * 1e-9 / len(self.durations_ns)


@dataclass
class _Readings:
    clocks: Clocks
    now: int = field(init=False)
    wall: int = field(init=False)
    since_boot: int = field(init=False)
    cores: int = field(init=False)

    def __post_init__(self) -> None:
        self.cores = self.clocks.cores()
        self.wall, self.since_boot, self.now = self.clocks.wall(), self.clocks.since_boot(), self.clocks.now()

    def trouble(self, then: _Readings) -> str | None:
        elapsed = self.now - then.now
        allowed = max(SLEEP_NS, DRIFT * elapsed)
        if self.since_boot - then.since_boot - elapsed > allowed:
            return "the machine slept"
        if abs(self.wall - then.wall - elapsed) > allowed:
            return "the clock jumped"
        if self.cores != then.cores:
            return f"the cores changed from {then.cores} to {self.cores}"
        return None


def time_calls(call: Callable[[], object], calls: int, dropped: int = 1, clocks: Clocks | None = None) -> Block:
    """Time `calls` calls one by one after `dropped` that are not counted (cold caches, sleeping threads).

    Python's garbage collector is off meanwhile.
    """
    clocks = clocks or Clocks()
    now, marks = clocks.now, np.empty(calls + 1, np.int64)
    collecting = gc.isenabled()
    gc.disable()
    try:
        waited, started = clocks.waited(), now()  # reading it takes a moment, and so is not next to the counted calls
        for _ in range(dropped):
            call()
        before, processor = _Readings(clocks), clocks.processor()
        marks[0] = now()
        for i in range(1, calls + 1):
            call()
            marks[i] = now()
        processor = clocks.processor() - processor
        after = _Readings(clocks)
    finally:
        if collecting:
            gc.enable()
    share = _share(waited, clocks.waited(), int(marks[-1]) - started)
    return Block(np.diff(marks), processor, after.cores, after.trouble(before), share)


def _share(before_ns: int | None, after_ns: int | None, elapsed_ns: int) -> float | None:
    if before_ns is None or after_ns is None or elapsed_ns <= 0:
        return None
    return max(0, after_ns - before_ns) / elapsed_ns
