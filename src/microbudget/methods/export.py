"""export: a Hugging Face folder to ONNX (images) or GGUF (language), checked to answer the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import Failed, InvalidOption, UnsupportedModel
from ..model import GGUF_NAME, ONNX_NAME, Model, Record, backbone_of
from . import Context, Method, option

CHECKED = 16  # calibration images that both models answer
TOLERANCE = 1e-3  # of the spread of the logits


@dataclass(frozen=True)
class Export(Method):
    """Convert to the format of a fast runtime: ONNX, or GGUF for language models; the result is compared."""

    formats: ClassVar[dict[str, str]] = {"hf": "onnx"}

    format: str = option("onnx", "the format to convert into", choices=("onnx", "gguf"))
    dtype: str | None = option(
        None, "gguf: type of the matrices, else float16", choices=("float32", "float16", "bfloat16")
    )

    def output_format(self, input_format: str) -> str:
        """The format that comes out. Raises InvalidRecipe when the input's format does not fit."""
        super().output_format(input_format)
        return self.format

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write `model.onnx` or `model.gguf`; what the comparison found goes into the record."""
        if self.format == "gguf":
            return _to_gguf(model, context, out, self.dtype or "float16")
        if self.dtype is not None:
            raise InvalidOption(f"export: dtype is for format='gguf'; ONNX is written in float32, not {self.dtype}")
        return self._to_onnx(model, context, out)

    def _to_onnx(self, model: Model, context: Context, out: Path) -> Record:
        """Batch norm folded, any batch size, labels and preprocessing inside."""
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


def _to_gguf(model: Model, context: Context, out: Path, dtype: str) -> Record:
    """Tensor by tensor, without torch; the tokenizer is run against the original's before anything is written."""
    from ..runtimes import convert_gguf, token_check

    if backbone_of(model.path) is not None:
        raise UnsupportedModel(
            f"{model.path} is an adapter: export it with its backbone, as lora(merge=True) writes it"
        )
    conversion, check = token_check.settle(convert_gguf.plan(model.path, dtype))
    if check.checked and not check.same:
        context.progress.warn(
            f"llama.cpp's SentencePiece cuts some text differently from the original, such as {check.example!r}"
        )
    conversion.write(out / GGUF_NAME, context.progress)
    report = {
        "format": "gguf",
        "dtype": dtype,
        "size_bytes": conversion.layout.size_bytes,
        "parameters": sum(tensor.parameters for tensor in conversion.layout.tensors),
        "pre_tokenizer": check.pre,
        "same_tokens": check.same if check.checked else None,
    }
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
