"""Recordings to transcripts, as plain text; `microbudget transcribe` has the other formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import BadData
from ...model import Model
from ...progress import Progress
from ...runtimes.prediction import Prediction
from .transcribing import Transcriber, recordings


def predict(model: Model, inputs: Sequence[str], progress: Progress, threads: int = 0) -> Iterator[Prediction]:
    """The text of each recording. inputs: files, and folders, whose recordings are taken in order.

    A recording of a folder that cannot be read is left out with a warning. Raises BadData.
    """
    found = [(path, Path(name).is_dir()) for name in inputs for _, path in recordings(Path(name), progress)]
    done = 0
    with Transcriber(model, threads=threads, progress=progress) as transcriber:
        for path, in_folder in found:
            try:
                text = transcriber.transcript(path).text
            except BadData as error:
                if not in_folder:
                    raise
                progress.warn(f"{error} (left out)")
                continue
            done += 1
            yield Prediction(str(path), text)
    if not done:
        raise BadData(f"none of the {len(found)} recordings could be read: see the warnings above")
