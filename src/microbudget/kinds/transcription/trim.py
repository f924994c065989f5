"""trim of a Whisper: the transcripts that decide which tokens stay, and what opens the trimmed model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...methods import Context
from ...model import Model
from ...runtimes.speech.tokenizer import read_json
from ...runtimes.speech.whisper import MULTILINGUAL

if TYPE_CHECKING:
    from .suppression import Suppression


def texts(model: Model, context: Context) -> Iterable[str]:
    """The transcripts of the training recordings; where there is none, the one that the model itself writes."""
    task: Any = context.task
    examples = [*task.examples("train"), *task.examples("unlabelled")]
    transcripts = [task.text(example) for example in examples]
    yield from (text for text in transcripts if text is not None)
    missing = [example for example, text in zip(examples, transcripts, strict=True) if text is None]
    if missing:
        from .pseudo_labels import pseudo_labels

        labels = pseudo_labels(model, missing, context)
        yield from (labels.text(example) for example in missing)


def losses(model: Model, context: Context) -> Suppression:
    """What smaller vocabularies cost on recordings of the task. Raises BadData, OutOfTime."""
    from .suppression import Suppression

    return Suppression(model, context)


def runtimes(folder: Path, rows: int) -> list[str]:
    """What opens the trimmed model as it is, for its card. folder, rows: of the model before, and of its embedding.

    A model that was trimmed before is known to be of many languages by its settings.
    """
    if not read_json(folder / "generation_config.json").get("is_multilingual", rows >= MULTILINGUAL):
        return [
            "transformers, CTranslate2 and faster-whisper take the trimmed vocabulary as it is (an English model:"
            " its prompt has no language)"
        ]
    return [
        "transformers and CTranslate2 take the trimmed vocabulary as it is: language and task are in the prompt",
        f"faster-whisper calls a model multilingual by its {MULTILINGUAL:,} entries, and would leave the language out"
        " of the prompt: set it explicitly, as docs/whisper.md shows, or use `microbudget transcribe`",
    ]
