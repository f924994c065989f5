"""Language modelling: the bits that a model needs for each byte of unseen text.

The text is cut into passages of about `stride` bytes, the same for every model. Each is read alone and judged after its
first quarter, so that every token is processed once. Bits per byte can be compared across tokenizers, perplexity
cannot.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import splits as cutting
from ...data.contents import content_key
from ...data.folders import SPLIT_FOLDERS, some
from ...errors import BadData, InvalidOption
from ...task import TO_TRAIN, DataOptions, Example, Inputs, Scores, Split, Task, Use
from .network import KIND
from .passages import Passage, TextFile, read

METRIC = "bits per byte"
CONTEXT, STRIDE = 512, 1024  # tokens; bytes, which are 200 to 400 tokens
MOST: Mapping[str, int] = {"train": 8192, "validation": 1024, "test": 1024}  # passages: 8 MB and 1 MB
LARGEST_FILE = 1 << 16  # passages of one file that are considered: those of 67 MB
ENOUGH = 160  # passages of a split where nothing trains: a model reads each for a second
BLOCK = 16  # neighbouring passages, which resemble each other, go to the same split
DEPTH = 128  # tokens before the one that is timed

_Place = tuple[TextFile, int]


@dataclass
class TextTask:
    """Passages of `.txt` files. Open it with `TextTask.open`."""

    root: Path
    fingerprint: str
    context: int
    stride: int
    left_out: int = 0
    use: Use = "training"  # what is learnt from it, which decided the cut
    warnings: list[str] = field(default_factory=list)
    _splits: dict[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)
    _places: dict[str, _Place] = field(default_factory=dict, repr=False)  # by the example's name
    secondary: Task | None = None  # questions that are asked too
    questions: Path | None = None  # their file

    kind = KIND
    labels: tuple[str, ...] = ()
    independent_examples = False  # a passage is read with the text before it

    @classmethod
    def open(
        cls,
        path: Path | str,
        options: DataOptions = TO_TRAIN,
        *,
        context: int = CONTEXT,
        stride: int = STRIDE,
        most: Mapping[str, int] = MOST,
    ) -> TextTask:
        """A `.txt` file, or a folder of them.

        Files and folders named train, validation (valid, val) or test, and no more, are splits; without a train split
        everything is one text, and missing splits are cut from it in blocks. context: tokens that a model reads at
        once. stride: bytes of a passage. most: passages of each split; a larger one is sampled evenly. Raises BadData.
        """
        if context < 8 or stride < 16:
            raise InvalidOption(f"a context has 8 tokens and a stride 16 bytes at least, not {context} and {stride}")
        root = Path(path)
        found = _by_split(_files(root), root, stride, judging=not options.splits)
        chosen, warnings = _choose(_cut(found, options) if options.splits else {"test": _to_judge(found)}, most)
        warnings += _about_splits(found, root, judging=not options.splits)
        examples, places = _examples(chosen, root)
        kept, _ = cutting.keep_apart(examples)
        left = _without_seen(kept, options)
        if not options.splits and not left["test"]:
            raise BadData(f"the model was made with all {len(kept['test'])} passages of {root}: give other text")
        for warning in warnings:
            options.progress.warn(warning)
        left_out = 0 if options.splits else len(kept["test"]) - len(left["test"])
        return cls(
            root, _fingerprint(left, context, stride), context, stride, left_out, options.use, warnings, left, places
        )

    def examples(self, split: Split) -> Sequence[Example]:
        """The passages of a split, in the order of the text."""
        return self._splits.get(split, ())

    def text(self, example: Example) -> str:
        """The text of a passage."""
        return read(self._passage(example)).decode("utf-8")

    def collate(self, examples: Sequence[Example], _preprocessing: dict[str, Any], _view: int = 0) -> Inputs:
        """Each passage as bytes, and where its judged part begins: the inputs of a language session's `answer`."""
        parts = [read(self._passage(example)) for example in examples]
        text = np.zeros((len(parts), max(map(len, parts))), np.uint8)
        for row, part in zip(text, parts, strict=True):
            row[: len(part)] = np.frombuffer(part, np.uint8)
        end = np.array([len(part) for part in parts])
        begin = end - [self._judged(example).length for example in examples]
        return {"text": text, "begin": begin, "end": end, "context": np.full(len(parts), self.context)}

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs for timing one token: the text before it, and the number of tokens of that text."""
        if not examples:
            raise BadData("there is no text to measure with")
        text = np.frombuffer(read(self._passage(examples[len(examples) // 2])), np.uint8)[None]
        return {"decode": text, "depth": np.array([min(DEPTH, self.context - 1)])}

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """Bits and judged bytes of each passage. outputs: (examples, 2), nats and tokens."""
        lengths = np.array([self._judged(example).length for example in examples], np.float64)
        bits = np.asarray(outputs[:, 0], np.float64) / math.log(2)
        return Scores(METRIC, bits, lengths, higher_is_better=False)

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """Nats per token of each passage, (examples,). outputs: (examples, 2), nats and tokens."""
        del examples
        return np.asarray(outputs[:, 0] / np.maximum(outputs[:, 1], 1), np.float64)

    def extra(self, outputs: NDArray[Any]) -> dict[str, Any]:
        """Perplexity and tokens, for a Measurement. outputs: (examples, 2), nats and tokens, of all examples."""
        cost, tokens = (float(value) for value in np.asarray(outputs, np.float64).sum(axis=0))
        perplexity = math.exp(min(700.0, cost / tokens)) if tokens else float("nan")
        stated = {"context_tokens": self.context, "stride_bytes": self.stride}
        return {"perplexity": perplexity, "tokens": int(tokens), **stated}

    def _passage(self, example: Example) -> Passage:
        if example.name not in self._places:
            raise BadData(f"{example.name} is no passage of {self.root}")
        file, index = self._places[example.name]
        return file.passage(index)

    def _judged(self, example: Example) -> Passage:
        passage = self._passage(example)
        return self._places[example.name][0].judged(passage)


def _files(root: Path) -> list[Path]:
    """The text files of a path, sorted by name."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise BadData(f"there is no text at {root}: give a .txt file or a folder of them")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() == ".txt" and path.is_file())
    if not found:
        raise BadData(f"{root} holds no .txt file")
    return found


