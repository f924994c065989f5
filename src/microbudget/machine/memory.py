"""Resident memory of a process: now, at its peak, and how much of it is mapped files.

Peaks are VmHWM (Linux) and PeakWorkingSetSize (Windows): `ru_maxrss` of a child would include what its parent had.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. What a system does not report is None."""

    resident_bytes: int
    peak_bytes: int
    anonymous_bytes: int | None = None  # private: heap, weights that were copied
    file_bytes: int | None = None  # pages of mapped files, which the system can take back


def _linux(pid: int) -> Memory:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    fields = {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Memory(fields["VmRSS"], fields["VmHWM"], fields.get("RssAnon"), fields.get("RssFile"))


def _macos(pid: int) -> Memory:
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    resident = int(shown.stdout) * 1024
    if pid != os.getpid():
        return Memory(resident, resident)
    import resource

    return Memory(resident, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def _windows(pid: int) -> Memory:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        _fields_ = [("cb", wintypes.DWORD), ("PageFaultCount", wintypes.DWORD)] + [
            (name, ctypes.c_size_t)
            for name in (
                "PeakWorkingSetSize",
                "WorkingSetSize",
                "QuotaPeakPagedPoolUsage",
                "QuotaPagedPoolUsage",
                "QuotaPeakNonPagedPoolUsage",
                "QuotaNonPagedPoolUsage",
                "PagefileUsage",
                "PeakPagefileUsage",
                "PrivateUsage",
            )
        ]

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = [wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD]
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    counters = Counters(cb=ctypes.sizeof(Counters))
    try:
        if not kernel.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.cb):
            raise OSError(f"no memory counters for process {pid}")
    finally:
        kernel.CloseHandle(wintypes.HANDLE(handle))
    return Memory(counters.WorkingSetSize, counters.PeakWorkingSetSize, counters.PrivateUsage)


def read(pid: int | None = None) -> Memory:
    """The memory of a process, by default this one. Raises OSError when the process is gone."""
    pid = os.getpid() if pid is None else pid
    try:
        if sys.platform == "win32":
            return _windows(pid)
        return _macos(pid) if sys.platform == "darwin" else _linux(pid)
    except (KeyError, ValueError, subprocess.SubprocessError) as error:  # a zombie has no VmRSS
        raise OSError(f"process {pid} does not report its memory") from error
