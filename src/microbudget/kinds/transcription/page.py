"""The page of speech models: recordings to listen to with every model's transcript, and long audio."""

from __future__ import annotations

from pathlib import Path

from ...report.data import reopened, split_sizes
from ...report.outcome import Outcome
from ...report.part import ONNX_LINES, Part, Section, Usage, Words
from ...units import format_seconds
from .data import TranscriptionTask
from .players import Players, players

WORDS = Words(
    example="recording",
    examples="recordings",
    timed="a recording",
    timing="one recording of median length (batch 1), from waveform to text",
    interval="a bootstrap 95 % interval over recordings",
)
CT2_LINES = """\
from faster_whisper import WhisperModel  # it needs the full path of the folder
model = WhisperModel("/path/to/best", device="cpu", compute_type="default")
segments, _ = model.transcribe("recording.flac", beam_size=1)
print(" ".join(segment.text for segment in segments))"""
HF_LINES = """\
import soundfile
from transformers import pipeline
samples, rate = soundfile.read("recording.flac", dtype="float32")  # 16 kHz, mono
print(pipeline("automatic-speech-recognition", ".")({"raw": samples, "sampling_rate": rate})["text"])"""


def usage(_folder: Path, model_format: str) -> Usage:
    """By our own command, or faster-whisper for a CTranslate2 folder."""
    shell = "microbudget transcribe RECORDING --model ."
    if model_format == "ct2":
        return Usage(shell, 'or WhisperModel("/full/path/of/this/folder") of faster-whisper', CT2_LINES)
    return Usage(shell, lines={"onnx": ONNX_LINES, "hf": HF_LINES}.get(model_format, ""))


def part(outcome: Outcome) -> Part:
    """The recordings worth listening to, where the data are still there."""
    sentences = tuple(filter(None, (_long_form(outcome),)))
    with reopened(outcome) as (task, missing):
        if not isinstance(task, TranscriptionTask):
            return Part(_sections(Players(missing)), sentences=sentences)
        return Part(
            _sections(players(outcome, task)),
            sentences=sentences,
            warnings=tuple(task.warnings),
            split_sizes=split_sizes(task),
        )


def _sections(found: Players) -> tuple[Section, ...]:
    return (Section("recordings", "Recordings", "Recordings, and what each model transcribes", found),)


def _long_form(outcome: Outcome) -> str:
    """The word errors on long audio, on test; "" where they were not measured or the reference ships."""
    rows = [None if row is None else row.test for row in (outcome.smaller, outcome.reference)]
    ours, theirs = ({} if test is None else test.extra.get("long_form") or {} for test in rows)
    if not ours:
        return ""
    against = f" against {theirs['wer'] * 100:.1f} % of the reference" if theirs else ""
    what = f"{ours['joined']} utterances joined to" if ours["joined"] else f"{ours['recordings']} recordings of"
    return f"On long audio, {what} {format_seconds(ours['seconds'])}, the wer is {ours['wer'] * 100:.1f} %{against}."
