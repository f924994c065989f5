"""Progress: a line per step on stderr, with the time left where it is known. Nothing when quiet."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO, TypeVar

from .units import format_seconds

T = TypeVar("T")
REDRAWN_S = 0.1  # a line that changes faster cannot be read
SILENCE_S = 8.0  # the longest without a line while `alive`, on a terminal and in a log; a busy machine adds to it


class Progress:
    """Where long work reports. On a terminal the running line is rewritten; in a log only whole lines appear.

    verbose: what each step of a recipe found is reported too, in about ten lines for a candidate.
    """

    def __init__(
        self, stream: TextIO | None = None, quiet: bool = False, silence_s: float = SILENCE_S, verbose: bool = False
    ) -> None:
        self._stream, self._verbose = stream or sys.stderr, verbose
        self._quiet = quiet
        self._live = not quiet and self._stream.isatty()
        self._drawn_at, self._silence_s = 0.0, silence_s
        self._redrawn_s = REDRAWN_S
        self._said: set[str] = set()
        self._lock = threading.RLock()
        self._doing, self._since = "", time.monotonic()
        self._shown_at = time.monotonic()  # any line

    def say(self, text: str) -> None:
        """One whole line."""
        if self._quiet:
            return
        with self._lock:
            self.clear()
            print(text, file=self._stream, flush=True)
            self._shown_at = time.monotonic()

    def say_once(self, text: str, about: str | None = None) -> None:
        """One whole line, the first time: levels and candidates have the same to say. about: what makes it the same."""
        about = text if about is None else about
        if about not in self._said:
            self._said.add(about)
            self.say(text)

    def detail(self, text: str) -> None:
        """One whole line of what a step found and took, where the user asked for details."""
        if self._verbose:
            self.say(text)

    def detail_once(self, text: str) -> None:
        """As `detail`, the first time."""
        if self._verbose:
            self.say_once(text)

    def warn(self, text: str, about: str | None = None) -> None:
        """One whole line that begins with "warning:", once; see `say_once`."""
        self.say_once(f"warning: {text}", about)

    def doing(self, what: str) -> None:
        """What begins now; it is shown as soon as nothing else has been for a while."""
        self._doing, self._since = what, time.monotonic()

    @contextmanager
    def alive(self, left_s: Callable[[], float | None]) -> Iterator[None]:
        """During the block a line appears at least every ten seconds: what is being done, and how long it may take.

        left_s: seconds until the work ends at the latest; None: it has no limit.
        """
        if self._quiet:
            yield
            return
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over, left_s), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()

    def _watch(self, over: threading.Event, left_s: Callable[[], float | None]) -> None:
        while not over.wait(min(1.0, self._silence_s / 2)):
            now, left = time.monotonic(), left_s()
            if now - self._shown_at < self._silence_s or not self._doing:
                continue
            text = f"{self._doing}, {format_seconds(now - self._since)} so far"
            if left is not None:
                text += f"; {format_seconds(left)} left of all" if left > 0 else "; the time is up"
            if self._live:
                self._write(text)
            else:
                self.say(text)

    def track(self, items: Sequence[T] | Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items; show how many are done and the time left, in a log now and then."""
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
        """How many seconds of a recording are done and the time left."""
        if done_s >= total_s:
            self.clear()
        else:
            self._draw(what, int(done_s), max(1, int(total_s)), elapsed_s)

    def _draw(self, what: str, done: int, total: int | None, elapsed_s: float) -> None:
        now = time.monotonic()
        since, pause_s = (self._drawn_at, self._redrawn_s) if self._live else (self._shown_at, self._silence_s)
        if self._quiet or now - since < pause_s:
            return
        text = f"{what} {done}" + (f"/{total}" if total else "")
        if total and done:
            text += f", {format_seconds(elapsed_s / done * (total - done))} left"
        if self._live:
            self._drawn_at = now
            self._write(text)
        else:
            self.say(text)

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()
            self._shown_at = time.monotonic()

    def clear(self) -> None:
        """Take the line that is rewritten off the terminal, before something else is written to it."""
        if self._live:
            with self._lock:
                self._stream.write("\r\x1b[2K")
                self._stream.flush()


class _RunningLine(Progress):
    def say(self, text: str) -> None:
        """Whole lines are left out."""


class NotebookProgress(Progress):
    """In a notebook: whole lines are the cell's output, and the running line is one output that changes."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self._live, self._shown = True, False
        self._redrawn_s = 1.0  # every change is a message to the browser

    def _write(self, text: str) -> None:
        from IPython.display import display, update_display

        with self._lock:
            put: Callable[..., object] = update_display if self._shown else display
            put({"text/plain": text}, raw=True, display_id=f"progress-{id(self)}")
            self._shown, self._shown_at = True, time.monotonic()

    def clear(self) -> None:
        """Leave the running line empty."""
        if self._shown:
            self._write("")


def shown() -> Progress:
    """What Python calls report to where the caller says nothing: a terminal, a notebook, or nobody."""
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        # tqdm, which other libraries bring, asks for widgets that nothing here needs.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return NotebookProgress()
    return Progress() if sys.stderr is not None and sys.stderr.isatty() else SILENT


SILENT = Progress(quiet=True)
