"""export of a Whisper: a Hugging Face folder to CTranslate2, compared on calibration recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...methods import Context
from ...methods.export import Export
from ...model import Model, Record
from ...runtimes.ct2 import convert
from ...runtimes.ct2 import session as ct2
from ...runtimes.hf import whisper as hf
from ...runtimes.speech.languages import name_of
from ...runtimes.speech.whisper import Prompt, Vocabulary
from .data import rows
from .task import LONG_S

FORMAT, WHAT = "ct2", "a speech model"
CHECKED = 16  # calibration recordings that both models transcribe


def apply(step: Export, model: Model, context: Context, out: Path) -> Record:
    """Converted from the folder alone; then both models transcribe some calibration recordings."""
    weights = step.type or "int8"
    report = convert.convert(model.path, out, weights)
    original = hf.open_session(model, threads=context.threads)  # after the conversion, which takes its own memory
    inputs = recordings(context, original.window_s)
    if convert.needs_language(out) and (language := original.language(inputs)) is not None:
        convert.settle_language(out, language)
        report |= {"language": language, "runtimes": _settled(language)}
        context.progress.warn(report["runtimes"])
    if words := Prompt.of(model.path, Vocabulary(model.path), multilingual=False).words:
        notes = [str(report["runtimes"])] if "runtimes" in report else []
        report |= {"runtimes": [*notes, _about_words(len(words))]}
        context.progress.warn(_about_words(len(words)))
    expected = _texts(original, inputs)
    written = _texts(ct2.open_session(Model(out, "ct2", model.record), threads=context.threads), inputs)
    same = sum(a == b for a, b in zip(expected, written, strict=True)) / max(1, len(inputs))
    context.progress.detail(f"export    {len(inputs)} recordings: the same text for {same:.0%}, {weights}")
    report = {**report, "examples": len(inputs), "same_texts": same}
    return replace(model.record.with_report("export", report), task=context.task.kind)


def _texts(session: Any, inputs: list[dict[str, Any]]) -> list[str]:
    """What a session transcribes; it is closed, so that only one model is open at a time."""
    found = [str(session.answer(row)[0]) for row in inputs]
    session.close()
    return found


def _settled(language: str) -> str:
    """The note on a model of many languages that transcribes one from now on, for the log and the card."""
    return (
        f"all audio is taken for {name_of(language)} ({language}), the language of most of the recordings: with a"
        " trimmed vocabulary CTranslate2 cannot detect languages. For another one use --language"
    )


def _about_words(count: int) -> str:
    """The note on words that fine-tuning added, for the log and the card."""
    return (
        f"{count} tokens that fine-tuning added lie behind Whisper's timestamps: CTranslate2 and microbudget"
        " write them, faster-whisper takes every such token for a timestamp and leaves it out"
    )


def recordings(context: Context, window_s: float) -> list[dict[str, Any]]:
    """What both models transcribe to be compared: recordings up to a minute, or the first window of longer ones."""
    task: Any = context.task
    examples = context.compared
    short = [example for example in examples if task.seconds(example) <= LONG_S]
    if short:
        return [task.collate([example], {}) for example in short[:CHECKED]]
    return [rows([task.waveform(example, window_s)]) for example in examples[:CHECKED]]
