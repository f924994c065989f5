"""Ctrl-C during a call into C: it stops the call and comes out when that has returned."""

from __future__ import annotations

import ctypes
import signal
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
