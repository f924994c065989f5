"""Questions as a Task: JSON lines whose metric is accuracy.

Outputs are texts, the JSON of `runtimes.language.questions`: how likely each choice is, or what was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data import splits as cutting
from ....data.contents import content_key
from ....data.folders import SPLIT_FOLDERS
from ....data.metadata import lines
from ....errors import BadData
from ....runtimes.language.questions import packed
from ....task import TO_TRAIN, DataOptions, Example, Inputs, Scores, Split, Use
from ..chats import ChatTask, Conversation
from ..network import KIND
from ..text import DEPTH, TextTask
from .answer import Answer, read_answers
from .question import Question, parse

METRIC = "accuracy"
SUFFIXES = (".jsonl", ".ndjson")


@dataclass
class QuestionTask:
    """The questions of JSON lines. Open it with `QuestionTask.open`."""

    root: Path
    fingerprint: str
    left_out: int = 0
    use: Use = "training"  # what is learnt from them, which decided the cut
    warnings: list[str] = field(default_factory=list)
    _splits: dict[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)
    _questions: dict[str, Question] = field(default_factory=dict, repr=False)  # by the example's key
    secondary: TextTask | ChatTask | None = None  # text, which is judged too and learnt from
    questions: Path | None = None  # the file of the questions, where they come with a text

    kind = KIND
    metric = METRIC
    labels: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path | str, options: DataOptions = TO_TRAIN) -> QuestionTask:
        """A `.jsonl` file, or a folder of them; train.jsonl, validation.jsonl and test.jsonl are splits.

        Raises BadData.
        """
        root, questions = Path(path), dict[str, Question]()
        found: dict[str, list[Example]] = {}
        for file in files(root):
            split = "train" if file == root else SPLIT_FOLDERS.get(file.stem.lower(), "train")
            found.setdefault(split, []).extend(_examples(file, root, questions))
        found, _ = cutting.keep_apart(found)
        warnings: list[str] = []
        if options.splits:
            chosen = cutting.complete(found, options.seed, options.use, options.leave_out)
            left_out = 0
            warnings = list(cutting.about_cut(found, options.use, options.leave_out, "questions"))
        else:
            what, nothing = f"questions of {root}", f"{root} holds no question"
            kept, left_out = cutting.to_judge(found, options.leave_out, what, nothing)
            chosen = {"test": kept}
        for warning in warnings:
            options.progress.warn(warning)
        ordered = {name: tuple(examples) for name, examples in chosen.items()}
        content = {name: [example.key for example in ordered[name]] for name in sorted(ordered)}
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        return cls(root, digest, left_out, options.use, warnings, ordered, questions)

    def examples(self, split: Split) -> Sequence[Example]:
        """The questions of a split; what is learnt from is the text that they come with, where there is one."""
        if self.secondary is not None and split in ("train", "unlabelled"):
            return self.secondary.examples(split)
        return self._splits.get(split, ())

    def question(self, example: Example) -> Question:
        """What is asked. Raises BadData for an example of other data."""
        if example.key not in self._questions:
            raise BadData(f"{example.name} is no question of {self.root}")
        return self._questions[example.key]

    def text(self, example: Example) -> str:
        """The question with the right answer, or the text of secondary data: to calibrate or to learn from."""
        if self.secondary is not None and example.key not in self._questions:
            return self.secondary.text(example)
        return self.question(example).whole

    @property
    def conversation(self) -> Callable[[Example], Conversation] | None:
        """What a training reads where the questions come with conversations: those, and questions as one turn."""
        chats = self.secondary
        if not isinstance(chats, ChatTask):
            return None

        def turns(example: Example) -> Conversation:
            if example.key not in self._questions:
                return chats.conversation(example)
            question = self.question(example)
            return {"role": "user", "content": question.text}, {"role": "assistant", "content": question.right}

        return turns

    def collate(self, examples: Sequence[Example], _preprocessing: dict[str, Any], _view: int = 0) -> Inputs:
        """The inputs of a language session's `answer`."""
        return packed([self.question(example).to_ask() for example in examples])

    def sample(self, examples: Sequence[Example]) -> Inputs:
        """The inputs for timing one token."""
        if not examples:
            raise BadData("there is no question to measure with")
        text = self.text(examples[len(examples) // 2]).encode()
        return {"decode": np.frombuffer(text, np.uint8)[None], "depth": np.array([DEPTH])}

    def answers(self, outputs: NDArray[Any], examples: Sequence[Example]) -> list[Answer]:
        """A model's answers. outputs: (examples,) texts. Raises BrokenModel where one is not finite."""
        return read_answers([self.question(example) for example in examples], outputs)

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """1 where the answer is right, else 0. outputs: (examples,) texts."""
        right = [answer.right for answer in self.answers(outputs, examples)]
        return Scores(METRIC, np.array(right, np.float64), np.ones(len(right)))

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[np.float64]:
        """Nats that the right choice costs among the choices, (examples,); without choices 0 where it is right."""
        return np.array([-math.log(max(each.of_right, 1e-12)) for each in self.answers(outputs, examples)])


def files(root: Path) -> list[Path]:
    """The files of questions at a path, sorted by name. Raises BadData where there are none."""
    if root.is_file():
        return [root]
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise BadData(f"there are no questions at {root}: give a .jsonl file, one question a line, or a folder of them")
    return found


def are_questions(found: Sequence[Path]) -> bool:
    """Whether files of JSON lines hold questions, by the first line of the first that can be read.

    `choices` and `regex` are of questions alone, and so is a prompt with an answer (a conversation has a `completion`).
    """
    for path in found:
        if path.suffix.lower() not in SUFFIXES:
            return False
        for _, line in lines(path):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            names = set(row) if isinstance(row, dict) else set()
            return bool(names & {"choices", "regex"}) or {"prompt", "answer"} <= names
    return False


def _examples(path: Path, root: Path, questions: dict[str, Question]) -> list[Example]:
    name = path.name if path == root else path.relative_to(root).as_posix()
    examples: list[Example] = []
    seen: dict[str, int] = {}
    for number, line in lines(path):
        question = parse(line, f"{path}, line {number}")
        first = seen.setdefault(question.asked, number)
        if first != number:
            raise BadData(f"{path}, line {number} asks the same as line {first}, which would count twice: remove one")
        key = content_key(question.content.encode())
        questions[key] = question
        examples.append(Example(key, None, f"{name}:{number}"))
    if not examples:
        raise BadData(f"{path} is empty: give one question a line")
    return examples
