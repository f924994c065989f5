"""export of a language model: a Hugging Face folder to GGUF, with its tokenizer checked against llama.cpp's."""

from __future__ import annotations

from pathlib import Path

from ...errors import UnsupportedModel
from ...methods import Context
from ...methods.export import Export
from ...model import GGUF_NAME, Model, Record, backbone_of
from ...runtimes.gguf import convert, token_check

FORMAT, WHAT = "gguf", "a language model"


def apply(step: Export, model: Model, context: Context, out: Path) -> Record:
    """Tensor by tensor, without torch; first llama.cpp's tokens are compared with the original's."""
    if backbone_of(model.path) is not None:
        raise UnsupportedModel(
            f"{model.path} is an adapter: export it with its backbone, as lora(merge=True) writes it"
        )
    dtype = step.dtype or "float16"
    conversion, check = token_check.settle(convert.plan(model.path, dtype))
    if check.checked and not check.same:
        context.progress.warn(
            f"llama.cpp's SentencePiece splits some text differently from the original, such as {check.example!r}"
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
    return model.record.with_report("export", report)
