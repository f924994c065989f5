"""Pseudo-labels: a teacher transcribes each recording once; its transcript, its top-k log-probabilities and its encoder
states are read from the disk from then on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...audio.log_mel import LogMel
from ...audio.pieces import is_silent
from ...machine.files import open_whole
from ...methods import Context
from ...model import Model
from ...runtimes.hf.whisper import TorchWhisper
from ...runtimes.speech.whisper import Prompt, Vocabulary, front_end
from ...task import Example
from ...training.deadline import Clock
from .decoding import PseudoLabel, Rules, decode

TOP = 32  # tokens of each step that are kept; of a trained model they hold nearly all of the probability
BATCH = 8
REVISION = 2  # of the files


@dataclass
class PseudoLabels:
    """A teacher's transcripts of some recordings. `passes`: how many went through it now; the others were known."""

    folder: Path
    front: LogMel
    vocabulary: Vocabulary
    labels: dict[str, PseudoLabel] = field(default_factory=dict)  # by the example's key
    passes: int = 0

    def text(self, example: Example) -> str:
        """The teacher's transcript."""
        return self.vocabulary.text([int(token) for token in self.labels[example.key].tokens])

    def states(self, example: Example) -> NDArray[np.float16]:
        """The output of the teacher's encoder, (positions, width)."""
        states: NDArray[np.float16] = np.load(self.folder / f"{example.key}.npy")
        return states


def pseudo_labels(
    teacher: Model, examples: Sequence[Example], context: Context, *, top: int = TOP, language: str | None = None
) -> PseudoLabels:
    """The transcripts that a model of format `hf` gives to recordings of the context's task; only new ones take time.

    Of a recording longer than the model's window only the first window is transcribed. It runs on a GPU where there is
    one. top: how many of the most likely tokens are kept at each step. language: its code, else detected.
    Raises OutOfTime when the deadline is too near; what was transcribed is kept.
    """
    front, vocabulary = front_end(teacher.path), Vocabulary(teacher.path)
    made_of = f"{REVISION} {teacher.fingerprint} {front} {top} {language}"
    folder = context.cache / "pseudo_labels" / hashlib.sha256(made_of.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    found = PseudoLabels(folder, front, vocabulary)
    known = {example.key: _read(folder, example.key) for example in examples}
    missing = [example for example in examples if known[example.key] is None]
    missing = list({example.key: example for example in missing}.values())
    if missing:
        _transcribe(teacher, missing, found, context, top, language)
        known |= {example.key: _read(folder, example.key) for example in missing}
    found.labels = {key: label for key, label in known.items() if label is not None}
    return found


def _transcribe(
    teacher: Model,
    examples: Sequence[Example],
    found: PseudoLabels,
    context: Context,
    top: int,
    language: str | None,
) -> None:
    """One pass over the examples, in batches; every batch is on the disk before the next begins."""
    task: Any = context.task
    whisper = TorchWhisper(teacher.path, context.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = whisper.network.to(device)
    prompt = Prompt.of(teacher.path, found.vocabulary, whisper.multilingual, language)
    rules = Rules.of(network, prompt)
    batches = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    clock = Clock(context.deadline, "the teacher's transcription")
    for number, batch in enumerate(context.progress.track(batches, "the teacher transcribes, batch"), start=1):
        sounds = {example.key: task.waveform(example, found.front.seconds) for example in batch}
        for example in (each for each in batch if is_silent(sounds[each.key])):  # for silence Whisper makes up a text
            _keep(found.folder, example.key, PseudoLabel.empty(prompt), np.zeros((0, 0), np.float16))
        batch = [example for example in batch if not is_silent(sounds[example.key])]
        if batch:
            features = np.stack([found.front(sounds[example.key]) for example in batch])
            with torch.inference_mode():
                states = network.model.encoder(torch.from_numpy(features).to(device)).last_hidden_state
            labels = decode(network, states, prompt, rules, top)
            for example, label, state in zip(batch, labels, states, strict=True):
                _keep(found.folder, example.key, label, state.half().cpu().numpy())
        found.passes += len(batch)
        clock.tick(len(batches) - number)
    whisper.close()


def _keep(folder: Path, key: str, label: PseudoLabel, states: NDArray[np.float16]) -> None:
    """States first: where the transcript is there, all is there."""
    writers: dict[str, Callable[[Any], None]] = {
        "npy": lambda stream: np.save(stream, states),
        "npz": lambda stream: np.savez(stream, **vars(label)),
    }
    for ending, save in writers.items():
        with open_whole(folder / f"{key}.{ending}") as stream:
            save(stream)


def _read(folder: Path, key: str) -> PseudoLabel | None:
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return PseudoLabel(**{name: arrays[name] for name in arrays.files})
