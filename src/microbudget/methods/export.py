"""export: a Hugging Face folder to ONNX (images), GGUF (language) or CTranslate2 (speech), checked to say the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import Failed, InvalidOption, UnsupportedModel
from ..model import GGUF_NAME, ONNX_NAME, TRANSCRIPTION, Model, Record, backbone_of
from ..runtimes.speech.languages import name_of
from . import Context, Method, option

CHECKED = 16  # calibration images that both models answer
TOLERANCE = 1e-3  # of the spread of the logits


@dataclass(frozen=True)
class Export(Method):
    """Convert to the format of a fast runtime: ONNX, GGUF for language models, CTranslate2 for speech; compared."""

    formats: ClassVar[dict[str, str]] = {"hf": "onnx"}

    format: str = option("onnx", "the format to convert into", choices=("onnx", "gguf", "ct2"))
    dtype: str | None = option(
        None, "gguf: type of the matrices, else float16", choices=("float32", "float16", "bfloat16")
    )

    type: str | None = option(None, "ct2: type of the weights, else int8", choices=("int8", "int8_float32", "float32"))

    def output_format(self, input_format: str) -> str:
        """The format that comes out. Raises InvalidRecipe when the input's format does not fit."""
        super().output_format(input_format)
        return self.format

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write `model.onnx` or `model.gguf`; what the comparison found goes into the record."""
        if self.format == "gguf":
            return _to_gguf(model, context, out, self.dtype or "float16")
        if self.format == "ct2":
            return _to_ct2(model, context, out, self.type or "int8")
        if model.task == TRANSCRIPTION:
            raise InvalidOption(f"export: a speech model is exported with format='ct2', not {self.format!r}")
        if self.type is not None:
            raise InvalidOption(f"export: type is for format='ct2'; {self.format} takes none")
        if self.dtype is not None:
            raise InvalidOption(f"export: dtype is for format='gguf'; ONNX is written in float32, not {self.dtype}")
        return self._to_onnx(model, context, out)

    def _to_onnx(self, model: Model, context: Context, out: Path) -> Record:
        """Batch norm folded, any batch size, labels and preprocessing inside."""
        import onnx

        from ..images.preprocess import Preprocessing
        from ..runtimes.hf.torch import load_network, onnx_bytes
        from ..runtimes.onnx.session import OnnxSession, write_metadata

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
    from ..runtimes.gguf import convert as convert_gguf
    from ..runtimes.gguf import token_check

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


def _to_ct2(model: Model, context: Context, out: Path, type: str) -> Record:
    """Written from the folder alone; then both models hear some calibration recordings."""
    from ..runtimes.ct2 import convert as convert_ct2
    from ..runtimes.ct2 import session as ct2
    from ..runtimes.hf import whisper as whisper_torch

    if model.task != TRANSCRIPTION:
        raise UnsupportedModel(f"{model.path} is no Whisper: format='ct2' is for speech models")
    theirs = whisper_torch.open_session(model, threads=context.threads)
    inputs = _recordings(context.task, theirs.window_s)
    report = convert_ct2.convert(model.path, out, type)
    if convert_ct2.needs_language(out) and (language := theirs.language(inputs)) is not None:
        convert_ct2.settle_language(out, language)
        report |= {"language": language, "runtimes": _settled(language)}
        context.progress.warn(report["runtimes"])
    sessions = (theirs, ct2.open_session(Model(out, "ct2", model.record), threads=context.threads))
    texts = [[str(session.answer(one)[0]) for one in inputs] for session in sessions]
    for session in sessions:
        session.close()
    same = sum(a == b for a, b in zip(*texts, strict=True)) / max(1, len(inputs))
    report = {**report, "examples": len(inputs), "same_texts": same}
    context.progress.say(f"export    {len(inputs)} recordings: the same text for {same:.0%}, {type}")
    return replace(model.record, task=TRANSCRIPTION, history={**model.record.history, "export": report})


def _settled(language: str) -> str:
    """What is told of a model of many languages that now knows which it hears, in the log and in the card."""
    return (
        f"what it hears is taken for {name_of(language)} ({language}), which most of the recordings are in: with a"
        " trimmed vocabulary CTranslate2 cannot tell languages. For another one say --language"
    )


def _recordings(task: Any, window_s: float) -> list[dict[str, Any]]:
    """What both models hear to be compared: recordings up to a minute, or what a window hears of longer ones."""
    from ..kinds.transcription.data import rows
    from ..task import LONG_S

    examples = task.examples("train")
    short = [example for example in examples if task.seconds(example) <= LONG_S]
    if short:
        return [task.collate([example], {}) for example in short[:CHECKED]]
    return [rows([task.waveform(example, window_s)]) for example in examples[:CHECKED]]


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
