"""quantize: weights and activations as 8-bit integers, calibrated on the user's own images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from ...errors import BadData
from ...model import ONNX_NAME, Model, Record
from ...tasks import Example, Task
from .. import Context, Method, option


@dataclass(frozen=True)
class Quantize(Method):
    """8-bit integers in place of floats: a quarter of the size, and faster where the processor has int8 arithmetic."""

    formats: ClassVar[dict[str, str]] = {"onnx": "onnx"}

    bits: int = option(8, "bits of weights and activations", choices=(8,))
    samples: int = option(128, "calibration images at most, from the train split", low=1, high=100_000)

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Calibrate, round and write `model.onnx` (QDQ form, weights per channel)."""
        import onnx

        from ...runtimes.onnx import write_metadata
        from .slim import slim

        calibration = context.task.examples("train")[: self.samples]
        if not calibration:
            raise BadData("no training images to calibrate on: quantize needs some, without labels")
        path = out / ONNX_NAME
        with TemporaryDirectory(dir=out) as scratch:
            _quantize_static(model, context.task, calibration, path, Path(scratch))
        proto = onnx.load(str(path))
        slim(proto)
        write_metadata(proto, model.labels, model.record.preprocessing)
        onnx.save(proto, str(path))
        seen = tuple(sorted({*model.record.seen, *(example.key for example in calibration)}))
        history = {**model.record.history, "quantize": {"bits": self.bits, "samples": len(calibration)}}
        return replace(model.record, seen=seen, history=history)


def _quantize_static(model: Model, task: Task, calibration: Sequence[Example], path: Path, scratch: Path) -> None:
    """onnxruntime's quantizer with the settings that pay: U8 activations, S8 weights per channel, QDQ."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    prepared = scratch / "prepared.onnx"
    quant_pre_process(str(model.weights), str(prepared), skip_symbolic_shape=True)
    ort.quantize_static(
        str(prepared),
        str(path),
        _Reader(task, calibration, model.record.preprocessing or {}),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
        calibrate_method=ort.CalibrationMethod.MinMax,
    )


class _Reader:
    """Calibration batches in the form that onnxruntime's quantizer asks for; one image at a time."""

    def __init__(self, task: Task, examples: Sequence[Example], preprocessing: dict[str, Any]) -> None:
        self._batches: Iterator[dict[str, Any]] = (task.collate([example], preprocessing) for example in examples)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None at the end."""
        return next(self._batches, None)
