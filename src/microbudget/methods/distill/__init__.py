"""distill: a small student learns from a larger teacher's answers to the data, not from the labels alone.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531. What is done for a kind of model is in the kind's own `distill.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InvalidOption
from .. import Context, Method, option

if TYPE_CHECKING:
    from types import ModuleType

    from ...model import Model

STATIC = "static"  # the student that is one vector for each token, where a kind has it


@dataclass(frozen=True)
class Distill(Method):
    """A smaller student learns the teacher's soft answers: named, cut from the model, or the pruned model itself."""

    revision: ClassVar[int] = 3
    formats: ClassVar[dict[str, str]] = {"hf": "hf"}

    student: str | None = option(
        None,
        "a Hugging Face folder or hub id, or a config.json alone (randomly initialized); by default cut from the model;"
        " for texts 'static': one vector for each token, no network",
    )
    depth: float = option(1.0, "fraction of the model's blocks that the student keeps", low=0.01, high=1.0)
    width: float = option(1.0, "fraction of the model's channels that the student keeps", low=0.01, high=1.0)
    teacher: str | None = option(None, "a model; by default the run's reference, else the given model")
    prompt: str | None = option(
        None,
        "texts: what a teacher that is a language model reads, 'Review: {text}\\nSentiment: {label}'; a folder that"
        " `microbudget prompt` wrote has its own",
    )
    temperature: float = option(4.0, "of the soft labels: higher shows more of what the teacher finds similar", low=0.1)
    hard: float = option(0.1, "weight of the true labels, the soft ones have the rest", low=0.0, high=1.0)
    features: float = option(0.0, "weight of the distance between the features of the two", low=0.0)
    views: int = option(4, "views of each photo that the teacher sees: the plain one, then augmented", low=1, high=64)
    epochs: int = option(30, "passes over the data at most; 0: the student as it is cut", low=0, high=10_000)
    patience: int = option(10, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float = option(
        1e-3,
        "of AdamW after the warm-up; of an encoder of texts a tenth of it, or three where it was narrowed",
        low=1e-8,
        high=1.0,
    )
    batch_size: int = option(32, "examples in a step at most", low=2, high=4096)
    decoder_layers: int | None = option(None, "transcription: decoder layers to keep, evenly spaced; None: all", low=1)
    encoder_layers: int | None = option(
        None, "transcription: encoder layers to keep; None: all, and the encoder stays as it is", low=1
    )
    dimensions: int = option(224, "student='static': numbers in the vector of a token", low=2, high=4096)
    max_wer: float = option(
        0.3, "transcription: the teacher's word error rate on a recording above which it is not learnt from", low=0.0
    )
    curve: bool = option(
        False, "also train with and without a teacher at 100, 30 and 10 % of the labels: seven times as long"
    )

    def output_format(self, input_format: str) -> str:
        """As the input's, but vectors of tokens are no network that a Hugging Face folder holds: `onnx`."""
        output = super().output_format(input_format)
        return "onnx" if self.student == STATIC else output

    def part(self, context: Context, model: Model | None = None) -> ModuleType:
        """As of every method. Raises InvalidOption where the kind has no static student, too."""
        found = super().part(context, model)
        if self.student == STATIC and not hasattr(found, "STATIC"):
            raise InvalidOption(
                "distill: student='static' is for texts; a folder of that name is given as student='./static'"
            )
        return found

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """What the kind's part names: the fingerprints of a teacher and of a named student."""
        found: dict[str, str] = self.part(context).extra_inputs(self, context)
        return found
