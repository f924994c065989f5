"""How speech models are judged: their outputs are texts, and a recording takes as long as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...audio.sound import RATE_HZ
from ...judge import judging
from ...judge.answering import Logits
from ...judge.timing import Timing
from ...judge.worker import Worker
from ...model import Model
from ...task import SPLITS, Example, Inputs
from .long_form import long_form
from .task import LONG_S, SpokenTask
from .transcripts import count, normalizer

WITH_LATENCY = {"rtf": 1}  # see `judge.latency`
TIMEOUT_S = 1800.0


class Judging(judging.Judging):
    """Recordings with what is said in them."""

    has_quality_extra = True
    look_every = 12  # recordings: each takes a model a good part of a second

    @property
    def _recordings(self) -> SpokenTask:
        return cast(SpokenTask, self.task)

    @property
    def timeout_s(self) -> float:
        """At least twice the longest recording: a model that takes longer hangs."""
        every = (example for split in SPLITS for example in self.task.examples(split))
        return max(TIMEOUT_S, 2 * max((self._recordings.seconds(example) for example in every), default=0.0))

    def lengths(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Their words."""
        said = np.array([self._recordings.text(example) or "" for example in examples])
        return self.task.score(said, examples).denominator

    def chunks(self, models: Iterable[Model], examples: Sequence[Example]) -> list[Sequence[Example]]:
        """Rows are as long as the longest; a long recording, which takes as long as many, is alone."""
        seconds = self._recordings.seconds
        longest = max((seconds(each) for each in examples if seconds(each) <= LONG_S), default=0.0)
        size = int(judging.CHUNK_BYTES / (4 * RATE_HZ * max(longest, 0.1)))
        size = min(judging.LARGEST_CHUNK, max(1, size))
        chunks: list[Sequence[Example]] = []
        start = 0
        for place, example in enumerate(examples):
            alone = seconds(example) > LONG_S
            if place > start and (alone or place - start == size):
                chunks.append(examples[start:place])
                start = place
            if alone:
                chunks.append(examples[place : place + 1])
                start = place + 1
        return [*chunks, examples[start:]] if start < len(examples) else chunks

    def timing_input(self, model: Model, examples: Sequence[Example], batch: int = 1) -> Inputs:
        """The recording of median length."""
        return self._recordings.sample(examples)

    def cost_extra(self, worker: Worker, inputs: Inputs, timing: Timing, seconds: float) -> dict[str, Any]:
        """The real-time factor: seconds of computing for a second of audio."""
        audio_s = float(inputs["length"].sum()) / RATE_HZ
        return {"rtf": timing.median_s / audio_s, "sample_s": audio_s}

    def quality_extra(self, worker: Worker, examples: Sequence[Example]) -> dict[str, Any]:
        """The word error rate on long audio."""
        return long_form(worker, self._recordings, examples)

    def summary(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """The texts."""
        return np.asarray(outputs)

    def extra(self, summary: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """Character errors, and what kinds of errors there are."""
        return self._recordings.extra(summary, examples)


def difference(task: SpokenTask, reference: Logits, outputs: Logits) -> dict[str, float]:
    """The word error rate of texts against the reference's, both (examples,)."""
    clean = normalizer(task.normalizer)
    found = [count(clean(str(a)), clean(str(b))) for a, b in zip(reference, outputs, strict=True)]
    words = sum(one.words for one in found)
    return {"word_difference": sum(one.word_errors for one in found) / words} if words else {}
