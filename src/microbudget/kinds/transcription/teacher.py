"""A teacher hears each recording once; what its encoder heard and what it wrote is read from the disk from then on."""

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
from ...model import Model
from ...progress import SILENT, Progress
from ...runtimes.hf.whisper import TorchWhisper
from ...runtimes.speech.whisper import Prompt, Vocabulary, front_end
from ...task import Example
from ...training.deadline import Clock
from .decoding import Rules, Written, write

TOP = 32  # tokens of each step that are kept; of a trained model they hold nearly all of the probability
BATCH = 8
REVISION = 2  # of what is kept


@dataclass
class Dictation:
    """What a teacher wrote for some recordings. `passes`: how many of them it heard now; the others were known."""

    folder: Path
    front: LogMel
    vocabulary: Vocabulary
    written: dict[str, Written] = field(default_factory=dict)  # by the example's key
    passes: int = 0

    def text(self, example: Example) -> str:
        """What the teacher wrote."""
        return self.vocabulary.text([int(token) for token in self.written[example.key].tokens])

    def states(self, example: Example) -> NDArray[np.float16]:
        """What its encoder heard, (positions, width)."""
        states: NDArray[np.float16] = np.load(self.folder / f"{example.key}.npy")
        return states


def dictate(
    model: Model,
    task: Any,
    examples: Sequence[Example],
    cache: Path,
    *,
    top: int = TOP,
    threads: int = 0,
    language: str | None = None,
    deadline: float | None = None,
    progress: Progress = SILENT,
) -> Dictation:
    """Let a model of format `hf` write what is said in the examples; only the unknown ones are heard.

    A recording longer than the model's window is heard as far as the window goes. It runs on a GPU where there is one.
    Raises OutOfTime when the deadline is too near; what was heard is kept.
    """
    front, vocabulary = front_end(model.path), Vocabulary(model.path)
    told = f"{REVISION} {model.fingerprint} {front} {top} {language}"
    folder = cache / "dictation" / hashlib.sha256(told.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    found = Dictation(folder, front, vocabulary)
    known = {example.key: _read(folder, example.key) for example in examples}
    missing = [example for example in examples if known[example.key] is None]
    missing = list({example.key: example for example in missing}.values())
    if missing:
        _listen(model, task, missing, found, top, threads, language, deadline, progress)
        known |= {example.key: _read(folder, example.key) for example in missing}
    found.written = {key: row for key, row in known.items() if row is not None}
    return found


def _listen(
    model: Model,
    task: Any,
    examples: Sequence[Example],
    found: Dictation,
    top: int,
    threads: int,
    language: str | None,
    deadline: float | None,
    progress: Progress,
) -> None:
    """One pass over the examples, in batches; every batch is on the disk before the next begins."""
    ear = TorchWhisper(model.path, threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = ear.network.to(device)
    prompt = Prompt.of(model.path, found.vocabulary, ear.multilingual, language)
    rules = Rules.of(network, prompt)
    batches = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    clock = Clock(deadline, "the teacher's listening")
    for number, batch in enumerate(progress.track(batches, "the teacher listens, batch"), start=1):
        sounds = {example.key: task.waveform(example, found.front.seconds) for example in batch}
        for example in (each for each in batch if is_silent(sounds[each.key])):  # of silence Whisper makes up a text
            _keep(found.folder, example.key, Written.nothing(prompt), np.zeros((0, 0), np.float16))
        batch = [example for example in batch if not is_silent(sounds[example.key])]
        if batch:
            heard = np.stack([found.front(sounds[example.key]) for example in batch])
            with torch.inference_mode():
                states = network.model.encoder(torch.from_numpy(heard).to(device)).last_hidden_state
            for example, row, state in zip(batch, write(network, states, prompt, rules, top), states, strict=True):
                _keep(found.folder, example.key, row, state.half().cpu().numpy())
        found.passes += len(batch)
        clock.tick(len(batches) - number)
    ear.close()


def _keep(folder: Path, key: str, row: Written, states: NDArray[np.float16]) -> None:
    """States first: where the text is there, all is there."""
    writers: dict[str, Callable[[Any], None]] = {
        "npy": lambda stream: np.save(stream, states),
        "npz": lambda stream: np.savez(stream, **vars(row)),
    }
    for ending, save in writers.items():
        with open_whole(folder / f"{key}.{ending}") as stream:
            save(stream)


def _read(folder: Path, key: str) -> Written | None:
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return Written(**{name: arrays[name] for name in arrays.files})
