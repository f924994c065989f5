"""Text classifiers in OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import openvino
from .encoding import TextEncoder
from .session import TextSession

if TYPE_CHECKING:
    from ...model import Model


def open_session(model: Model, *, threads: int = 0) -> TextSession:
    """Open an `onnx` Model with the tokenizer beside it. threads: 0 means all cores."""
    return TextSession(openvino.open_session(model, threads=threads), TextEncoder.of(model), alone=True)
