"""What a smaller vocabulary costs, before it is built: recordings are transcribed with the other tokens suppressed.

Greedy decoding with suppressed tokens writes what the trimmed model will write, for the logits of the tokens that stay
are the same. A transcript without a suppressed token cannot change, so only the others are decoded again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...audio.pieces import is_silent
from ...errors import BadData
from ...methods import Context
from ...methods.trim.curve import Loss
from ...model import Model
from ...runtimes.hf.whisper import TorchWhisper
from ...runtimes.speech.whisper import Prompt, Vocabulary, front_end, is_repetitive, without_loop
from ...task import Example
from ...training.deadline import Clock
from .decoding import Rules, decode
from .transcripts import count

MOST = 96  # recordings
ENOUGH_WORDS = 200  # one word is half a point, the loss that is allowed
SPLITS = ("validation", "train", "unlabelled")


@dataclass
class _Recording:
    """An encoded recording with its transcript so far."""

    states: torch.Tensor  # (1, positions, width)
    tokens: list[int]
    text: str
    reference: str  # normalized, or the text of the whole vocabulary where nobody has transcribed the recording
    words: int
    errors: int  # of the text with the whole vocabulary
    changed: bool = False  # whether a suppressed token was in it


class Suppression:
    """The losses of vocabularies, which must become smaller from call to call."""

    def __init__(self, model: Model, context: Context) -> None:
        """Transcribe recordings with the whole vocabulary. Raises BadData without any that has words, OutOfTime."""
        task: Any = context.task
        self._normalize = task.normalize
        self._whisper = TorchWhisper(model.path, context.threads)
        self._vocabulary = Vocabulary(model.path)
        self._prompt = Prompt.of(model.path, self._vocabulary, self._whisper.multilingual)
        self._rules = Rules.of(self._whisper.network, self._prompt)
        self._front = front_end(model.path)
        chosen = self._chosen(task)
        clock = Clock(context.deadline, "trim's transcription")
        found: list[_Recording | None] = []
        for number, example in enumerate(context.progress.track(chosen, "trim transcribes, recording"), start=1):
            found.append(self._whole(task, example))
            clock.tick(len(chosen) - number)
        self._recordings = [one for one in found if one is not None and one.words]
        self.words = sum(one.words for one in self._recordings)
        self._runaways = self._count_runaways()
        if not self._recordings:
            raise BadData("trim(keep='auto') needs recordings with words, of at most the model's window")

    @property
    def recordings(self) -> int:
        """How many recordings the losses are of."""
        return len(self._recordings)

    def __call__(self, kept: NDArray[np.int64]) -> Loss:
        """What is lost with these ids alone. kept: a part of what was kept in the call before.

        Where a transcript changed, one word error more than was seen is counted: a few hundred words miss rare losses.
        36 utterances that showed 0.3 points had 1.6 more on 36 others.
        """
        stays = frozenset(kept.tolist())
        dropped = torch.tensor(sorted(set(range(self._rows)) - stays), dtype=torch.long)
        rules = replace(self._rules, always=torch.cat([self._rules.always, dropped]))
        for one in self._recordings:
            if not stays.issuperset(one.tokens):
                one.tokens, one.text = self._decode(one.states, rules)
                one.changed = True
        errors = sum(self._errors(one.reference, one.text) - one.errors for one in self._recordings)
        unseen = int(any(one.changed for one in self._recordings))
        return Loss((errors + unseen) / self.words, max(0, self._count_runaways() - self._runaways))

    def close(self) -> None:
        """Release the network."""
        self._whisper.close()

    @property
    def _rows(self) -> int:
        return int(self._whisper.network.config.vocab_size)

    def _chosen(self, task: Any) -> list[Example]:
        """Recordings that fit into the window: those with transcripts, which are what the model is judged by.

        The others may be of another kind; they are taken too where the transcripts have few words.
        """
        every = [example for split in SPLITS for example in task.examples(split)]
        short = [example for example in every if task.seconds(example) <= self._front.seconds]
        known = [example for example in short if task.text(example) is not None]
        enough = sum(len(self._normalize(task.text(example)).split()) for example in known) >= ENOUGH_WORDS
        return (known if enough else [*known, *(example for example in short if task.text(example) is None)])[:MOST]

    def _whole(self, task: Any, example: Example) -> _Recording | None:
        """A recording with its transcript by the whole vocabulary; None for silence."""
        waveform = task.waveform(example)
        if is_silent(waveform):
            return None
        with torch.inference_mode():
            states = self._whisper.encode(self._front.for_recording(len(waveform))(waveform)).last_hidden_state
        tokens, text = self._decode(states, self._rules)
        said = task.text(example)
        reference = self._normalize(text if said is None else said)
        return _Recording(states, tokens, text, reference, len(reference.split()), self._errors(reference, text))

    def _decode(self, states: torch.Tensor, rules: Rules) -> tuple[list[int], str]:
        (label,) = decode(self._whisper.network, states, self._prompt, rules, top=1)
        tokens = [int(token) for token in label.tokens]
        return tokens, self._vocabulary.text(without_loop(tokens, self._prompt.longest, self._vocabulary.text))

    def _errors(self, reference: str, text: str) -> int:
        """Word errors, at most the words of the reference: one runaway must not decide the curve."""
        found = count(reference, self._normalize(text))
        return min(found.word_errors, found.words)

    def _count_runaways(self) -> int:
        return sum(map(is_repetitive, self._texts()))

    def _texts(self) -> Iterable[str]:
        return (self._vocabulary.text(one.tokens) for one in self._recordings)
