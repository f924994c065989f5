"""Ctrl-C during a call into C: it stops the call and comes out when that has returned."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading

import pytest

from microbudget.machine.interrupts import stopping


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_callback_of_c_stops_the_call_and_comes_out(times: int) -> None:
    """qsort asks a comparison in Python, as llama.cpp asks whether to go on."""
    stopped: list[int] = []
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def interrupted(_a: int, _b: int) -> int:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return 0

    numbers = (ctypes.c_int * 2)(2, 1)
    returned: list[int] = []
    libc = ctypes.CDLL(None) if hasattr(signal, "SIGKILL") else ctypes.cdll.msvcrt
    with pytest.raises(KeyboardInterrupt), stopping(lambda: stopped.append(1)):
        returned.append(libc.qsort(numbers, 2, 4, compare(interrupted)))
    assert returned  # to our own code, from C
    assert len(stopped) >= times
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_ctrl_c_nothing_happens() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stopping(lambda: None):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with stopping(lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_a_command_ends_without_a_last_walk_over_all_objects() -> None:
    """With torch loaded that takes seconds, which a user who pressed Ctrl-C waits for."""
    script = (
        "import atexit, gc; from microbudget import cli;"
        " atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0));"  # after what `main` registers
        " cli.main(['methods', '--json'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.rstrip().endswith("frozen True")
