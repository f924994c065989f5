"""What the methods of text classifiers share: a task whose texts are tokens, and how a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import UnsupportedModel
from ...methods import Context
from ...model import Model
from ...runtimes.text.encoding import TEXT, TextEncoder, Tokens, as_rows
from ...task import Example, Inputs, Scores, Split, Task

INSTEAD = "a text classifier is made smaller with distill, trim, window or quantize"


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
            texts = self.task.collate(new, {"max_length": self.encoder.max_length})[TEXT]
            self._known.update(
                (each.key, self.encoder.tokens(text)) for each, text in zip(new, as_rows(texts), strict=True)
            )
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
