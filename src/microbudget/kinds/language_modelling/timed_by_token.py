"""How language models are timed, whatever they are judged by: one token after others, reading and writing apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ...judge import judging
from ...judge.timing import Timing
from ...judge.worker import Worker
from ...model import Model
from ...task import Example, Inputs
from .speeds import speeds
from .task import Sampled

TIMEOUT_S = 1800.0  # reading a passage takes a large model minutes


class TimedByToken(judging.Judging):
    """A task of language models: what is timed is a token, and not an example."""

    @property
    def timeout_s(self) -> float:
        """Enough for a passage in the largest models."""
        return TIMEOUT_S

    def timing_input(self, model: Model, examples: Sequence[Example], batch: int = 1) -> Inputs:
        """The inputs for writing one token."""
        return cast(Sampled, self.task).sample(examples)

    def cost_extra(self, worker: Worker, inputs: Inputs, timing: Timing, seconds: float) -> dict[str, Any]:
        """Tokens per second of writing and of reading."""
        return speeds(worker, inputs, timing, seconds)
