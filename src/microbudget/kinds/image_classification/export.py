"""export of an image classifier: a Hugging Face folder to ONNX, compared on calibration images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...errors import Failed
from ...images.preprocess import Preprocessing
from ...methods import Context
from ...methods.export import Export
from ...model import ONNX_NAME, Model, Record
from ...runtimes.hf import image_classifier as hf
from ...runtimes.onnx.session import OnnxSession, write_metadata
from .teaching import preprocessing_of

FORMAT, WHAT = "onnx", "an image classifier"
CHECKED = 16  # calibration images that both models answer
TOLERANCE = 1e-3  # of the spread of the logits


def apply(step: Export, model: Model, context: Context, out: Path) -> Record:
    """Batch norm folded, any batch size, labels and preprocessing inside."""
    del step
    preprocessing = preprocessing_of(model)
    height, width = Preprocessing.parse(preprocessing).input_size
    network = hf.load_network(model.path)
    proto = onnx.load_from_string(hf.onnx_bytes(network, height, width))
    write_metadata(proto, model.labels, preprocessing)
    onnx.save(proto, str(out / ONNX_NAME))
    report = _compare(network, OnnxSession(out / ONNX_NAME, context.threads), model, context)
    context.progress.detail(
        f"export    {report['examples']} images: same answers {report['same_top1']:.0%},"
        f" logits differ by {report['difference']:.1e} at most"
    )
    return model.record.with_report("export", report)


def _compare(network: Any, session: Any, model: Model, context: Context) -> dict[str, float]:
    """Answers of both on calibration images, in batches of 1 and more. Raises Failed when they disagree."""
    examples = context.compared[:CHECKED]
    inputs = context.task.collate(examples, model.record.preprocessing or {})
    with torch.inference_mode():
        expected = network(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    single = [session.answer({name: array[:1] for name, array in inputs.items()})]
    rest = [session.answer({name: array[1:] for name, array in inputs.items()})] if len(examples) > 1 else []
    answered = np.concatenate(single + rest)
    difference = float(np.abs(answered - expected).max())
    same = float((answered.argmax(1) == expected.argmax(1)).mean())
    if not difference <= TOLERANCE * max(float(np.abs(expected).max()), 1.0):
        raise Failed(
            f"the exported model answers differently: logits differ by up to {difference:.3g}, the same class for"
            f" {same:.0%} of {len(examples)} images. The architecture cannot be exported by tracing"
        )
    return {"examples": len(examples), "difference": difference, "same_top1": same}
