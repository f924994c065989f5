"""What `shrink` tries for text classifiers: what needs no network, then the whole encoder finetuned and in integers."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import UnsupportedModel
from ...methods import Method
from ...methods.distill import FIXED, STATIC, Distill
from ...methods.export import Export
from ...methods.finetune import Finetune
from ...methods.prune import Prune
from ...methods.quantize import Quantize
from ...methods.tfidf import LENGTHS, Tfidf
from ...methods.trim import Trim
from ...model import Model
from ...recipes.recipe import Recipe
from ...runtimes.hf.checkpoint import Checkpoint
from ...runtimes.text.encoding import TEXT, TextEncoder, as_rows
from ...runtimes.text.prompt import is_prompted
from ...search import space
from ...search.space import Pace
from ...task import Inputs
from .teaching import texts_of

EPOCHS = 4  # over the encoder; more overfit a few thousand texts
STEPS, TEXTS, MOST_EPOCHS = 300, 32, 30  # steps that a new head and the encoder need at least, texts in each
CUT, HALF = 0.4, 0.5  # of heads and neurons, which prune removes; of the layers, which a student keeps
CUT_EPOCHS, HALF_EPOCHS, LEAST_EPOCHS = 4, 8, 4  # in which they learn from the whole encoder
LEAST_LAYERS = 4  # of an encoder that is made smaller
KEPT = (8000, 2000)  # frequent tokens of a vocabulary, beside those of the user's texts
WORK = 3e12  # operations of a training for each minute of the run: about half of the time on two cores
MINUTES = 20.0  # of a run without a limit
PASSES = 6  # per weight and token: two forwards, four backwards (Kaplan et al. 2020, section 2.1)
COUNTED = 256  # texts whose tokens stand for all
STEP_S = 2.0
BAGS = 200_000  # texts that the static student sees in all its epochs: it has one matrix, and they take a minute
BAG_EPOCHS = 30
SENSITIVITY_S = 15.0  # to trace an encoder, and to answer without parts of its layers
LAYERS = ("num_hidden_layers", "n_layers")  # in config.json; the latter DistilBERT's
TOKEN_S = 4e-11  # a forward pass over a token, for each parameter; half a minute for MiniLM's
VECTORS_S = 4.0  # to train one for each token


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
            yield Recipe((*first, Distill(student=STATIC, epochs=_unless_usual(epochs))))
        if first and export:  # after the training, which all recipes then share
            yield Recipe((*first, *export, Quantize(table_bits=4)))
            for keep in KEPT:
                yield Recipe((*first, Trim(keep=keep), *export, Quantize(table_bits=4)))
        for smaller in self._smaller(first):  # last: a further training, and the largest loss
            yield Recipe((*first, *smaller, *export, Quantize()))
            if first:
                yield Recipe((*first, *smaller, Trim(keep=KEPT[-1]), *export, Quantize(table_bits=4)))

    def without_reference(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """Words and characters: nothing of the encoder is in them."""
        return [recipe for recipe in recipes if all(isinstance(step, Tfidf) for step in recipe.steps)]

    def _smaller(self, first: Sequence[Method]) -> Iterator[tuple[Method, ...]]:
        """Smaller encoders, which learn from the whole one: fewer heads and neurons, then half of the layers.

        Each where all trainings together fit into what trainings may take of the minutes.
        """
        deep = [step.deep_epochs for step in first if isinstance(step, Finetune) and step.unfreeze]
        labelled = len(self.task.examples("train"))
        if self.given.format != "hf" or not labelled or (first and not deep) or layers_of(self.given) < LEAST_LAYERS:
            return
        shown = labelled + len(self.task.examples("unlabelled"))
        whole = max(1.0, self._epoch_work())
        room = math.inf if self.minutes is None else WORK * self.minutes - sum(deep) * whole
        for cut, left, epochs in ((Prune(sparsity=CUT), 1 - CUT, CUT_EPOCHS), (None, HALF, HALF_EPOCHS)):
            epoch = left * whole * shown / labelled
            taken = int(min(max(epochs, epochs_for(shown)), room / epoch))
            if taken >= LEAST_EPOCHS:
                room -= taken * epoch
                learnt = Distill(depth=1.0 if cut else HALF, epochs=_unless_usual(taken))
                yield (cut, learnt) if cut else (learnt,)

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
        return sum(
            STEP_S + self._further_s(step, pace) + _passes(step) * pace.calibration * pace.example_s
            for step in recipe.steps
        )

    def _further_s(self, step: Method, pace: Pace) -> float:
        """What does not grow with the texts: it does with the vocabulary, of which each token is answered."""
        if isinstance(step, Prune):
            return SENSITIVITY_S
        if not isinstance(step, Distill) or step.student != STATIC or self.given.format != "hf":
            return 0.0
        return TOKEN_S * TextEncoder.of(self.given).ids * pace.parameters + VECTORS_S

    def predicted(self, recipe: Recipe, model: Model, inputs: Inputs, threads: int) -> dict[str, Any]:
        """Of the tokens, which the graph takes, in place of the texts; a model without a network takes the texts."""
        try:
            encoder = TextEncoder.of(model)
        except UnsupportedModel:
            return super().predicted(recipe, model, inputs, threads)
        tokens = encoder.batch(encoder.tokens(text) for text in as_rows(inputs[TEXT]))
        return super().predicted(recipe, model, tokens, threads)

    def _epoch_work(self) -> float:
        """Operations of one epoch: of the weights that are multiplied, by the tokens of the train split."""
        examples = self.task.examples("train")
        if not examples or self.given.format != "hf":
            return math.inf
        encoder = TextEncoder.of(self.given)
        rows = texts_of(self.task, examples[:COUNTED], encoder.max_length)
        tokens = sum(len(encoder.tokens(row)) for row in rows) / len(rows)
        return PASSES * multiplied(self.given) * tokens * len(examples)


def _passes(step: Method) -> float:
    """Forward passes of the whole network over the training texts; a backward pass takes as long as two."""
    if isinstance(step, Distill) and step.student != STATIC:
        return 1 + 3 * step.depth * step.learning().epochs
    return 1 if isinstance(step, (Quantize, Finetune, Distill)) else 0


def _unless_usual(epochs: int) -> int | None:
    """What need not be written into a recipe is left out."""
    return None if epochs == FIXED.epochs else epochs


def epochs_for(texts: int) -> int:
    """Epochs over the encoder with so many training texts: more of a few texts, so that there are enough steps."""
    return max(EPOCHS, min(MOST_EPOCHS, math.ceil(STEPS * TEXTS / max(1, texts))))


def layers_of(model: Model) -> int:
    """Of an encoder, as its config.json says; 0 where it says nothing."""
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    return next((int(config[name]) for name in LAYERS if isinstance(config.get(name), int)), 0)


def multiplied(model: Model) -> int:
    """Weights that every token is multiplied with: all matrices but the tables of embeddings."""
    tensors = Checkpoint(model.folder).tensors.values()
    return sum(math.prod(each.shape) for each in tensors if len(each.shape) == 2 and "embeddings" not in each.name)
