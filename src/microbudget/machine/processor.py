"""The machine's processor: its name, cores and load, which are recorded with every measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidOption

Threads = int | Literal["auto"]  # 0: all cores that this process may use; "auto": the faster of 1 and all


def check_threads(threads: Threads) -> Threads:
    """Raise InvalidOption for what is no number of threads."""
    if threads != "auto" and threads < 0:
        raise InvalidOption(f"threads must be a number of threads or auto, not {threads}")
    return threads


def fixed_threads(threads: Threads) -> int:
    """The number for work that is not timed: all cores (0) where the number for timing is still to be found."""
    return 0 if threads == "auto" else threads


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or taskset may allow fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int) -> int:
    """`threads`, or for 0 the cores that this process may use."""
    return threads if threads > 0 else cores()


def load_average() -> float | None:
    """Mean number of runnable processes over the last minute; None where the system does not report it (Windows)."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system reports it, else its architecture."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware", "Model") and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """The fields of `Measurement.machine`: cpu, cores, architecture, platform, load average now."""
    return {
        "cpu": processor(),
        "cores": cores(),
        "architecture": platform.machine(),
        "platform": platform.platform(terse=True),
        "load_average": load_average(),
    }
