"""Photos of one's own on the page of `try`: labels with probabilities, and the photo as the model sees it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadData
from ...images.photos import UnreadableImage, read_photo, size_of
from ...images.preprocess import Preprocessing
from ...judge.worker import Worker
from ...model import Model
from ...trying.asking import MEGABYTE, Answer, Medium
from ...trying.keeping import folder_name, keep_file
from .network import check_preprocessing
from .predicting import answered, fed

MEDIUM = Medium("photo", "photo", "label", 30 * MEGABYTE)
MOST_PIXELS = 100_000_000  # 300 MB of RGB; a telephone's largest photos have 50 million
SHOWN = 5  # labels
SIDE = 320  # pixels of the picture on the page, at most


def check(given: str) -> None:
    """Raise BadData for a file that is no photo, or has too many pixels."""
    try:
        width, height = size_of(Path(given))
    except UnreadableImage as error:
        raise BadData(f"this is no photo that can be read: {error}") from error
    if width * height > MOST_PIXELS:
        raise BadData(f"the photo has {width} x {height} pixels; at most {MOST_PIXELS:,} are taken: make it smaller")


def answers(worker: Worker, model: Model, given: str) -> Iterator[Answer]:
    """The labels that the model finds most likely. Raises BadData, UnsupportedModel."""
    check_preprocessing(model)
    how = Preprocessing.parse(model.record.preprocessing or {})
    try:
        pixels = how.geometry(read_photo(Path(given)))
    except UnreadableImage as error:
        raise BadData(f"this is no photo that can be read: {error}") from error
    inputs = fed(model, how.normalize(pixels[None]))
    started = time.perf_counter()
    outputs = worker.answer(inputs)
    seconds = time.perf_counter() - started
    (found,) = answered(model, [given], outputs)
    height, width = pixels.shape[:2]
    yield Answer(
        labels=tuple(found.probabilities.items())[:SHOWN],
        picture=_png(pixels),
        about_picture=f"as it sees it, {width} x {height} pixels",
        seconds=seconds,
    )


def warm(worker: Worker, model: Model) -> None:
    """The first answer of a process takes several times as long as the others."""
    how = Preprocessing.parse(model.record.preprocessing or {})
    worker.answer(fed(model, np.zeros((1, 3, *how.input_size), np.float32)))


def keep(folder: Path, given: str, right: str) -> Path:
    """Into the folder of its label, as it was."""
    return keep_file(Path(given), folder / folder_name(right), folder)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream, image = io.BytesIO(), Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    image.save(stream, "PNG")
    return stream.getvalue()
