"""Memory that a training frees stays for its next step, and goes back to the system when it ends."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from microbudget.machine import allocator
from microbudget.machine.allocator import reused_memory

BYTES = 200_000_000


class Libc:
    """What is asked of the C library."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, name: int, value: int) -> int:
        self.calls.append((name, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


def test_the_outermost_block_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(allocator, "_glibc", lambda: libc)

    def training() -> None:
        with reused_memory():
            begun = len(libc.calls)
            with reused_memory():
                pass
            assert len(libc.calls) == begun, "a block within a block changed something"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training()
    assert libc.calls[-1] == (0,), "trimmed, also after an error"
    assert (allocator.M_MMAP_MAX, allocator.USUAL_MAPS) in libc.calls


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with reused_memory():
        assert allocator._depth == 0


@pytest.mark.skipif(allocator._glibc() is None, reason="glibc alone has these settings")
def test_a_large_array_is_not_cleared_again_by_the_kernel() -> None:
    """The pages of a freed array are those of the next one of its size: no fault on them."""
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(BYTES // 8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    plain = faults()
    with reused_memory():
        faults()
        kept = faults()
    assert kept < plain / 4
    assert faults() > plain / 4, "the memory is given back"
