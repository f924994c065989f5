"""Frozen: a network without its last layer, as the `choosing.py` of its kind opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model import Model
from ..progress import SILENT, Progress
from ..task import Example, Task
from ..training.features import FeatureStore
from ..training.head import Head
from ..training.head_data import Features


@dataclass(frozen=True)
class Frozen:
    """Features of examples, and what writes the network with a head.

    task: whose examples collate to what the network takes. own_logits: of its own head, where it has one, from the
    features (examples, inputs) to (examples, outputs). with_head, as_it_is: write it as `onnx` into a folder, with a
    new head for the task's labels or with its own.
    """

    store: FeatureStore
    task: Task
    own_logits: Callable[[Features], Features]
    with_head: Callable[[Head, Path], Model]
    as_it_is: Callable[[Path], Model]

    def features(self, examples: Sequence[Example], progress: Progress = SILENT) -> Features:
        """(examples, inputs)."""
        return self.store.rows(self.task, examples, 0, progress=progress)
