"""Child processes that answer requests, and that may crash, hang or eat memory without harm to this one."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .. import errors
from ..errors import MicrobudgetError, WorkerFailed
from ..units import format_bytes, format_seconds
from . import memory
from .memory import Memory
from .request_loop import read_frame, write_pickle

PIPE_BYTES = 4096  # every system's pipes hold as much at least
POLL_S = 0.02  # how often the memory of a process with a limit is read


def _environment() -> dict[str, str]:
    """The child finds the same modules as we do, also when microbudget is not installed."""
    paths = [str(Path(entry or ".").resolve()) for entry in sys.path]
    # libgomp spins for milliseconds by itself, which costs torch its speed on a busy machine (489 ms for a photo in
    # MobileNetV2) and slows other processes; no spinning (OMP_WAIT_POLICY) costs half the speed on a quiet one: 10 us.
    spinning = {"GOMP_SPINCOUNT": "10000"}
    return {**spinning, **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}


def start(handler: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """A new Python process that answers requests on its stdin and stdout. handler: "module:class"."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "microbudget.machine.request_loop", handler],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_environment(),
    )


class ChildProcess:
    """A spawned Python process that answers requests by the methods of one object. Use it as a context manager.

    handler: "module:class" of that object. timeout_s: a request that takes longer counts as hung. max_memory_bytes:
    limit of the resident memory above `baseline`. A process that breaks either limit is killed, and the request raises
    WorkerFailed.
    """

    def __init__(self, handler: str, *, timeout_s: float = 120.0, max_memory_bytes: int | None = None) -> None:
        self.timeout_s, self._max_memory_bytes = timeout_s, max_memory_bytes
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._reason: str | None = None
        self._asked, self._number = "start", 0
        self.baseline: Memory | None = None
        self._process = start(handler, self._stderr)

    @property
    def alive(self) -> bool:
        """Whether it answers requests: False after a failure or an interruption."""
        return self._process.poll() is None and self._reason is None

    @property
    def pid(self) -> int:
        """The process, for those who watch it."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> Any:
        """Send a request and wait for its reply."""
        self.send(request, **arguments)
        return self.receive()

    def send(self, request: str, **arguments: Any) -> None:
        """Send a request without waiting. Only the reply to the last request is ever received."""
        self._asked = request
        self._number += 1
        assert self._process.stdin is not None
        data = pickle.dumps((self._number, request, arguments), protocol=5)
        # What the pipe does not hold waits for the process to read it, and a process that hangs reads nothing.
        watched = self._watched() if len(data) > PIPE_BYTES else contextlib.nullcontext()
        with watched, self._all_or_nothing():
            write_pickle(self._process.stdin, data)  # type: ignore[arg-type]

    def receive(self) -> Any:
        """The reply to the last request. Raises WorkerFailed, or the error that the worker raised."""
        assert self._process.stdout is not None
        number = -1
        with self._watched(), self._all_or_nothing():
            while number != self._number:  # the caller may have failed between an earlier request and its reply
                number, state, value = read_frame(self._process.stdout)  # type: ignore[arg-type]
        if state == "failed":
            raise _raised(self._asked, *value)
        return value

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A frame that is cut short leaves a channel that nobody can read: then the worker ends."""
        try:
            yield
        except (EOFError, OSError, ValueError):
            raise self._failure() from None
        except BaseException as error:  # Ctrl-C
            self._stop(f"was interrupted ({type(error).__name__})")
            raise

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()

    def _watch(self, done: threading.Event) -> None:
        deadline = time.monotonic() + self.timeout_s
        pause_s = self.timeout_s if self._max_memory_bytes is None else POLL_S
        while not done.wait(pause_s):
            if time.monotonic() >= deadline:
                return self._stop(f"hung: no answer within {format_seconds(self.timeout_s)}, stopped")
            if self._excess():
                return self._stop(f"used more than {format_bytes(self._max_memory_bytes or 0)} of memory, stopped")

    def _excess(self) -> bool:
        with contextlib.suppress(OSError):
            used = memory.read(self.pid).peak_bytes - (self.baseline.resident_bytes if self.baseline else 0)
            return self._max_memory_bytes is not None and self.baseline is not None and used > self._max_memory_bytes
        return False

    def _stop(self, reason: str) -> None:
        self._reason = reason
        self._process.kill()

    def _failure(self) -> WorkerFailed:
        code = self._process.wait()
        reason = self._reason or f"ended: {_exit_reason(code)}"
        return WorkerFailed(f"the worker that was asked to {self._asked} {reason}{self._last_words()}")

    def _last_words(self, lines: int = 4) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 2000))
        said = self._stderr.read().decode("utf-8", "replace").strip().splitlines()[-lines:]
        return "; its last lines: " + " | ".join(said) if said else ""

    def close(self) -> None:
        """End the process and wait until it is gone."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()  # do not wait for a call that nobody wants any more
        self.close()


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (often the system's, out of memory)" if name == "SIGKILL" else "")
    return f"killed by signal {-code}"


def _raised(asked: str, kind: str, message: str) -> MicrobudgetError:
    """The error of the worker: one of ours as it was, anything else as WorkerFailed."""
    ours = getattr(errors, kind, None)
    if isinstance(ours, type) and issubclass(ours, MicrobudgetError):
        return ours(message)
    whole = " ".join(message.split())  # the reason is often on the second line
    return WorkerFailed(f"the worker that was asked to {asked} failed with {kind}: {whole}")
