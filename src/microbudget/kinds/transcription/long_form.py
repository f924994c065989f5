"""How well a speech model transcribes what is longer than its window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...audio.sound import RATE_HZ
from ...judge.worker import Worker
from ...task import Example
from .task import SpokenTask

LONG_FORM_S = 30.0  # Whisper's window: a recording beyond it is long
JOINED_S = 120.0  # the length of the joined recording, for data without a long one
PAUSE_S = 1.0  # between the joined utterances


def long_form(worker: Worker, task: SpokenTask, examples: Sequence[Example]) -> dict[str, Any]:
    """The word error rate on long audio: `long_form` with what it was measured on; empty where the data are too short.

    The data's own recordings of more than 30 s; where there is none, utterances joined with pauses of 1 s, up to two
    minutes, against their texts joined. Raises WorkerFailed.
    """
    own = [example for example in examples if task.seconds(example) > LONG_FORM_S]
    if own:
        measured_on = {"recordings": len(own), "joined": 0, "seconds": sum(task.seconds(example) for example in own)}
        texts = [str(text) for example in own for text in worker.answer(task.collate([example], {}))]
        return {"long_form": {**measured_on, **_rates(task, [[example] for example in own], texts)}}
    chosen = _joined(task, examples)
    if len(chosen) < 2:
        return {}
    pause = np.zeros(int(PAUSE_S * RATE_HZ), np.float32)
    sound = np.concatenate([part for example in chosen for part in (task.waveform(example), pause)])
    measured_on = {"recordings": 1, "joined": len(chosen), "seconds": len(sound) / RATE_HZ}
    text = str(worker.ask("call", method="text", arguments={"waveform": sound}))
    return {"long_form": {**measured_on, **_rates(task, [chosen], [text])}}


def _joined(task: SpokenTask, examples: Sequence[Example]) -> list[Example]:
    chosen, total = [], 0.0
    for example in examples:
        if total + task.seconds(example) > JOINED_S:
            break
        chosen.append(example)
        total += task.seconds(example) + PAUSE_S
    return chosen


def _rates(task: SpokenTask, groups: Sequence[Sequence[Example]], texts: Sequence[str]) -> dict[str, Any]:
    from .transcripts import count, normalizer

    clean = normalizer(task.normalizer)
    spoken = [clean(" ".join(task.text(example) or "" for example in group)) for group in groups]
    found = [count(one, clean(text)) for one, text in zip(spoken, texts, strict=True)]
    words = sum(one.words for one in found)
    return {"words": words, "wer": sum(one.word_errors for one in found) / words if words else float("nan")}