def _split_of(path: Path, root: Path) -> tuple[str | None, bool]:
    """The split that a folder's or file's whole name says, and whether it does: train.txt, test/1.txt.

    The last part of a name with dots, wiki.valid.txt, is a split only beside one to train on.
    """
    if root.is_file():
        return None, False
    parts = path.relative_to(root).parts
    if len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS:
        return SPLIT_FOLDERS[parts[0].lower()], True
    stem = path.stem.lower()
    return SPLIT_FOLDERS.get(stem.rpartition(".")[2]), stem in SPLIT_FOLDERS


def _by_split(paths: Sequence[Path], root: Path, stride: int, judging: bool) -> dict[str, list[_Place]]:
    """All passages by split. Without a train split, names count only for judging."""
    files = [(path, *_split_of(path, root)) for path in paths]
    trained = any(split == "train" for _, split, _ in files)
    found: dict[str, list[_Place]] = {}
    for path, split, whole in files:
        file = TextFile.open(path, stride)
        counts = trained or (judging and whole)
        places = found.setdefault((split if counts else None) or "train", [])
        places += [(file, index) for index in _spread(file.count, LARGEST_FILE)]
    return found


def _about_splits(found: Mapping[str, list[_Place]], root: Path, judging: bool) -> list[str]:
    """The warning that says which files are judged, where that is decided by their names."""
    if not judging or len(found) < 2:
        return []
    split = next(name for name in ("test", "validation", "train") if found.get(name))
    names = {split: sorted({file.path.relative_to(root).as_posix() for file, _ in found[split]})}
    rest = sum(len({file.path for file, _ in places}) for name, places in found.items() if name != split)
    return [f"judged on {some(names[split])}, the {split} split by its name; {rest} other files are not judged"]


