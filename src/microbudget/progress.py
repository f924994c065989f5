"""Progress: a line per step on stderr, with the time left where it is known. Nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

from .units import format_seconds

T = TypeVar("T")
REDRAWN_S = 0.1  # a line that changes faster cannot be read


class Progress:
    """Where long work reports. On a terminal the running line is rewritten; in a log only whole lines appear."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = not quiet and self._stream.isatty()
        self._drawn_at = 0.0
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """One whole line."""
        if not self._quiet:
            self.clear()
            print(text, file=self._stream, flush=True)

    def say_once(self, text: str, about: str | None = None) -> None:
        """One whole line, the first time: levels and candidates have the same to say. about: what makes it the same."""
        about = text if about is None else about
        if about not in self._said:
            self._said.add(about)
            self.say(text)

    def warn(self, text: str, about: str | None = None) -> None:
        """One whole line that begins with "warning:", once; see `say_once`."""
        self.say_once(f"warning: {text}", about)

    def track(self, items: Sequence[T] | Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items; on a terminal show how many are done and the time left."""
        count = total if total is not None else len(items) if isinstance(items, Sequence) else None
        started = time.monotonic()
        for done, item in enumerate(items):
            self._draw(what, done, count, time.monotonic() - started)
            yield item
        self.clear()

    def without_lines(self) -> Progress:
        """A Progress that shows the running line alone, for work that is done again."""
        return _RunningLine(self._stream, self._quiet)

    @property
    def live(self) -> bool:
        """Whether there is a line that is rewritten."""
        return self._live

    def advance(self, what: str, done_s: float, total_s: float, elapsed_s: float) -> None:
        """On a terminal, how many seconds of a recording are done and the time left."""
        if done_s >= total_s:
            self.clear()
        else:
            self._draw(what, int(done_s), max(1, int(total_s)), elapsed_s)

    def _draw(self, what: str, done: int, total: int | None, elapsed_s: float) -> None:
        now = time.monotonic()
        if not self._live or now - self._drawn_at < REDRAWN_S:
            return
        self._drawn_at = now
        text = f"{what} {done}" + (f"/{total}" if total else "")
        if total and done:
            text += f", {format_seconds(elapsed_s / done * (total - done))} left"
        self._stream.write(f"\r\x1b[2K{text}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line that is rewritten off the terminal, before something else is written to it."""
        if self._live:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()


class _RunningLine(Progress):
    def say(self, text: str) -> None:
        """Whole lines are left out."""


SILENT = Progress(quiet=True)
