"""The views of the photos that a student learns from, with the teacher's answers to each: fixed ones, or always fresh.

Beyer et al. 2022, arXiv:2106.05237 ("A good teacher is patient and consistent"): teacher and student see the same crop
of the same photo, another one in each of many epochs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...data import parallel
from ...methods.distill import FRESH
from ...runtimes.onnx.session import OnnxSession
from ...task import Inputs
from ...training import objectives
from ...training.features import CALL
from ...training.objective import Batch
from ...training.order import Rows
from .teacher import DistillationData, Teacher, TeacherAnswers

TEACHER_LOGITS, TEACHER_FEATURES = "teacher_logits", "teacher_features"  # in a batch, next to inputs and label


class Views(Protocol):
    """Batches of photos with what the teacher says of them."""

    def batch(self, rows: Rows, epoch: int, *, taught: bool) -> Batch:
        """The student's inputs of these examples, and with `taught` the teacher's logits and, on request, features."""
        ...

    @property
    def width(self) -> int:
        """Of the teacher's features; 0: they are not learnt."""
        ...

    def history(self, epochs: int) -> dict[str, Any]:
        """For the record, after so many epochs."""
        ...


class FixedViews:
    """A few views, each answered once and kept on disk: epoch by epoch they come again."""

    def __init__(self, data: DistillationData, answers: TeacherAnswers) -> None:
        self._data, self._answers = data, answers

    @property
    def width(self) -> int:
        """See `Views`."""
        return self._answers.width

    def batch(self, rows: Rows, epoch: int, *, taught: bool) -> Batch:
        """See `Views`."""
        data, answers = self._data, self._answers
        view = epoch % len(answers.logits)
        batch = objectives.inputs(data.task, [data.examples[row] for row in rows], data.preprocessing, view)
        if taught:
            batch[TEACHER_LOGITS] = torch.from_numpy(answers.logits[view][rows])
            if answers.features is not None:
                batch[TEACHER_FEATURES] = torch.from_numpy(answers.features[view][rows])
        return batch

    def history(self, epochs: int) -> dict[str, Any]:
        """See `Views`."""
        views = len(self._answers.logits)
        answers = len(self._data.examples) * views
        return {"views": views, "teacher_answers": answers, "teacher_passes": self._answers.passes}


class FreshViews:
    """A new crop of every photo in every epoch, which the teacher answers then, in ONNX Runtime.

    A view is decided by the data's seed, the photo and the epoch, so that a training that resumes sees the same ones.
    mix: of mixup (Zhang et al. 2018, arXiv:1710.09412), the parameter of the Beta distribution; 0: photos as they are.
    """

    def __init__(self, data: DistillationData, teacher: Teacher, seed: int, threads: int = 0, mix: float = 0.0) -> None:
        self._data, self._teacher, self._seed, self._mix = data, teacher, seed, mix
        self._threads = threads
        self._session = OnnxSession(teacher.graph, threads=1)
        first = self._answer(self._inputs(np.arange(1), 0)[1])
        teacher.logits(first, data.task.labels)  # raises where its outputs are not the labels'
        self.width = first.shape[1] if teacher.features else 0

    def batch(self, rows: Rows, epoch: int, *, taught: bool) -> Batch:
        """See `Views`."""
        ours, theirs = self._inputs(rows, epoch)
        if self._mix:
            ours, theirs = self._mixed(ours, theirs, [self._seed, epoch, int(rows[0])])
        batch = objectives.tensors(ours)
        if taught:
            found = self._answer(theirs)
            batch[TEACHER_LOGITS] = torch.from_numpy(self._teacher.logits(found, self._data.task.labels))
            if self.width:
                batch[TEACHER_FEATURES] = torch.from_numpy(found)
        return batch

    def history(self, epochs: int) -> dict[str, Any]:
        """See `Views`."""
        answers = len(self._data.examples) * epochs
        return {"views": FRESH, "teacher_answers": answers, "teacher_passes": answers}

    def _inputs(self, rows: Rows, epoch: int) -> tuple[Inputs, Inputs]:
        """The student's and the teacher's, of the same crops."""
        task, view = self._data.task, epoch + 1  # view 0 is the plain photo
        examples = [self._data.examples[row] for row in rows]
        both = [self._data.preprocessing, self._teacher.preprocessing]
        fresh = getattr(task, "fresh", None)
        ours, theirs = fresh(examples, both, view) if fresh else [task.collate(examples, each, view) for each in both]
        return ours, theirs

    def _mixed(self, ours: Inputs, theirs: Inputs, seed: list[int]) -> tuple[Inputs, Inputs]:
        """Each photo with another of the batch, in one proportion: both models see the same mixture."""
        coin = np.random.default_rng(seed)
        share = np.float32(coin.beta(self._mix, self._mix))
        order = coin.permutation(len(next(iter(ours.values()))))

        def mix(inputs: Inputs) -> Inputs:
            return {name: share * array + (1 - share) * array[order] for name, array in inputs.items()}

        return mix(ours), mix(theirs)

    def _answer(self, inputs: Inputs) -> NDArray[Any]:
        """What the teacher's graph computes, (photos, width): one call on each core, faster than one call on all."""
        count = len(next(iter(inputs.values())))
        calls = [{name: array[at : at + CALL] for name, array in inputs.items()} for at in range(0, count, CALL)]
        return np.concatenate(list(parallel.each(self._session.answer, calls, self._threads))).reshape(count, -1)
