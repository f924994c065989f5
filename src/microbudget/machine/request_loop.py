"""The program of a child process: it answers requests one at a time, by the methods of one object.

`python -m microbudget.machine.request_loop module:class` is started by `child_process` and by nobody else. Requests and
replies are pickles with a length before each, on pipes of their own, so that a library that prints cannot damage them.
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
import sys
import threading
from typing import Any

LENGTH = struct.Struct("<Q")


def write_frame(stream: io.BufferedIOBase, value: Any) -> None:
    """One pickled value with its length before it."""
    write_pickle(stream, pickle.dumps(value, protocol=5))


def write_pickle(stream: io.BufferedIOBase, data: bytes) -> None:
    """As `write_frame`, of a value that is pickled already."""
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


def _reply(handler: Any, request: tuple[int, str, dict[str, Any]]) -> tuple[int, str, Any]:
    number, name, arguments = request
    try:
        return number, "done", getattr(handler, name)(**arguments)
    except MemoryError:
        return number, "failed", ("MemoryError", "it ran out of memory")
    except Exception as error:  # whatever a library raises becomes a sentence for the parent
        return number, "failed", (type(error).__name__, str(error))


def _receive(stream: io.BufferedIOBase, requests: queue.SimpleQueue[Any]) -> None:
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


def serve(path: str) -> None:
    """Answer requests until the parent closes the pipe. path: "module:class" of the object whose methods they name."""
    stream, replies = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us by closing the pipe
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123
        score.write("500")  # if memory runs out, the system shall take the child and not the run
    requests = queue.SimpleQueue[Any]()
    threading.Thread(target=_receive, args=(stream, requests), daemon=True).start()
    module, _, name = path.partition(":")
    handler = getattr(importlib.import_module(module), name)()
    while True:
        write_frame(replies, _reply(handler, requests.get()))


if __name__ == "__main__":
    serve(sys.argv[1])
