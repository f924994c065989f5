"""Opened: the models that are being tried, each in a worker process; one that dies is replaced, and that is said."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Self

from ..errors import MicrobudgetError, what_it_said
from ..judge.worker import Worker
from .asking import Answer, Part, warm
from .entrants import Entrant, Entrants

# Above the process with its runtime. Formats differ in what opening takes: up to 48 times the size of a file with
# weights of 4 bits, which is small then; the base is for inputs and activations.
BASE_BYTES, TIMES_SIZE = 3_000_000_000, 8
TIMEOUT_S = 300.0
MOST = 4  # models that are open at once: one more closes the one that was asked longest ago


class Opened:
    """Worker processes by the name of their model. Use it as a context manager.

    One answer is computed at a time, whoever asks, in a thread of its own: two at once would share the cores, and their
    times would say nothing.
    """

    def __init__(self, entrants: Entrants, part: Part, threads: int = 0) -> None:
        self.entrants, self._part, self._threads = entrants, part, threads
        self._workers: dict[str, Worker] = {}
        self._turns = ThreadPoolExecutor(1)

    def open(self, *names: str) -> None:
        """Open these models now, at the same time. Raises what opening the first that fails raises."""
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            opened = [(name, pool.submit(self._start, self.entrants.find(name))) for name in names]
        self._workers |= {name: future.result() for name, future in opened if future.exception() is None}
        for _, future in opened:
            future.result()

    def answers(self, name: str, given: str) -> Iterator[Answer]:
        """What a model answers, in pieces where it writes. A failure is an answer too, and says what was done."""
        pieces = SimpleQueue[Answer | None]()
        self._turns.submit(self._answer, name, given, pieces)
        yield from iter(pieces.get, None)

    def _answer(self, name: str, given: str, pieces: SimpleQueue[Answer | None]) -> None:
        note, worker = "", None
        try:
            entrant = self.entrants.find(name)
            worker, note = self._worker(entrant)
            for answer in self._part.answers(worker, entrant.model, given):
                pieces.put(replace(answer, note=note))
        except MicrobudgetError as error:
            pieces.put(Answer(failure=str(error), note=self._replaced(name, worker) or note))
        except Exception as error:  # of a library, by what somebody put in: it must not end the page
            pieces.put(Answer(failure=what_it_said(error)))
        finally:
            pieces.put(None)

    def pids(self) -> dict[str, int]:
        """The processes, by the names of their models."""
        return {name: worker.pid for name, worker in self._workers.items()}

    def close(self) -> None:
        """End all processes."""
        self._turns.shutdown(cancel_futures=True)
        while self._workers:
            self._workers.popitem()[1].close()

    def _worker(self, entrant: Entrant) -> tuple[Worker, str]:
        """The worker that has the model open, and what happened to an earlier one."""
        worker, note = self._workers.pop(entrant.name, None), ""
        if worker is not None and not worker.alive:
            worker.close()
            worker, note = None, "the process of this model had ended; a new one answered"
        while worker is None and len(self._workers) >= MOST:
            self._workers.pop(next(iter(self._workers))).close()
        worker = worker or self._start(entrant)
        self._workers[entrant.name] = worker  # the last one that was asked stands last
        return worker, note

    def _replaced(self, name: str, worker: Worker | None) -> str:
        """Start a process in place of one that has just ended; what to say of it."""
        if worker is None or worker.alive:
            return ""
        self._workers.pop(name, worker).close()
        with suppress(MicrobudgetError):
            self._workers[name] = self._start(self.entrants.find(name))
            return "its process was replaced: it answers the next one"
        return "its process could not be started again"

    def _start(self, entrant: Entrant) -> Worker:
        limit = BASE_BYTES + TIMES_SIZE * entrant.model.size_bytes
        worker = Worker(timeout_s=TIMEOUT_S, max_memory_bytes=limit)
        try:
            worker.open(entrant.model, threads=self._threads)
            warm(self._part, worker, entrant.model)
        except BaseException:
            worker.close()
            raise
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
