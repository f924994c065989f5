"""What the methods of text classifiers share: a task whose texts are tokens, and how a model reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedModel
from ...methods import Context
from ...model import Model, Record
from ...runtimes import Session, open_session
from ...runtimes.text.encoding import MAX_LENGTH, TEXT, TextEncoder, Texts, Tokens, as_rows
from ...task import Example, Inputs, Scores, Split, Task
from ...training.deadline import Clock
from ...training.head_data import labels_of
from ...training.head_report import answers_report

AT_ONCE = 64  # texts of one array: each takes as many bytes as the longest
ANSWERED_AT_ONCE = 256  # texts of about one length
ASKING = "asking the teacher"
INSTEAD = "a text classifier is made smaller with prune, distill, trim, window or quantize"


class TokenTask:
    """A task of texts that collates to what a network takes: token ids and their mask, padded to the longest.

    A text is cut into tokens once.
    """

    def __init__(self, task: Task, encoder: TextEncoder) -> None:
        self.task, self.encoder = task, encoder
        self.kind, self.labels, self.fingerprint = task.kind, task.labels, task.fingerprint
        self._known: dict[str, Tokens] = {}

    def examples(self, split: Split) -> Sequence[Example]:
        """The task's."""
        return self.task.examples(split)

    def tokens(self, examples: Sequence[Example]) -> list[Tokens]:
        """The tokens of each example."""
        new = [each for each in dict.fromkeys(examples) if each.key not in self._known]
        if new:
            texts = texts_of(self.task, new, self.encoder.max_length)
            self._known.update((each.key, self.encoder.tokens(text)) for each, text in zip(new, texts, strict=True))
        return [self._known[each.key] for each in examples]

    def collate(self, examples: Sequence[Example], preprocessing: dict[str, Any], view: int = 0) -> Inputs:
        """int64 arrays (n, longest) by the names of the model's inputs."""
        return self.encoder.batch(self.tokens(examples))

    def score(self, outputs: NDArray[Any], examples: Sequence[Example]) -> Scores:
        """The task's."""
        return self.task.score(outputs, examples)

    def loss(self, outputs: NDArray[Any], examples: Sequence[Example]) -> NDArray[Any]:
        """The task's."""
        return self.task.loss(outputs, examples)


def texts_of(task: Task, examples: Sequence[Example], max_length: int) -> list[Texts]:
    """The texts of examples, cut far behind what a model of that length reads."""
    parts = [examples[start : start + AT_ONCE] for start in range(0, len(examples), AT_ONCE)]
    return [row for part in parts for row in as_rows(task.collate(part, {MAX_LENGTH: max_length})[TEXT])]


def answers_of(session: Session, texts: Sequence[Texts], context: Context, doing: str = ASKING) -> NDArray[np.float32]:
    """What a session answers to texts, (texts, outputs). doing: for messages. Raises OutOfTime.

    Texts of about one length are asked together: of those the session makes calls of several texts.
    """
    order = by_length(texts)
    rows = np.concatenate(list(answer_batches(session, [texts[place] for place in order], context, doing)))
    found = np.empty(rows.shape, np.float32)
    found[order] = rows
    return found


def by_length(texts: Sequence[Texts]) -> list[int]:
    """The places of texts, short ones first."""
    return sorted(range(len(texts)), key=lambda place: sum(map(len, texts[place])))


def answer_batches(
    session: Session, texts: Sequence[Texts], context: Context, doing: str = ASKING
) -> Iterator[NDArray[Any]]:
    """What a session answers to texts in their order, batch by batch. Raises OutOfTime."""
    clock = Clock(context.deadline, doing)
    for start in context.progress.track(range(0, len(texts), ANSWERED_AT_ONCE), "answers, batch"):
        rows = [text if len(text) > 1 else text[0] for text in texts[start : start + ANSWERED_AT_ONCE]]
        yield session.answer({TEXT: np.array(rows, np.str_)})
        clock.tick(math.ceil((len(texts) - start) / ANSWERED_AT_ONCE) - 1)


def validation_report(folder: Path, preprocessing: dict[str, Any], context: Context) -> dict[str, Any]:
    """How the `onnx` model in a folder answers the validation split: accuracy, f1, confusion."""
    examples, classes = context.task.examples("validation"), len(context.task.labels)
    return answers_report(validation_logits(folder, preprocessing, context), labels_of(examples), classes)


def validation_logits(folder: Path, preprocessing: dict[str, Any], context: Context) -> NDArray[np.float32]:
    """The answers of the `onnx` model in a folder to the validation split, (examples, classes)."""
    model = Model(folder, "onnx", Record(context.task.kind, context.task.labels, preprocessing))
    session = open_session(model, threads=context.threads)
    texts = texts_of(context.task, context.task.examples("validation"), int(preprocessing[MAX_LENGTH]))
    logits = answers_of(session, texts, context)
    session.close()
    return logits


def in_tokens(model: Model, context: Context) -> Context:
    """The context with texts as the model's tokens."""
    return replace(context, task=TokenTask(context.task, TextEncoder.of(model)))


def reading(model: Model) -> dict[str, Any]:
    """How the model reads texts. Raises UnsupportedModel where its folder has no tokenizer.json."""
    if model.record.preprocessing is None:
        raise UnsupportedModel(
            f"{model.folder} has no tokenizer.json, so how its texts are read is not known:"
            " AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
        )
    return model.record.preprocessing


def copy_tokenizer(model: Model, out: Path) -> None:
    """The files of the tokenizer, into a folder with another network."""
    import shutil

    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (model.folder / name).is_file() and not (out / name).exists():
            shutil.copyfile(model.folder / name, out / name)
