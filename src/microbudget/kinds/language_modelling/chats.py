"""Conversations: JSON lines, or a JSON file with a list of rows; `layouts` says what a row may look like.

A model is judged by its bits for each byte of the last answer, after the earlier messages. These are rendered by the
model's own chat template, so that each model reads the format that it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import splits as cutting
from ...data.contents import content_key
from ...data.folders import SPLIT_FOLDERS
from ...data.metadata import read_text
from ...errors import BadData
from ...task import TO_TRAIN, DataOptions, Example, Inputs, Scores, Split, Task, Use
from . import layouts
from .network import KIND
from .text import CONTEXT, DEPTH, ENOUGH, METRIC, TextTask

LINES, LIST = (".jsonl", ".ndjson"), ".json"
Conversation = tuple[Mapping[str, str], ...]


@dataclass
class ChatTask:
    """Conversations of `.jsonl` or `.json` files. Open it with `ChatTask.open`."""

    root: Path
    fingerprint: str
    context: int
    stride: int = 1  # bytes of an answer, on average: conversations are not cut into passages
    left_out: int = 0
    use: Use = "training"  # what is learnt from them, which decided the cut
    warnings: list[str] = field(default_factory=list)
    _splits: dict[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)
    _conversations: dict[str, Conversation] = field(default_factory=dict, repr=False)  # by the example's key
    secondary: Task | None = None  # questions that are asked too
    questions: Path | None = None  # their file

    kind = KIND
    labels: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path | str, options: DataOptions = TO_TRAIN, *, context: int = CONTEXT) -> ChatTask:
        """A `.jsonl` or `.json` file, or a folder of them; train.jsonl, validation.jsonl and test.jsonl are splits.

        context: tokens that a model reads at once. Raises BadData.
        """
        root = Path(path)
        conversations: dict[str, Conversation] = {}
        found: dict[str, list[Example]] = {}
        for file in files(root):
            found.setdefault(_split_of(file, root), []).extend(_examples(file, root, conversations))
        disjoint, _ = cutting.keep_apart(found)
        if options.splits:
            chosen = cutting.complete(disjoint, options.seed, options.use, options.leave_out, ENOUGH)
            left_out = 0
            warnings = list(cutting.about_cut(disjoint, options.use, options.leave_out, "conversations"))
        else:
            what, nothing = f"conversations of {root}", f"{root} holds no conversation"
            kept, left_out = cutting.to_judge(disjoint, options.leave_out, what, nothing)
            chosen, warnings = {"test": kept}, []
        for warning in warnings:
            options.progress.warn(warning)
        ordered = {name: tuple(examples) for name, examples in chosen.items()}
        content = {name: [example.key for example in ordered[name]] for name in sorted(ordered)}
        digest = hashlib.sha256(json.dumps([context, content]).encode()).hexdigest()[:16]
        judged = [
            len(conversations[example.key][-1]["content"].encode()) for part in ordered.values() for example in part
        ]
        stride = max(1, round(sum(judged) / max(1, len(judged))))
        return cls(root, digest, context, stride, left_out, options.use, warnings, ordered, conversations)

    def examples(self, split: Split) -> Sequence[Example]:
        """The conversations of a split."""
        return self._splits.get(split, ())

    def conversation(self, example: Example) -> Conversation:
        """Its messages. Raises BadData for an example of other data."""
        if example.key not in self._conversations:
            raise BadData(f"{example.name} is no conversation of {self.root}")
        return self._conversations[example.key]

    def text(self, example: Example) -> str:
        """The contents, one message a line: for timing, not for training."""
        return "\n".join(message["content"] for message in self.conversation(example))

    def question(self, example: Example) -> str:
        """The first message of a user; empty where there is none."""
        asked = (message["content"] for message in self.conversation(example) if message["role"] == "user")
        return next(asked, "")

    def collate(self, examples: Sequence[Example], _preprocessing: dict[str, Any], _view: int = 0) -> Inputs:
        """The conversations as JSON, padded: the inputs of a language session's `answer`."""
        parts = [json.dumps(self.conversation(example), ensure_ascii=False).encode() for example in examples]
        table = np.zeros((len(parts), max(map(len, parts))), np.uint8)
        for row, part in zip(table, parts, strict=True):
            row[: len(part)] = np.frombuffer(part, np.uint8)
        lengths = np.array([len(part) for part in parts])
        return {"chat": table, "end": lengths, "context": np.full(len(parts), self.context)}

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs for timing one token."""
        if not examples:
            raise BadData("there is no conversation to measure with")
        text = self.text(examples[len(examples) // 2]).encode()
        return {"decode": np.frombuffer(text, np.uint8)[None], "depth": np.array([min(DEPTH, self.context - 1)])}

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """Bits and bytes of each last answer. outputs: (examples, 2), nats and tokens."""
        lengths = [len(self.conversation(example)[-1]["content"].encode()) for example in examples]
        bits = np.asarray(outputs[:, 0], np.float64) / np.log(2)
        return Scores(METRIC, bits, np.array(lengths, np.float64), higher_is_better=False)

    loss = TextTask.loss
    extra = TextTask.extra


def files(root: Path) -> list[Path]:
    """The files of conversations at a path, sorted by name; none where there are none.

    `.json` files are many things: in a folder only those that hold a list are conversations.
    """
    if root.is_file():
        return [root] if root.suffix.lower() in (*LINES, LIST) else []
    return sorted(path for path in root.rglob("*") if path.is_file() and _is_one(path))


def _is_one(path: Path) -> bool:
    if path.suffix.lower() != LIST:
        return path.suffix.lower() in LINES
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _split_of(path: Path, root: Path) -> str:
    return "train" if path == root else SPLIT_FOLDERS.get(path.stem.lower(), "train")


def _examples(path: Path, root: Path, conversations: dict[str, Conversation]) -> list[Example]:
    name = path.name if path == root else path.relative_to(root).as_posix()
    examples = []
    for number, row, where in _rows(path):
        messages = layouts.messages(row, where)
        key = content_key(json.dumps(messages, sort_keys=True).encode())
        conversations[key] = messages
        examples.append(Example(key, None, f"{name}:{number}"))
    if not examples:
        raise BadData(f"{path} is empty: give one conversation a line")
    return examples


def _rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """The number of each row from 1, what it holds, and where it is. Raises BadData."""
    text = read_text(path)
    if path.suffix.lower() == LIST and text.lstrip().startswith("["):
        for number, row in enumerate(_parsed(text, str(path)), 1):
            yield number, row, f"{path}, row {number}"
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028, which a text may hold
        if line.strip():
            where = f"{path}, line {number}"
            yield number, _parsed(line, where), where


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where} is no {layouts.WANTED} ({error})") from error
