"""export: a Hugging Face folder to ONNX, checked on calibration images to answer the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import Failed, UnsupportedModel
from ..model import ONNX_NAME, Model, Record
from . import Context, Method, option

CHECKED = 16  # calibration images that both models answer
TOLERANCE = 1e-3  # of the spread of the logits


@dataclass(frozen=True)
class Export(Method):
    """Convert to ONNX: batch norm folded, any batch size, the answers compared with the original's."""

    formats: ClassVar[dict[str, str]] = {"hf": "onnx"}

    format: str = option("onnx", "the format to convert into", choices=("onnx",))

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write `model.onnx` with labels and preprocessing inside; the largest difference goes into the record."""
        import onnx

        from ..runtimes.onnx import OnnxSession, write_metadata
        from ..runtimes.torch import load_network, onnx_bytes
        from ..tasks.preprocess import Preprocessing

        if model.record.preprocessing is None:
            raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
        height, width = Preprocessing.parse(model.record.preprocessing).input_size
        network = load_network(model.path)
        proto = onnx.load_from_string(onnx_bytes(network, height, width))
        write_metadata(proto, model.labels, model.record.preprocessing)
        onnx.save(proto, str(out / ONNX_NAME))
        report = _compare(network, OnnxSession(out / ONNX_NAME, context.threads), model, context)
        context.progress.say(
            f"export    {report['examples']} images: same answers {report['same_top1']:.0%},"
            f" logits differ by {report['difference']:.1e} at most"
        )
        return replace(model.record, history={**model.record.history, "export": report})


def _compare(network: Any, session: Any, model: Model, context: Context) -> dict[str, float]:
    """Answers of both on calibration images, in batches of 1 and more. Raises Failed when they disagree."""
    import torch

    examples = context.task.examples("train")[:CHECKED]
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