def _spread(count: int, most: int) -> Sequence[int]:
    """At most `most` of the numbers below `count`, evenly spaced."""
    return range(count) if count <= most else [index * count // most for index in range(most)]


def _to_judge(found: Mapping[str, list[_Place]]) -> list[_Place]:
    return next(found[name] for name in ("test", "validation", "train") if found.get(name))


def _cut(found: Mapping[str, list[_Place]], options: DataOptions) -> dict[str, list[_Place]]:
    """Cut the missing splits from train, or test from validation, in blocks of neighbouring passages.

    As in `data.splits.complete`, what is learnt from the text decides how much of it is evidence.
    """
    done, seed = dict(found), options.seed
    if "validation" not in done and "test" not in done:
        fractions = cutting.fractions(len(done["train"]), options.use, ENOUGH)
        done["train"], done["validation"], done["test"] = _divide(done["train"], fractions, seed)
    elif "validation" not in done:
        done["train"], done["validation"] = _divide(done["train"], cutting.VALIDATION_OF_TRAIN, seed)
    elif "test" not in done:
        done["validation"], done["test"] = _divide(done["validation"], cutting.HALVES, seed)
    return done


def _without_seen(found: Mapping[str, list[Example]], options: DataOptions) -> dict[str, tuple[Example, ...]]:
    """What the model was made with is no evidence: it is left out, or stays in train where a run trains nothing."""
    seen = options.leave_out if not options.splits or options.use != "training" else frozenset()
    left = {name: tuple(each for each in found[name] if each.key not in seen) for name in found}
    return {**left, "train": tuple(found["train"])} if options.splits and "train" in found else left


def _divide(places: list[_Place], fractions: Sequence[float], seed: int) -> list[list[_Place]]:
    if not fractions[0]:
        return [[], *_divide(places, fractions[1:], seed)]
    if len(places) < 2 * len(fractions):
        raise BadData(f"a text of {len(places)} passages is too short to cut splits from: give {2 * len(fractions)} kB")
    block = max(1, min(BLOCK, len(places) // 20))
    blocks = [places[start : start + block] for start in range(0, len(places), block)]
    order = list(range(len(blocks)))
    random.Random(seed).shuffle(order)
    (counts,) = cutting.shares([len(blocks)], fractions)
    parts, start = [], 0
    for count in counts:
        parts.append([place for number in sorted(order[start : start + count]) for place in blocks[number]])
        start += count
    return parts


def _choose(found: Mapping[str, list[_Place]], most: Mapping[str, int]) -> tuple[dict[str, list[_Place]], list[str]]:
    """At most `most` passages of each split, evenly spaced, and a warning for each that is larger."""
    chosen, warnings = {}, []
    for split, places in found.items():
        limit = most.get(split, len(places))
        chosen[split] = places
        if len(places) > limit:
            chosen[split] = [places[index] for index in _spread(len(places), limit)]
            warnings.append(f"the {split} text is long: {limit} passages of it are used, evenly spaced")
    return chosen, warnings


def _examples(chosen: Mapping[str, list[_Place]], root: Path) -> tuple[dict[str, list[Example]], dict[str, _Place]]:
    examples: dict[str, list[Example]] = {}
    places: dict[str, _Place] = {}
    for split, found in chosen.items():
        examples[split] = []
        for file, index in found:
            passage = file.passage(index)
            below = file.path.name if file.path == root else file.path.relative_to(root).as_posix()
            name = f"{below}:{passage.start}"
            places[name] = (file, index)
            examples[split].append(Example(content_key(read(passage)), None, name))
    return examples, places


def _fingerprint(splits: Mapping[str, Sequence[Example]], context: int, stride: int) -> str:
    content = {name: [example.key for example in splits[name]] for name in sorted(splits)}
    return hashlib.sha256(json.dumps([context, stride, content]).encode()).hexdigest()[:16]
