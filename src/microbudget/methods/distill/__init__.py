"""distill: a small student learns from a larger teacher's answers to the data, not from the labels alone.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531. What is done for a kind of model is in the kind's own `distill.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InvalidOption
from .. import Context, Method, option

if TYPE_CHECKING:
    from types import ModuleType

    from ...model import Model

STATIC = "static"  # the student that is one vector for each token, where a kind has it
FRESH, AUTO = "fresh", "auto"  # of `views`
FIXED_VIEWS = 4  # where fresh ones would take longer than there is


@dataclass(frozen=True)
class Learning:
    """How a student learns: the options that may be left open, decided."""

    temperature: float
    hard: float
    epochs: int
    patience: int
    learning_rate: float


FIXED = Learning(temperature=4.0, hard=0.1, epochs=30, patience=10, learning_rate=1e-3)
# Beyer et al. 2022, section 3: KL at temperature 1 and nothing else, and a long schedule that is never stopped early.
PATIENT = Learning(temperature=1.0, hard=0.0, epochs=90, patience=10_000, learning_rate=3e-3)


@dataclass(frozen=True)
class Distill(Method):
    """A smaller student learns the teacher's soft answers: named, cut from the model, or the pruned model itself."""

    revision: ClassVar[int] = 4
    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}  # onnx: of photos
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"depth": (0.75, 0.5, 0.25), "width": (0.75, 0.5, 0.35)}

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
    views: int | str = option(
        AUTO,
        "of photos, that teacher and student see: 'fresh', another crop in each epoch; or a number of fixed views, the"
        " plain one first; 'auto': fresh ones where the time allows 20 epochs, else 4",
    )
    temperature: float | None = option(
        None,
        "of the soft labels: higher shows more of what the teacher finds similar; None: 1 with fresh views, else 4",
        low=0.1,
    )
    hard: float | None = option(
        None,
        "weight of the true labels, the soft ones have the rest; None: 0 with fresh views, else 0.1",
        low=0.0,
        high=1.0,
    )
    features: float = option(0.0, "weight of the distance between the features of the two", low=0.0)
    mix: float = option(
        0.0,
        "fresh views: each photo is mixed with another, in proportions of Beta(mix, mix); 0: not",
        low=0.0,
        high=10.0,
    )
    epochs: int | None = option(
        None,
        "passes over the data at most; 0: the student as it is cut; None: 90 with fresh views or as many as the time"
        " allows, else 30",
        low=0,
        high=10_000,
    )
    patience: int | None = option(
        None,
        "epochs without a better validation loss before it stops; None: never with fresh views, else 10",
        low=1,
        high=10_000,
    )
    learning_rate: float | None = option(
        None,
        "of AdamW after the warm-up; None: 0.003 with fresh views and batch normalization, else 0.001; of an encoder of"
        " texts a tenth of it, or three where it was narrowed",
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

    def __post_init__(self) -> None:
        """Raises InvalidOption for views that are neither a number nor a word, and what does not go with them."""
        super().__post_init__()
        if self.views not in (FRESH, AUTO) and not (isinstance(self.views, int) and 1 <= self.views <= 64):
            raise InvalidOption(f"distill: views must be 'fresh', 'auto' or 1 to 64, not {self.views!r}")
        if self.mix and self.views != FRESH:
            raise InvalidOption(
                "distill: mix= needs views='fresh': the answers to fixed views are kept, mixtures are not"
            )

    def learning(self, defaults: Learning = FIXED) -> Learning:
        """The options as given; those that are left open from the defaults."""
        given = {name: getattr(self, name) for name in (spec.name for spec in fields(Learning))}
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})

    def output_format(self, input_format: str) -> str:
        """As the student's: a named one is a Hugging Face folder, vectors of tokens are an `onnx` file."""
        output = super().output_format(input_format)
        if self.student is None:
            return output
        return "onnx" if self.student == STATIC else "hf"

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
