"""What a worker process does on request: it opens one model, and answers, times and weighs it."""

from __future__ import annotations

import importlib
import time
from typing import Any

from ..machine import memory, placement


class RequestHandler:
    """Each method is one request to a worker."""

    def __init__(self) -> None:
        self._session: Any = None
        self._inputs: Any = None

    def load_runtime(self, module: str) -> memory.Memory:
        """Import a runtime and the library that it loads. Returns the memory that they take without a model."""
        importlib.import_module("numpy")
        load = getattr(importlib.import_module(module), "load_library", None)
        if load is not None:
            load()
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
