"""What `shrink` tries for text classifiers: what needs no network, then the whole encoder finetuned and in integers."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence

from ...methods import Method
from ...methods.distill import STATIC, Distill
from ...methods.export import Export
from ...methods.finetune import Finetune
from ...methods.quantize import Quantize
from ...methods.tfidf import LENGTHS, Tfidf
from ...methods.trim import Trim
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.hf.checkpoint import Checkpoint
from ...runtimes.text.encoding import TextEncoder
from ...runtimes.text.prompt import is_prompted
from ...search import space
from ...search.space import Pace
from .teaching import texts_of

EPOCHS = 4  # over the encoder; more overfit a few thousand texts
STEPS, TEXTS, MOST_EPOCHS = 300, 32, 30  # steps that a new head and the encoder need at least, texts in each
KEPT = (8000, 2000)  # frequent tokens of a vocabulary, beside those of the user's texts
WORK = 3e12  # operations of a training for each minute of the run: about half of the time on two cores
MINUTES = 20.0  # of a run without a limit
PASSES = 6  # per weight and token: two forwards, four backwards (Kaplan et al. 2020, section 2.1)
COUNTED = 256  # texts whose tokens stand for all
STEP_S = 2.0
BAGS = 200_000  # texts that the static student sees in all its epochs: it has one matrix, and they take a minute
BAG_EPOCHS = 30
VOCABULARY_S = 30.0  # a forward pass over the tokens, and the training


class SearchSpace(space.SearchSpace):
    """Recipes for a Hugging Face folder or an `.onnx` file."""

    def teaching(self, minutes: float | None = None) -> tuple[Method, ...]:
        """The whole encoder where there is time for an epoch and more, else a head on its features."""
        work = WORK * (minutes or MINUTES)
        epochs = min(epochs_for(len(self.task.examples("train"))), int(work / max(1.0, self._epoch_work())))
        if self.given.format != "hf" or epochs < 1:
            return (Finetune(),)
        return (Finetune(unfreeze="all", deep_epochs=epochs, deep_patience=epochs),)

    def quicker_teaching(self, first: Sequence[Method]) -> tuple[Method, ...]:
        """A head alone, whose features are there already when the encoder could not be trained in time."""
        head = (Finetune(),)
        return head if tuple(first) not in ((), head) else ()

    def recipes(self, first: Sequence[Method]) -> Iterator[Recipe]:
        """First what takes seconds: words and characters without a network. Then the safest, then the others.

        Vectors of tokens take a few minutes, for their teacher answers every text.
        """
        if self._counts:
            yield from (Recipe((Tfidf(unit=unit),)) for unit in LENGTHS)
        if is_prompted(self.given):
            return
        export: tuple[Method, ...] = (Export(),) if self.given.format == "hf" else ()
        yield Recipe((*first, *export, Quantize()))
        if first or export:
            yield Recipe((*first, *export))
        if self.given.format == "hf":
            texts = len(self.task.examples("train")) + len(self.task.examples("unlabelled"))
            epochs = max(2, min(BAG_EPOCHS, BAGS // max(1, texts)))
            yield Recipe((*first, Distill(student=STATIC, epochs=epochs)))
        if first and export:  # after the training, which all recipes then share
            for keep in KEPT:
                yield Recipe((*first, Trim(keep=keep), *export, Quantize()))

    def forecast(self, threads: int) -> Iterator[str]:
        """Whether words and characters can be counted here, and what is not tried for a language model."""
        if not self._counts:
            yield "words and characters with logistic regression are left out: pip install 'microbudget[text]'"
        if is_prompted(self.given):
            yield (
                "a language model with a prompt: only what needs no network is tried in its place. An encoder such as"
                " MiniLM can learn from it: `microbudget shrink ENCODER`, or distill(teacher=...)"
            )

    @property
    def _counts(self) -> bool:
        return importlib.util.find_spec("sklearn") is not None

    def build_s(self, recipe: Recipe, pace: Pace) -> float:
        """By forward passes over the training texts; a training of the whole network watches the clock itself."""
        passes = {"quantize": 1, "finetune": 1, "distill": 1}
        further = {"distill": VOCABULARY_S}
        return sum(
            STEP_S + further.get(step.name(), 0.0) + passes.get(step.name(), 0) * pace.calibration * pace.example_s
            for step in recipe.steps
        )

    def _epoch_work(self) -> float:
        """Operations of one epoch: of the weights that are multiplied, by the tokens of the train split."""
        examples = self.task.examples("train")
        if not examples or self.given.format != "hf":
            return math.inf
        encoder = TextEncoder.of(self.given)
        rows = texts_of(self.task, examples[:COUNTED], encoder.max_length)
        tokens = sum(len(encoder.tokens(row)) for row in rows) / len(rows)
        return PASSES * multiplied(self.given) * tokens * len(examples)


def epochs_for(texts: int) -> int:
    """Epochs over the encoder with so many training texts: more of a few texts, so that there are enough steps."""
    return max(EPOCHS, min(MOST_EPOCHS, math.ceil(STEPS * TEXTS / max(1, texts))))


def multiplied(model: Model) -> int:
    """Weights that every token is multiplied with: all matrices but the tables of embeddings."""
    tensors = Checkpoint(model.folder).tensors.values()
    return sum(math.prod(each.shape) for each in tensors if len(each.shape) == 2 and "embeddings" not in each.name)
