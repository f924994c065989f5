"""Testing: a candidate reads the test split, next to the reference, to a size that is fixed before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..judge.judging import Judging, Opening, scored
from ..judge.measuring import quality_fields
from ..model import Model
from ..runs.candidates import Candidate
from ..runs.run import Run
from .answers import Answers
from .reading import Reader
from .reference import Reference


@dataclass(frozen=True)
class Testing:
    """What reading the test split takes. Answers that the run has are not computed again."""

    run: Run
    judging: Judging
    reference: Reference
    answers: Answers
    reader: Reader
    threads: int

    def of(self, candidate: Candidate, model: Model, count: int, error: float) -> Candidate:
        """The candidate with its measurement and verdict on the first `count` examples of the test split.

        error: how often the verdict may be wrong. The run keeps that the model has read them.
        """
        verdict = None if self.reference.is_model(model) else self.reader.on_test(model, count, error)
        extra = {**self.answers.divergence(model, "test", count), **self._further(model)}
        assert candidate.measurement is not None
        examples = self.answers.examples("test")[:count]
        quality = scored(self.judging, examples, self.answers.of(model, "test", count))
        fields = quality_fields(quality, {**candidate.measurement.extra, **extra})
        tested = replace(candidate, test=replace(candidate.measurement, **fields), test_verdict=verdict)
        if candidate.test is None or candidate.test_verdict != verdict:
            self.run.add(tested)
        return tested

    def _further(self, model: Model) -> dict[str, Any]:
        """Numbers on the test split that take runs of their own, of kinds that have them."""
        if not self.judging.has_quality_extra:
            return {}
        worker = self.reference.worker() if self.reference.is_model(model) else None
        with self.judging.opened(model, worker, Opening(self.threads)) as opened:
            return self.judging.quality_extra(opened, self.judging.task.examples("test"))
