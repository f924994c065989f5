"""export: a Hugging Face folder to the format of a fast runtime, checked to answer the same."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from ..errors import InvalidOption
from ..model import Model
from ..task import Use
from . import Context, Method, option


@dataclass(frozen=True)
class Export(Method):
    """Convert to the format of a fast runtime: ONNX, GGUF for language models, CTranslate2 for speech; compared."""

    revision: ClassVar[int] = 2  # a head of its own is kept beside a flag that says tied
    learns: ClassVar[Use] = "nothing"
    formats: ClassVar[dict[str, str]] = {"hf": "onnx"}

    format: str = option("onnx", "the format to convert into", choices=("onnx", "gguf", "ct2"))
    dtype: str | None = option(
        None,
        "gguf: type of the matrices, else float16 where they fit",
        choices=("float32", "float16", "bfloat16"),
    )

    type: str | None = option(
        None,
        "ct2: type of the weights, else int8; int8_float16 keeps what stays float in 16 bits",
        choices=("int8", "int8_float16", "int8_float32", "float32"),
    )

    def output_format(self, input_format: str) -> str:
        """The format that comes out. Raises InvalidRecipe when the input's format does not fit."""
        super().output_format(input_format)
        return self.format

    def part(self, context: Context, model: Model | None = None) -> ModuleType:
        """As of every method. Raises InvalidOption for a format that is not the kind's, too."""
        if self.format == "onnx" and self.type is not None:
            raise InvalidOption(f"export: type is for format='ct2'; {self.format} takes none")
        if self.format == "onnx" and self.dtype is not None:
            raise InvalidOption(f"export: dtype is for format='gguf'; ONNX is written in float32, not {self.dtype}")
        found = super().part(context, model)
        if self.format != found.FORMAT:
            raise InvalidOption(f"export: {found.WHAT} is exported with format={found.FORMAT!r}, not {self.format!r}")
        return found
