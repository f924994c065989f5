"""Rendering of chat templates in a process of its own, which is stopped when a template takes too long or too much."""

from __future__ import annotations

import contextlib
import itertools
import signal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...errors import UnsupportedModel, WorkerFailed
from ...machine import memory
from ...machine.child_process import ChildProcess
from .chat import PLAIN, ChatTemplate, Message, last_answer, render

TIMEOUT_S = 10.0  # of a request: it renders a conversation of 600 messages within 50 ms
MEMORY_BYTES = 256_000_000  # above those of the process before it renders
START_S = 120.0
AT_ONCE = 64  # conversations of a request


class Renderer:
    """Renders chat templates of others, one process for many conversations. Use it as a context manager.

    timeout_s, max_memory_bytes: what a request may take; a template that takes more fails like one that does not parse.
    The process starts with the first request, and again after a template that had to be stopped.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S, max_memory_bytes: int = MEMORY_BYTES) -> None:
        self._timeout_s, self._max_memory_bytes = timeout_s, max_memory_bytes
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def render(self, template: ChatTemplate, messages: Sequence[Message], *, answer: bool = True) -> str:
        """As `chat.render`. Raises UnsupportedModel also for a template that takes too long or too much memory."""
        if template == PLAIN:
            return render(PLAIN, messages, answer=answer)
        text: str = self._ask("render", template=template, messages=_plain(messages), answer=answer)
        return text

    def last_answers(
        self, template: ChatTemplate, conversations: Iterable[Sequence[Message]]
    ) -> Iterator[tuple[str, str]]:
        """`chat.last_answer` of each conversation. Raises what `render` raises."""
        if template == PLAIN:
            yield from (last_answer(PLAIN, messages) for messages in conversations)
            return
        remaining = iter(conversations)
        while part := [_plain(messages) for messages in itertools.islice(remaining, AT_ONCE)]:
            yield from self._ask("last_answers", template=template, conversations=part)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._end()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: str, **arguments: Any) -> Any:
        process = self._started()
        try:
            return process.ask(request, **arguments)
        except WorkerFailed as error:
            self.close()
            raise UnsupportedModel(f"the model's chat template failed: {error}") from error

    def _started(self) -> ChildProcess:
        if self._process is not None and not self._process.alive:  # interrupted
            self.close()
        if self._process is None:
            handler, limit = f"{__name__}:RequestHandler", self._max_memory_bytes
            self._process = ChildProcess(handler, timeout_s=START_S, max_memory_bytes=limit)
            self._end = weakref.finalize(self, self._process.close)  # also for a session that nobody closes
            self._process.baseline = self._process.ask("limit", max_memory_bytes=limit, timeout_s=2 * self._timeout_s)
            self._process.timeout_s = self._timeout_s
        return self._process


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [dict(message) for message in messages]


class RequestHandler:
    """What the process does on request; each method is one request."""

    def __init__(self) -> None:
        self._timeout_s = 0.0

    def limit(self, max_memory_bytes: int, timeout_s: float) -> memory.Memory:
        """Refuse memory beyond a limit where the system can, and end a request that the parent did not stop in time.

        Returns the memory of the process.
        """
        with contextlib.suppress(ImportError, OSError, ValueError):
            import resource

            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            size = pages * resource.getpagesize() + max_memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        self._timeout_s = timeout_s
        return memory.read()

    def render(self, template: ChatTemplate, messages: Sequence[Message], answer: bool) -> str:
        """As `chat.render`."""
        with _ended_after(self._timeout_s):
            return render(template, messages, answer=answer)

    def last_answers(self, template: ChatTemplate, conversations: Sequence[Sequence[Message]]) -> list[tuple[str, str]]:
        """As `chat.last_answer`, of each."""
        with _ended_after(self._timeout_s):
            return [last_answer(template, messages) for messages in conversations]


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """The system ends this process after so many seconds, where it can, even in the middle of a call into C.

    Python's own handlers wait for such a call, and the parent that would stop it may be gone.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
