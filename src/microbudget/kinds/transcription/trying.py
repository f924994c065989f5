"""One's own voice on the page of `try`: each model's transcript, with the words that differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...audio import sound
from ...errors import BadData
from ...judge.worker import Worker
from ...model import Model
from ...report.words import as_spoken as alike
from ...trying.asking import MEGABYTE, Answer, Medium
from ...trying.keeping import keep_file, keep_row, one_line
from ...units import format_seconds

__all__ = ["MEDIUM", "alike", "answers", "check", "keep"]
LONGEST_S = 600.0
MEDIUM = Medium("recording", "recording", "transcript", 120 * MEGABYTE, writes=True)


def check(given: str) -> None:
    """Raise BadData for a file that is no recording, or lasts too long."""
    path = Path(given)
    try:
        seconds = sound.describe(path, LONGEST_S).seconds
    except BadData as error:  # names the folder of uploads
        raise BadData(str(error).replace(str(path), path.name)) from error
    if seconds > LONGEST_S:
        raise BadData(f"the recording lasts {seconds:,.0f} s; at most {format_seconds(LONGEST_S)} are taken: cut it")
    if not seconds:
        raise BadData(f"{path.name} holds no sound")


def answers(worker: Worker, model: Model, given: str) -> Iterator[Answer]:
    """What the model hears."""
    del model
    path = Path(given)
    length = sound.describe(path).seconds
    started = time.perf_counter()
    text = str(worker.answer({"file": np.array([given], np.str_)})[0])
    seconds = time.perf_counter() - started
    yield Answer(text=text.strip(), seconds=seconds, speed=f"{length / seconds:.1f} times real time")


def keep(folder: Path, given: str, right: str) -> Path:
    """The recording, with its transcript in a metadata.csv."""
    text = one_line(right)
    path = keep_file(Path(given), folder, folder)
    keep_row(folder / "metadata.csv", {"file_name": path.name, "transcription": text})
    return path
