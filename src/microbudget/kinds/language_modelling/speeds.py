"""How fast a language model reads and writes: the two take different work, so each is timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...judge.timing import Timing, time_one
from ...judge.worker import Worker
from ...task import Inputs

PREFILL_TOKENS = 256  # read at once
PREFILL_S = 2.0  # the most that timing it takes


def speeds(worker: Worker, inputs: Inputs, timing: Timing, seconds: float) -> dict[str, Any]:
    """Tokens per second of writing (timed already, with these inputs) and of reading, and the context.

    seconds: the most that timing the reading takes, below PREFILL_S. Raises WorkerFailed.
    """
    language: dict[str, Any] = worker.ask("call", method="about", arguments={})
    prompt = {"prefill": inputs["decode"], "depth": np.array([PREFILL_TOKENS])}
    ((_, tokens),) = worker.answer(prompt)  # fewer for a model that reads fewer
    reading = time_one(worker, prompt, seconds=min(PREFILL_S, seconds))
    return {
        "decode_tokens_per_s": 1 / timing.median_s,
        "prefill_tokens_per_s": int(tokens) / reading.median_s,
        "language": {**language, "decode_depth": int(inputs["depth"][0]), "prefill_tokens": int(tokens)},
    }
