"""The reference: the model that losses are measured against. It stays open in a worker for the whole run."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from ..errors import WorkerFailed
from ..judge.judging import Judging
from ..judge.worker import Worker
from ..model import Model
from ..progress import Progress

T = TypeVar("T")


class Reference:
    """A Model whose worker process is opened when it is first needed, and again where a candidate took it down."""

    def __init__(self, model: Model, judging: Judging, threads: int) -> None:
        self.model, self._judging, self._threads = model, judging, threads
        self._worker: Worker | None = None

    @property
    def died(self) -> bool:
        """Whether its process ended since it was last used."""
        return self._worker is None or not self._worker.alive

    @property
    def open_s(self) -> float:
        """Seconds that it took to start its process and to open the model; 0 before."""
        return 0.0 if self._worker is None else self._worker.open_s

    def is_model(self, model: Model) -> bool:
        """Whether a model is the reference itself."""
        return model.fingerprint == self.model.fingerprint

    def worker(self) -> Worker:
        """The worker that has it open."""
        if self._worker is not None and not self._worker.alive:
            self.close()
        if self._worker is None:
            self._worker = self._judging.start_worker()
            self._worker.open(self.model, threads=self._threads)
        return self._worker

    def retry(self, measure: Callable[[], T], progress: Progress) -> T:
        """What `measure` returns; it is called once more where not the candidate failed but the reference's process."""
        self.worker()
        try:
            return measure()
        except WorkerFailed:
            if not self.died:
                raise
            progress.say("the reference's process ended: it is opened again")
            return measure()

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
