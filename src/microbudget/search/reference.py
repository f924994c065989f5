"""The reference: the model that losses are measured against. It stays open in a worker for the whole run."""

from __future__ import annotations

from types import TracebackType

from ..judge.judging import Judging
from ..judge.worker import Worker
from ..model import Model


class Reference:
    """A Model whose worker process is opened when it is first needed, and again where a candidate took it down."""

    def __init__(self, model: Model, judging: Judging, threads: int) -> None:
        self.model, self._judging, self._threads = model, judging, threads
        self._worker: Worker | None = None

    @property
    def died(self) -> bool:
        """Whether its process ended since it was last used."""
        return self._worker is None or not self._worker.alive

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

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
