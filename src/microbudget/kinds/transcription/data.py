"""Transcription: a folder of recordings as a Task; the metric is the word error rate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...audio import sound
from ...audio.sound import Samples
from ...data import contents, saved
from ...data import splits as cutting
from ...data.cache import default_folder
from ...data.contents import Content
from ...data.folders import some
from ...data.splits import Splits
from ...errors import BadData
from ...progress import Progress
from ...runtimes.speech.whisper import is_repetitive
from ...task import SPLITS, TO_TRAIN, DataOptions, Example, Inputs, Scores, Split, Use
from . import utterances
from .network import KIND
from .task import LONG_S
from .transcripts import Errors, Normalizer, count, normalizer

METRIC = "wer"
ENOUGH = 400  # recordings of a split: a reference takes half a second for each
COLUMNS = saved.Columns("Audio", sound.FORMATS.extensions, ".wav", utterances.TEXT_COLUMNS)


def open_task(path: str | Path, options: DataOptions) -> TranscriptionTask:
    """The task of a folder of recordings, or of a saved data set. Raises BadData, InvalidOption."""
    return TranscriptionTask.open(saved.folder_of(path, COLUMNS, options.progress), options)


@dataclass(eq=False)
class TranscriptionTask:
    """Recordings with what is said in them. Made by `TranscriptionTask.open`."""

    root: Path
    fingerprint: str
    normalizer: str
    warnings: list[str]
    left_out: int = 0  # examples that the model has seen and that are therefore not judged
    use: Use = "training"  # what is learnt from it, which decided the cut
    _splits: dict[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)
    _texts: dict[str, str] = field(default_factory=dict, repr=False)  # by the example's name
    _seconds: dict[str, float] = field(default_factory=dict, repr=False)
    _normalize: Normalizer = field(default=str, repr=False)

    kind = KIND
    labels: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path | str, options: DataOptions = TO_TRAIN) -> TranscriptionTask:
        """Find the recordings of a folder, check that they can be decoded, and split them.

        Raises BadData when the folder cannot serve, InvalidOption for an unknown normalizer.
        """
        clean, root = normalizer(options.normalizer), Path(path)
        listing = utterances.find(root)
        known = _scan(root, listing, options.cache or default_folder(), options.threads, options.progress)
        distinct, duplicates = cutting.keep_apart(_examples(listing, known))
        texts = {file.name: file.text for file in listing.files if file.text is not None}
        warnings = [
            *listing.warnings,
            *contents.about_unreadable(known, f"recordings in {root}"),
            *_about_texts(distinct, texts, clean),
        ]
        if duplicates:
            warnings.append(f"{len(duplicates)} copies: {some(map(str, duplicates))}")
        if options.splits:
            done, left_out = _complete(distinct, options, root), 0
            warnings += cutting.about_cut(distinct, options.use, options.leave_out, "recordings")
        else:
            done, left_out = _to_judge(root, distinct, options.leave_out)
        ordered = {name: tuple(sorted(examples, key=_order)) for name, examples in done.items()}
        for warning in warnings:
            options.progress.warn(warning)
        return cls(
            root=root,
            fingerprint=_fingerprint(options.normalizer, ordered, texts),
            normalizer=options.normalizer,
            use=options.use,
            warnings=warnings,
            left_out=left_out,
            _splits=ordered,
            _texts=texts,
            _seconds={name: content.seconds for name, content in known.items()},
            _normalize=clean,
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split ("unlabelled" too), in the order of their keys: any beginning is a random sample."""
        return self._splits.get(split, ())

    def path_of(self, example: Example) -> Path:
        """The file of an example."""
        return self.root / example.name

    def text(self, example: Example) -> str | None:
        """The reference text as the data have it; None where nobody has transcribed the recording."""
        return self._texts.get(example.name)

    def normalize(self, text: str) -> str:
        """The normalized text, which is compared."""
        return self._normalize(text)

    def seconds(self, example: Example) -> float:
        """How long a recording is."""
        if example.name not in self._seconds:
            raise BadData(f"{example.name} is no example of {self.root}")
        return self._seconds[example.name]

    def waveform(self, example: Example, seconds: float | None = None) -> Samples:
        """A recording as 16 kHz mono, (samples,): all of it, or its first seconds."""
        return sound.read(self.path_of(example), seconds)

    def collate(self, examples: Sequence[Example], _preprocessing: dict[str, Any], _view: int = 0) -> Inputs:
        """What a speech session's `answer` takes: the waveforms, or the files where one is longer than a minute."""
        if any(self.seconds(example) > LONG_S for example in examples):
            return {"file": np.array([str(self.path_of(example)) for example in examples])}
        return rows([self.waveform(example) for example in examples])

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """What is timed: the recording of median length."""
        return self.collate([self.median(examples)], {})

    def median(self, examples: Sequence[Example]) -> Example:
        """The recording of median length, of those up to a minute where there are any. Raises BadData without one."""
        if not examples:
            raise BadData("there is no recording to measure with")
        short = [example for example in examples if self.seconds(example) <= LONG_S] or list(examples)
        return sorted(short, key=lambda example: (self.seconds(example), example.key))[len(short) // 2]

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """Word errors and words of each transcript. outputs: (examples,) texts."""
        found = self.errors(outputs, examples)
        errors = np.array([one.word_errors for one in found], np.float64)
        return Scores(METRIC, errors, np.array([one.words for one in found], np.float64), higher_is_better=False)

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """Word errors by words, of each transcript. outputs: (examples,) texts."""
        scores = self.score(outputs, examples)
        return scores.numerator / np.maximum(1, scores.denominator)

    def errors(self, outputs: NDArray[Any], examples: Sequence[Example]) -> list[Errors]:
        """How each transcript differs from what was said. Raises BadData for a recording without a transcript."""
        found = []
        for written, example in zip(outputs, examples, strict=True):
            said = self.text(example)
            if said is None:
                raise BadData(f"{example.name} has no transcript to judge by")
            found.append(count(self._normalize(said), self._normalize(str(written))))
        return found

    def extra(self, outputs: NDArray[Any], examples: Sequence[Example]) -> dict[str, Any]:
        """What a Measurement reports besides the metric. outputs: (examples,) texts."""
        found = self.errors(outputs, examples)
        letters = sum(one.characters for one in found)
        wrong = sum(one.character_errors for one in found)
        return {
            "normalizer": self.normalizer,
            "cer": wrong / letters if letters else float("nan"),
            "words": sum(one.words for one in found),
            **{name: sum(getattr(one, name) for one in found) for name in ("substitutions", "deletions", "insertions")},
            "empty": sum(one.empty for one in found),
            "hallucinated": sum(one.hallucinated for one in found),
            "runaways": sum(
                one.word_errors > one.words or is_repetitive(str(text))
                for one, text in zip(found, outputs, strict=True)
            ),
            "audio_s": sum(self.seconds(example) for example in examples),
        }


def rows(waveforms: Sequence[Samples]) -> Inputs:
    """Waveforms of different lengths as one array, and how much of each row is sound."""
    width = max(1, *(len(waveform) for waveform in waveforms))
    table = np.zeros((len(waveforms), width), np.float32)
    for row, waveform in zip(table, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return {"waveform": table, "length": np.array([len(waveform) for waveform in waveforms])}


def _scan(root: Path, listing: utterances.Listing, store: Path, threads: int, progress: Progress) -> dict[str, Content]:
    files = {file.name: file.path for file in listing.files}
    index = contents.index_path(store, root, "audio-")
    sound.library()
    return contents.scan(files, index, _examine, "decoding recordings", threads=threads, progress=progress)


def _examine(path: Path) -> Content:
    """Decodes a file as a whole, block by block."""
    try:
        seconds = sound.check(path).seconds
    except BadData as error:
        return Content("", problem=str(error).removeprefix(f"{path} "))
    if not seconds:
        return Content("", problem="holds no sample")
    return Content(contents.file_key(path), seconds=seconds)


def _examples(listing: utterances.Listing, known: Mapping[str, Content]) -> Splits:
    """The readable files by split; an unsplit folder counts as train."""
    splits: Splits = {}
    for file in listing.files:
        if known[file.name].problem is None:
            splits.setdefault(file.split or "train", []).append(Example(known[file.name].key, None, file.name))
    return splits


def _complete(splits: Splits, options: DataOptions, root: Path) -> Splits:
    """Missing splits are cut; where no recording to train on has a transcript, those without one are it."""
    judged = any(splits.get(name) for name in SPLITS)
    if not judged:
        raise BadData(
            f"none of the recordings in {root} has a transcript: add a metadata.csv with the columns"
            " file_name,transcription; at least what is judged on needs it"
        )
    if options.use == "training" and not splits.get("train") and splits.get("unlabelled"):
        splits = {**splits, "train": splits["unlabelled"], "unlabelled": []}
    return cutting.complete(splits, options.seed, options.use, options.leave_out, ENOUGH)


def _to_judge(root: Path, splits: Splits, leave_out: frozenset[str]) -> tuple[Splits, int]:
    """Everything to judge on as "test", and how many of those the model has seen."""
    nothing = f"{root} has no recording with a transcript: add a metadata.csv with the columns file_name,transcription"
    kept, left_out = cutting.to_judge(splits, leave_out, f"recordings of {root}", nothing)
    return {"test": kept, "unlabelled": splits.get("unlabelled", [])}, left_out


def _about_texts(splits: Splits, texts: Mapping[str, str], clean: Normalizer) -> Iterator[str]:
    judged = [example.name for name in SPLITS for example in splits.get(name, [])]
    wordless = [name for name in judged if not clean(texts[name])]
    if wordless and len(wordless) == len(judged):
        raise BadData(f"no transcript has a word that is left after normalizing: {some(wordless)}")
    if wordless:
        yield f"{len(wordless)} transcripts have no word (every word of a model counts as inserted): {some(wordless)}"


def _order(example: Example) -> tuple[str, str]:
    return example.key, example.name


def _fingerprint(clean: str, splits: Mapping[str, Sequence[Example]], texts: Mapping[str, str]) -> str:
    content = {name: [(example.key, texts.get(example.name)) for example in splits[name]] for name in sorted(splits)}
    return hashlib.sha256(json.dumps([clean, content]).encode()).hexdigest()[:16]
