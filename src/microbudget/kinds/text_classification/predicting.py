"""Texts to labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import BadData
from ...model import Model
from ...progress import Progress
from ...runtimes import open_session
from ...runtimes.onnx.interface import as_logits, scale_of_model
from ...runtimes.prediction import Prediction, classified
from ...runtimes.text.encoding import TEXT

AT_ONCE = 64  # texts in a call: the session answers those of one length together
SEPARATOR = "\t"  # between the two texts of a pair


def predict(model: Model, inputs: Sequence[str], progress: Progress, threads: int = 0) -> Iterator[Prediction]:
    """The label of each text, in order. A tab separates the two texts of a pair. Raises BadData for an empty text."""
    del progress
    for place, text in enumerate(inputs, 1):
        if not text.strip():
            raise BadData(f"text {place} of {len(inputs)} is empty")
    scale, session = scale_of_model(model), open_session(model, threads=threads)
    pairs = all(text.count(SEPARATOR) == 1 for text in inputs)
    try:
        for start in range(0, len(inputs), AT_ONCE):
            part = inputs[start : start + AT_ONCE]
            rows = [text.split(SEPARATOR) for text in part] if pairs else list(part)
            logits = as_logits(session.answer({TEXT: np.array(rows, np.str_)}), scale)
            yield from classified(part, logits, model.labels)
    finally:
        session.close()
