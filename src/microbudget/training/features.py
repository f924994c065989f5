"""Features: a frozen backbone's output for every example, computed once per view and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.kept_rows import KeptRows
from ..machine.processor import thread_count
from ..progress import SILENT, Progress
from ..runtimes.onnx.session import OnnxSession
from ..task import Example, Task

CHUNK = 32  # examples that are prepared at once
CALL = 8  # examples in one call of the runtime


class FeatureStore:
    """Features of one backbone under one preprocessing; rows are kept in `folder` by view and example."""

    def __init__(self, backbone: bytes, preprocessing: dict[str, Any], folder: Path, threads: int = 0) -> None:
        self._backbone = backbone
        self._preprocessing = preprocessing
        self._folder = folder
        self._threads = thread_count(threads)
        self._name = hashlib.sha256(backbone + json.dumps(preprocessing, sort_keys=True).encode()).hexdigest()
        self._session: OnnxSession | None = None
        self.answered = 0  # examples that went through the backbone, in this process

    def known(self, examples: Sequence[Example], view: int, seed: int = 0) -> bool:
        """Whether the rows of a view are in the folder."""
        return self._kept(view, seed).known([example.key for example in examples])

    def rows(
        self, task: Task, examples: Sequence[Example], view: int, seed: int = 0, progress: Progress = SILENT
    ) -> NDArray[np.float32]:
        """Features (examples, width) of one view, from the folder where they are known."""

        def compute(places: list[int]) -> NDArray[np.float32]:
            return np.concatenate(list(self._compute(task, [examples[place] for place in places], view, progress)))

        return self._kept(view, seed).complete([example.key for example in examples], compute)

    def _kept(self, view: int, seed: int) -> KeptRows:
        made_of = json.dumps([self._name, view, seed if view else 0])
        return KeptRows(self._folder / hashlib.sha256(made_of.encode()).hexdigest()[:24])

    def _compute(
        self, task: Task, examples: Sequence[Example], view: int, progress: Progress
    ) -> Iterator[NDArray[np.float32]]:
        """One call per core at the same time, which is faster than one call on all cores.

        Not in OpenVINO: its bfloat16 is 1.7 times as fast, but MobileNetV2's features then differ by 8 % of their
        spread, and in float32 it is slower.
        """
        if self._session is None:
            self._session = OnnxSession(self._backbone, threads=1)
        session = self._session
        starts = range(0, len(examples), CHUNK)
        with ThreadPoolExecutor(self._threads) as pool:
            for start in progress.track(starts, f"features of view {view}, batch"):
                inputs = task.collate(examples[start : start + CHUNK], self._preprocessing, view)
                count = len(next(iter(inputs.values())))
                calls = [{name: array[i : i + CALL] for name, array in inputs.items()} for i in range(0, count, CALL)]
                answers = np.concatenate(list(pool.map(session.answer, calls))).reshape(count, -1)
                self.answered += count
                yield answers
