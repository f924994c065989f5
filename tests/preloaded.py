"""Python processes that begin with torch and transformers imported: from scratch each needs five seconds for them.

They are forks of a server that has imported and done nothing else; what they compute is what a fresh process computes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "transformers.modeling_utils", "accelerate", "onnx", "onnxruntime"])


def start(code: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    """Start a process that runs `code`, as `python -c` does. `exitcode` is negative for a signal."""
    process = _CONTEXT.Process(target=_run, args=(code, [str(argument) for argument in arguments], environment or {}))
    process.start()
    return process


def status(process: ForkServerProcess) -> int | None:
    """Wait for the process; its exit status, negative for a signal."""
    process.join()
    return process.exitcode


def _run(code: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
