"""Python processes that begin with torch and transformers imported: from scratch each needs five seconds for them.

They are forks of a server that has imported and done nothing else; what they compute is what a fresh process computes.
Where the tests have imported as much when they are collected, the server is a fork of theirs, and need not do it again.
What a fresh process takes of memory or time is another matter: tests of that ask for `fresh_workers`.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

_CONTEXT = multiprocessing.get_context("forkserver")
MODULES = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.whisper.modeling_whisper",
    "accelerate",
    "onnx",
    "onnxruntime",
    "microbudget.judge.child",
    "microbudget.runtimes.hf.causal",
    "microbudget.runtimes.hf.image_classifier",
    "microbudget.runtimes.hf.whisper",
    "microbudget.runtimes.onnx.session",
)
_CONTEXT.set_forkserver_preload(list(MODULES))


def fork_server() -> None:
    """Start the server now, as a fork of this process, where that has the slow modules; else with the first worker."""
    if MODULES[1] not in sys.modules or not hasattr(util, "spawnv_passfds"):
        return
    resource_tracker.ensure_running()  # is started in the same way, and before the server
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = spawn


def _fork(path: str, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """As `util.spawnv_passfds(path, ["python", ..., "-c", code], kept)`, without a new program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the threads of pytest-xdist and of libraries: none holds what we need
        pid = os.fork()
    if pid:
        return pid
    warnings.resetwarnings()  # in the tests all are errors; here it is as where Python begins
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        if number > 2 and number not in (*kept, nothing):  # such as the pipes of pytest-xdist
            with contextlib.suppress(OSError):
                os.dup2(nothing, number)
    try:
        exec(arguments[-1], {"__name__": "__main__"})
    finally:
        os._exit(1)


def start(code: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    """Start a process that runs `code`, as `python -c` does. `exitcode` is negative for a signal."""
    variables = {**os.environ, **(environment or {})}
    process = _CONTEXT.Process(target=_run, args=(code, [str(argument) for argument in arguments], variables))
    process.start()
    return process


def status(process: ForkServerProcess) -> int | None:
    """Wait for the process; its exit status, negative for a signal."""
    process.join()
    return process.exitcode


class Worker:
    """In place of the `subprocess.Popen` that `machine.child_process.start` returns: a fork that serves `handler`."""

    def __init__(self, handler: str, stderr: IO[bytes]) -> None:
        theirs, requests = os.pipe()
        replies, ours = os.pipe()
        ends = [
            Connection(theirs, writable=False),
            Connection(ours, readable=False),
            Connection(os.dup(stderr.fileno())),
        ]
        self._process = _CONTEXT.Process(target=_serve, args=(handler, ends, dict(os.environ)), daemon=True)
        self._process.start()
        for end in ends:
            end.close()
        self.stdin, self.stdout = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _serve(handler: str, ends: Sequence[Connection], environment: Mapping[str, str]) -> None:
    from microbudget.machine.request_loop import serve

    with contextlib.suppress(OSError, AttributeError):  # what the imports have freed would be a model's for nothing
        ctypes.CDLL(None).malloc_trim(0)
    for number, end in enumerate(ends):
        os.dup2(end.fileno(), number)
        end.close()
    os.environ.clear()
    os.environ.update(environment)
    serve(handler)


def _run(code: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
