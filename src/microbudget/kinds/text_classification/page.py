"""The page of text classifiers: texts with both models' answers, and which ones to label."""

from __future__ import annotations

from pathlib import Path

from ...model import Record
from ...report.data import reopened, split_sizes
from ...report.gallery import Gallery, gallery
from ...report.outcome import Outcome
from ...report.part import Part, Section, Usage, Words
from ...runtimes.text.encoding import PROMPT
from ...task import Example
from .data import TextTask
from .floor import Floor, floor
from .floor import opening as opening

WORDS = Words(
    example="text",
    examples="texts",
    timed="a text",
    timing="one text of middle length (batch 1), from the text to the logits",
    interval="Wilson's 95 % interval",
)
PREDICT = "predict.py"
SHOWN = 600  # characters of a text
PREDICT_LINES = """\
from predict import classify, load  # predict.py needs onnxruntime, NumPy and tokenizers
model = load("model.onnx")
label, probability = classify(model, "a text")"""
HF_LINES = """\
from transformers import pipeline
classify = pipeline("text-classification", ".")
print(classify("a text"))"""
POOLED_LINES = """\
from sentence_transformers import SentenceTransformer
labels = open("labels.txt", encoding="utf-8").read().splitlines()
logits = SentenceTransformer(".").encode("a text")
print(labels[logits.argmax()])"""
PROMPTED_LINES = """\
import numpy as np
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
model = load(".")  # a language model; its prompt is in microbudget.json
logits = open_session(model).answer({"text": np.array(["a text"])})
print(model.labels[logits[0].argmax()])"""


def usage(folder: Path, model_format: str) -> Usage:
    """By the script where it was delivered, else by the library of the format."""
    record = Record.read(folder)
    if record is not None and PROMPT in (record.preprocessing or {}):
        return Usage(lines=PROMPTED_LINES)
    if (folder / PREDICT).is_file():
        hint = "needs onnxruntime, NumPy and tokenizers; prints label, probability, text"
        return Usage("python predict.py TEXT...", hint, PREDICT_LINES)
    return Usage(lines=POOLED_LINES if (folder / "modules.json").is_file() else HF_LINES)


def part(outcome: Outcome) -> Part:
    """The texts worth a look and those worth a label, where the data are still there."""
    with reopened(outcome) as (task, missing):
        if not isinstance(task, TextTask):
            return Part(_sections(Gallery(WORDS, missing), floor(outcome, None)))
        shown = task

        def show(example: Example) -> str:
            text = " ▏ ".join(shown.text_of(example))
            return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

        texts = gallery(outcome, task, WORDS, show)
        return Part(
            _sections(texts, floor(outcome, task)), warnings=tuple(task.warnings), split_sizes=split_sizes(task)
        )


def _sections(texts: Gallery, found: Floor | None) -> tuple[Section, ...]:
    heading = "What to label"
    if not texts.missing and texts.to_label:
        count = len(texts.to_label)
        heading = f"Label these {count}" if texts.pool_split == "unlabelled" else f"Labels to check: {count}"
    return (
        *([] if found is None else [Section("floor", "Without a network", "What needs no network", found)]),
        Section("texts", "Texts", "Reference and shipped model, text by text", texts),
        Section("label", "What to label", heading, texts),
    )
