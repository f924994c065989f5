"""Where threads run: a thread wakes on the core that it slept on, so a model can share one with other work for long.

Moving the threads to random cores before every block turns this bias, which no number of blocks would average out,
into noise, which the interval accounts for. The two blocks of a pair run on the same cores, since the background load
differs from core to core: by other processes, and on a virtual machine by what runs on the other hyperthread. Only
where all cores are alike, and only on Linux.
"""

from __future__ import annotations

import contextlib
import os
import random
from functools import cache
from pathlib import Path

SYSTEM = Path("/sys/devices/system")
MANY_CORES = 16  # with so many, one is nearly always free


@cache
def alike(system: Path = SYSTEM) -> bool:
    """Whether all cores are of one speed and next to the same memory, as far as the system reports it."""
    speeds = set()
    for file in system.glob("cpu/cpu*/cpufreq/cpuinfo_max_freq"):
        with contextlib.suppress(OSError):
            speeds.add(file.read_text())
    nodes = list(system.glob("node/node[0-9]*"))
    return len(speeds) <= 1 and len(nodes) <= 1


def shuffle(seed: int | None = None) -> None:
    """Move every thread of this process to a random core; the scheduler may move it on from there.

    Threads that work get different cores, as far as there are any: two threads on one core would stay there while other
    work occupies the other core, and a call of two threads would take twice as long. The same seed moves the main
    thread of any process to the same core, and its busiest other thread to the same other core.
    """
    if not hasattr(os, "sched_setaffinity") or not alike():
        return
    cores = sorted(os.sched_getaffinity(0))
    main, *others = sorted(int(task.name) for task in Path("/proc/self/task").iterdir())
    if not 1 < len(cores) < MANY_CORES:
        return
    random.Random(seed).shuffle(cores)
    others.sort(key=worked_ns, reverse=True)
    for position, thread in enumerate((main, *others)):
        with contextlib.suppress(OSError):  # the thread may have ended
            allowed = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, {cores[position % len(cores)]})
            os.sched_setaffinity(thread, allowed)


def worked_ns(thread: int) -> int:
    """Processor time of a thread; 0 where the system does not report it, or the thread has ended."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
