"""The page of photo classifiers: photos with both models' answers, and which ones to label."""

from __future__ import annotations

from pathlib import Path

from ...report.data import reopened, split_sizes
from ...report.gallery import Gallery, gallery
from ...report.outcome import Outcome
from ...report.part import ONNX_LINES, Part, Section, Usage, Words
from .data import ImageTask
from .thumbnail import thumbnail

WORDS = Words(
    example="photo",
    examples="photos",
    timed="a photo",
    timing="one photo (batch 1), from the prepared input to the logits",
    interval="Wilson's 95 % interval",
)
PREDICT = "predict.py"
PREDICT_LINES = """\
from predict import classify, load, prepare, upright_rgb  # predict.py needs onnxruntime, NumPy and Pillow
session, labels, plan = load("model.onnx")
probabilities = classify(session, prepare(upright_rgb("photo.jpg"), plan), plan)
print(labels[probabilities.argmax()])"""
HF_LINES = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
from PIL import Image
model, processor = AutoModelForImageClassification.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
logits = model(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")).logits[0]
print(model.config.id2label[int(logits.argmax())])"""


def usage(folder: Path, model_format: str) -> Usage:
    """By the script where it was delivered, else by the runtime of the format."""
    if (folder / PREDICT).is_file():
        hint = "needs onnxruntime, NumPy and Pillow; prints path, label, probability"
        return Usage("python predict.py PHOTO...", hint, PREDICT_LINES)
    return Usage(lines=ONNX_LINES if model_format == "onnx" else HF_LINES)


def part(outcome: Outcome) -> Part:
    """The photos worth a look and those worth a label, where the data are still there."""
    with reopened(outcome) as (task, missing):
        if not isinstance(task, ImageTask):
            return Part(_sections(Gallery(WORDS, missing)))
        photos = gallery(outcome, task, WORDS, lambda example: thumbnail(task.path_of(example)))
        return Part(_sections(photos), warnings=tuple(task.warnings), split_sizes=split_sizes(task))


def _sections(photos: Gallery) -> tuple[Section, ...]:
    return (
        Section("photos", "Photos", "Reference and shipped model, photo by photo", photos),
        Section("label", "What to label", _label_heading(photos), photos),
    )


def _label_heading(photos: Gallery) -> str:
    if photos.missing or not photos.to_label:
        return "What to label"
    count = len(photos.to_label)
    return f"Label these {count}" if photos.pool_split == "unlabelled" else f"Labels to check: {count}"
