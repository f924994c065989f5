"""The program of a worker process: it opens one model and answers, times and weighs it on request.

`python -m microbudget.judge.child` is started by worker.py and by nobody else. Requests and replies are pickles with
a length before each, on pipes of their own, so that a library that prints cannot damage them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import queue
import signal
import struct
import threading
import time
from typing import Any

from ..machine import placement
from . import memory

LENGTH = struct.Struct("<Q")


def write_frame(stream: io.BufferedIOBase, value: Any) -> None:
    """One pickled value with its length before it."""
    data = pickle.dumps(value, protocol=5)
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: io.BufferedIOBase) -> Any:
    """The inverse of `write_frame`. Raises EOFError when the other side is gone."""
    head = stream.read(LENGTH.size)
    data = stream.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if not data:
        raise EOFError("the other side of the pipe is gone")
    return pickle.loads(data)


class Desk:
    """What a worker can be asked for; each method is one request."""

    def __init__(self) -> None:
        self._session: Any = None
        self._inputs: Any = None

    def bring(self, module: str) -> memory.Memory:
        """Import a runtime and weigh the process: what it takes without a model."""
        importlib.import_module("numpy")
        importlib.import_module(module)
        return memory.read()

    def open(self, opener: str, model: Any, runtime: str | None, threads: int) -> tuple[str, float]:
        """Open the model. Returns the runtime's name and version, and the seconds that it took."""
        module, _, function = opener.partition(":")
        started = time.perf_counter()
        self._session = getattr(importlib.import_module(module), function)(model, threads=threads, runtime=runtime)
        return self._session.runtime, time.perf_counter() - started

    def answer(self, inputs: Any) -> Any:
        """The model's output for a batch."""
        return self._session.answer(inputs)

    def prepare(self, inputs: Any) -> None:
        """Keep the inputs that `time_block` uses."""
        self._inputs = inputs

    def time_block(self, calls: int, dropped: int, place: int | None = None) -> Any:
        """Time calls with the prepared inputs, from a random placement of the threads that `place` fixes."""
        from ..machine.stopwatch import time_calls

        session, inputs = self._session, self._inputs
        placement.shuffle(place)
        return time_calls(lambda: session.answer(inputs), calls, dropped)

    def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """What only some sessions can: `logits`, `about`, `chat` of a language model."""
        return getattr(self._session, method)(**arguments)

    def memory(self) -> memory.Memory:
        """The memory of this process."""
        return memory.read()


def _reply(desk: Desk, request: tuple[int, str, dict[str, Any]]) -> tuple[int, str, Any]:
    number, name, arguments = request
    try:
        return number, "done", getattr(desk, name)(**arguments)
    except MemoryError:
        return number, "failed", ("MemoryError", "it ran out of memory")
    except Exception as error:  # whatever a runtime raises becomes a sentence for the parent
        return number, "failed", (type(error).__name__, str(error))


def _listen(stream: io.BufferedIOBase, requests: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            requests.put(read_frame(stream))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: end at once, even in the middle of a call


def _private_pipes() -> tuple[io.BufferedReader, io.BufferedWriter]:
    """Take stdin and stdout for the channel; whatever a library prints goes to stderr instead."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, replies


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    stream, replies = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us by closing the pipe
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
        score.write("500")  # if memory runs out, the system shall take the worker and not the run
    desk, requests = Desk(), queue.SimpleQueue[Any]()
    threading.Thread(target=_listen, args=(stream, requests), daemon=True).start()
    while True:
        write_frame(replies, _reply(desk, requests.get()))


if __name__ == "__main__":
    main()
