"""The memory that a model adds to the process of its runtime."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..task import Inputs
from .worker import Worker


@dataclass(frozen=True)
class Weight:
    """The bytes that a model adds to the peak of a process, and those of mapped files among them."""

    bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None  # part of `bytes` that the system can take back under pressure
    without_model_bytes: int  # the process with its runtime loaded

    def as_dict(self) -> dict[str, int | None]:
        """JSON-ready values."""
        return asdict(self)


def of_model(worker: Worker, inputs: Inputs) -> Weight:
    """The memory of a freshly opened model that answers one example, above that of its process before."""
    before = worker.baseline
    assert before is not None, "open a model first"
    worker.answer(inputs)
    after = worker.memory()

    def grown(then: int | None, now: int | None) -> int | None:
        return None if then is None or now is None else max(0, now - then)

    return Weight(
        max(0, after.peak_bytes - before.resident_bytes),
        grown(before.anonymous_bytes, after.anonymous_bytes),
        grown(before.file_bytes, after.file_bytes),
        before.resident_bytes,
    )
