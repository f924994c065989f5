"""export of a language model: a Hugging Face folder to GGUF, with its tokenizer checked against llama.cpp's."""

from __future__ import annotations

from pathlib import Path

from ...errors import UnsupportedModel
from ...methods import Context
from ...methods.export import Export
from ...model import GGUF_NAME, Model, Record, backbone_of
from ...runtimes.gguf import convert, token_check
from . import agreement
from .chats import ChatTask
from .questions.task import QuestionTask
from .text import TextTask

FORMAT, WHAT = "gguf", "a language model"


def apply(step: Export, model: Model, context: Context, out: Path) -> Record:
    """Tensor by tensor; first llama.cpp's tokens are compared with the original's, then its answers with torch's."""
    if backbone_of(model.path) is not None:
        raise UnsupportedModel(
            f"{model.path} is an adapter: export it with its backbone, as lora(merge=True) writes it"
        )
    conversion, check = token_check.settle(convert.plan(model.path, step.dtype or "float16"))
    if check.checked and not check.same:
        context.progress.warn(
            f"llama.cpp's SentencePiece splits some text differently from the original, such as {check.example!r}"
        )
    dtype = _write(conversion, step.dtype, out / GGUF_NAME, context)
    found = agreement.check(model.path, out / GGUF_NAME, _texts(context), dtype)
    report = {
        "format": "gguf",
        "dtype": dtype,
        "size_bytes": conversion.layout.size_bytes,
        "parameters": sum(tensor.parameters for tensor in conversion.layout.tensors),
        "pre_tokenizer": check.pre,
        "same_tokens": check.same if check.checked else None,
        "kl_of_source": found,
    }
    return model.record.with_report("export", report)


def _write(conversion: convert.Conversion, chosen: str | None, path: Path, context: Context) -> str:
    """Write the file; the dtype comes back. Where none was chosen and float16 cannot hold the weights, a wider one."""
    try:
        conversion.write(path, context.progress)
    except convert.BeyondFloat16 as error:
        if chosen is not None:
            raise
        conversion, dtype = convert.wider(conversion), convert.WIDER
        context.progress.warn(f"{str(error).partition(':')[0]}: exported in {dtype}")
        conversion.write(path, context.progress)
        return dtype
    return chosen or "float16"


def _texts(context: Context) -> list[str]:
    """A few texts to compare on: of the training data, else those that tokenizers are compared on."""
    examples = context.compared if isinstance(context.task, TextTask | ChatTask | QuestionTask) else ()
    if not examples or not isinstance(context.task, TextTask | ChatTask | QuestionTask):
        return list(token_check.PROBES)
    places = sorted({0, len(examples) // 2, len(examples) - 1})
    return [context.task.text(examples[place]) for place in places]
