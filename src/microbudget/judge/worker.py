"""Worker: a model in a process of its own, which may crash, hang or eat memory without harm to the run."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import NDArray

from ..machine.child_process import ChildProcess
from ..machine.memory import Memory
from ..machine.stopwatch import Block
from ..model import Model
from ..runtimes import default_runtime, module_of

OPENER = "microbudget.runtimes:open_session"


class Worker(ChildProcess):
    """A child process that loads one runtime and one model and nothing else. Use it as a context manager.

    timeout_s, max_memory_bytes: of a request, as of ChildProcess; the memory is counted above that of the process with
    the runtime loaded.
    """

    def __init__(self, *, timeout_s: float = 120.0, max_memory_bytes: int | None = None, opener: str = OPENER) -> None:
        super().__init__(
            "microbudget.judge.child:RequestHandler", timeout_s=timeout_s, max_memory_bytes=max_memory_bytes
        )
        self._opener = opener
        self.runtime = ""
        self.load_s = 0.0
        self.open_s = 0.0

    def open(self, model: Model, *, threads: int = 0, runtime: str | None = None) -> None:
        """Open a model; sets `runtime` (name and version), `load_s`, `open_s` (with the runtime's import), `baseline`.

        threads: 0 means all cores.
        """
        started = time.monotonic()
        module = self._opener.partition(":")[0]
        if self._opener == OPENER:
            module = module_of(runtime or default_runtime(model.format), model.task)
        self.baseline = self.ask("load_runtime", module=module)
        self.runtime, self.load_s = self.ask("open", opener=self._opener, model=model, runtime=runtime, threads=threads)
        self.open_s = time.monotonic() - started

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The model's output for a batch."""
        answered: NDArray[Any] = self.ask("answer", inputs=inputs)
        return answered

    def prepare(self, inputs: dict[str, NDArray[Any]]) -> None:
        """Send the inputs that `time_block` will use."""
        self.ask("prepare", inputs=inputs)

    def time_block(self, calls: int, dropped: int, place: int | None = None) -> Block:
        """Time `calls` calls after `dropped` uncounted ones. place: a seed for where the threads begin."""
        block: Block = self.ask("time_block", calls=calls, dropped=dropped, place=place)
        return block

    def memory(self) -> Memory:
        """The memory of the process; `peak_bytes` is since its start."""
        read: Memory = self.ask("memory")
        return read
