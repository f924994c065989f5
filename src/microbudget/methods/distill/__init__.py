"""distill: a small student learns from what a larger teacher says of the data, not from the labels alone.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531. What a kind of task needs is in the file of its name.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...errors import InvalidOption, UnsupportedModel
from ...model import Model, Record
from .. import Context, Method, option

# Kind of task -> the file that does the work.
KINDS = {
    "image-classification": "microbudget.kinds.image_classification.distill",
    "transcription": "microbudget.kinds.transcription.distill",
}
# Options that one kind of task reads alone.
OF_IMAGES = ("student", "teacher", "depth", "width", "temperature", "hard", "features", "views", "curve")
OF_TRANSCRIPTION = ("decoder_layers", "encoder_layers", "max_wer")
FOREIGN = {
    "image-classification": (
        OF_TRANSCRIPTION,
        "is for transcription; an image classifier is cut with depth= and width=",
    ),
    "transcription": (
        OF_IMAGES,
        "is for images; a Whisper is taught by itself and cut with decoder_layers= and encoder_layers=",
    ),
}


@dataclass(frozen=True)
class Distill(Method):
    """A smaller student learns the teacher's soft answers: named, cut from the model, or the pruned model itself."""

    revision: ClassVar[int] = 3
    formats: ClassVar[dict[str, str]] = {"hf": "hf"}

    student: str | None = option(
        None, "a Hugging Face folder or hub id, or a config.json alone (drawn at random); by default cut from the model"
    )
    depth: float = option(1.0, "share of the model's blocks that the student keeps", low=0.01, high=1.0)
    width: float = option(1.0, "share of the model's channels that the student keeps", low=0.01, high=1.0)
    teacher: str | None = option(None, "a model; by default the run's reference, else the given model")
    temperature: float = option(4.0, "of the soft labels: higher shows more of what the teacher finds similar", low=0.1)
    hard: float = option(0.1, "weight of the true labels, the soft ones have the rest", low=0.0, high=1.0)
    features: float = option(0.0, "weight of the distance between the features of the two", low=0.0)
    views: int = option(4, "views of each photo that the teacher sees: the plain one, then augmented", low=1, high=64)
    epochs: int = option(30, "passes over the data at most; 0: the student as it is cut", low=0, high=10_000)
    patience: int = option(10, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float = option(1e-3, "of AdamW after the warm-up", low=1e-8, high=1.0)
    batch_size: int = option(32, "examples in a step at most", low=2, high=4096)
    decoder_layers: int | None = option(None, "transcription: decoder layers to keep, far apart; None: all", low=1)
    encoder_layers: int | None = option(
        None, "transcription: encoder layers to keep; None: all, and the encoder stays as it is", low=1
    )
    max_wer: float = option(
        0.3, "transcription: the teacher's word error rate on a recording above which it is not learnt from", low=0.0
    )
    curve: bool = option(
        False, "also train with and without a teacher at 100, 30 and 10 % of the labels: seven times as long"
    )

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Train the student and write it."""
        record: Record = self._work(context).distilled(self, model, context, out)
        return record

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """The teacher's and a named student's fingerprints."""
        found: dict[str, str] = self._work(context).extra_inputs(self, context)
        return found

    def _work(self, context: Context) -> Any:
        kind = context.task.kind
        if kind not in KINDS:
            raise UnsupportedModel(f"distill teaches models of {' or '.join(KINDS)}; this data is for {kind}")
        self._refuse_foreign(kind)
        return importlib.import_module(KINDS[kind])

    def _refuse_foreign(self, kind: str) -> None:
        """Raises InvalidOption for what this kind of task would not read, were it not at its default."""
        names, instead = FOREIGN[kind]
        for spec in dataclasses.fields(self):
            if spec.name in names and getattr(self, spec.name) != spec.default:
                raise InvalidOption(f"distill: {spec.name} {instead}")
