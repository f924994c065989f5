"""resize: a smaller input. The cheapest factor of 2 is often in the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..task import Use
from . import Method, option


@dataclass(frozen=True)
class Resize(Method):
    """Take smaller images: the preprocessing and the model's own input size change together."""

    learns: ClassVar[Use] = "nothing"
    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}
    grids: ClassVar[dict[str, tuple[Any, ...]]] = {"pixels": (192, 160, 128, 96)}

    pixels: int = option(160, "height and width of the new input", low=8, high=4096, always_shown=True)
