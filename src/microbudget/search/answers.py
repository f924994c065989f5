"""Answers: the outputs of a run's models on each split, in the order of reading, as far as they were needed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.kept_rows import KeptRows
from ..judge.answering import Logits
from ..judge.difference import difference
from ..judge.judging import Block, Judging, Opening
from ..judge.worker import Worker
from ..model import Model
from ..progress import Progress
from ..runs.reading_order import reading_order
from ..runs.run import Run
from ..task import Example, Split
from .reference import Reference


class Answers:
    """Outputs (examples, ...) float32, or (examples,) texts, by model and split; row k is of the k-th that is read.

    Nothing is computed twice: the run keeps what was read, and reading goes on from there.
    """

    def __init__(self, run: Run, judging: Judging, reference: Reference, opening: Opening, progress: Progress) -> None:
        self._run, self._judging, self._reference = run, judging, reference
        self._opening, self._progress = opening, progress
        self._ordered: dict[Split, list[Example]] = {}
        self._spent: dict[str, tuple[float, int]] = {}  # by model: seconds, and examples that were read in them
        # What a comparison needs of the reference, which reads every example once for all candidates.
        independent = getattr(judging.task, "independent_examples", True)  # an answer depends on its example alone
        made_of = reference.model.fingerprint + ("" if independent else f"-{judging.task.fingerprint}")
        self._predictions = run.cache / f"predictions-{made_of}"
        labels = hashlib.sha256(json.dumps(judging.task.labels).encode()).hexdigest()[:16]  # order the outputs
        self._kept = KeptRows(run.cache / f"answers-{made_of}-{labels}")

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split in the order of reading."""
        if split not in self._ordered:
            self._ordered[split] = reading_order(self._judging.task.examples(split), self._run.seed)
        return self._ordered[split]

    def read(self, model: Model, split: Split) -> int:
        """How many examples of a split a model has read so far."""
        kept = self._run.answers(model.fingerprint, split)
        return 0 if kept is None else len(kept)

    def of(self, model: Model, split: Split, count: int | None = None, worker: Worker | None = None) -> Logits:
        """A model's outputs for the first `count` examples, by default all. worker: one in which it is open already."""
        examples = self.examples(split)
        count = len(examples) if count is None else min(count, len(examples))
        kept = self._run.answers(model.fingerprint, split)
        have = 0 if kept is None else len(kept)
        if kept is not None and have >= count:
            return kept[:count]
        began = time.monotonic()
        found = self._more(model, split, Block(examples[have:count], have), worker)
        seconds, read = self._spent.get(model.fingerprint, (0.0, 0))
        self._spent[model.fingerprint] = seconds + time.monotonic() - began, read + count - have
        return self._run.save_answers(model.fingerprint, split, _joined(kept, found))

    def example_s(self, model: Model) -> float | None:
        """Seconds in which the model read one example, in this process; None: it read nothing."""
        seconds, read = self._spent.get(model.fingerprint, (0.0, 0))
        return seconds / read if read else None

    def _more(self, model: Model, split: Split, block: Block, worker: Worker | None) -> Logits:
        judging = self._judging
        if self._reference.is_model(model):
            keys = [example.key for example in block.examples]
            return self._kept.complete(keys, lambda places: self._ask_reference(block, places, worker))
        if not judging.compares_predictions:
            return judging.answers(model, block.examples, worker, self._opening, self._progress)
        self.of(self._reference.model, split, block.end)  # which keeps its predictions
        with judging.opened(model, worker, self._opening) as opened:
            workers = (self._reference.worker, opened)
            outputs, sums = judging.compared_answers(model, block, workers, self._predictions, self._progress)
        kept = self._run.divergence(model.fingerprint, split)
        before = None if kept is None else kept[: block.start]  # a kill may have left it longer than the answers
        self._run.save_divergence(model.fingerprint, split, _joined(before, sums))
        return outputs

    def _ask_reference(self, block: Block, places: list[int], worker: Worker | None) -> Logits:
        """The reference's outputs for those of a block that an earlier form of the data did not have."""
        asked = Block([block.examples[place] for place in places], block.start + places[0])
        worker, model = worker or self._reference.worker(), self._reference.model
        return self._judging.reference_answers(model, asked, worker, self._predictions, self._progress)

    def divergence(self, model: Model, split: Split, count: int | None = None) -> dict[str, Any]:
        """How far a model's answers are from the reference's on what it has read, for `extra`, where its kind can say.

        count: of its first examples only.
        """
        if self._reference.is_model(model):
            return {}
        count = self.read(model, split) if count is None else count
        if not self._judging.compares_predictions:
            both = (self.of(each, split, count) for each in (self._reference.model, model))
            return difference(self._judging.task, *both)
        sums = self._run.divergence(model.fingerprint, split)
        return {} if sums is None else self._judging.divergence_extra(sums[:count])


def _joined(kept: NDArray[Any] | None, found: NDArray[Any]) -> NDArray[Any]:
    return found if kept is None else np.concatenate([kept, found])
