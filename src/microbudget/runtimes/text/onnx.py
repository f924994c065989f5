"""Text classifiers in ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..onnx import session
from ..onnx.graph import load_structure
from .encoding import TextEncoder
from .session import TextSession

if TYPE_CHECKING:
    from ...model import Model


def open_session(model: Model, *, threads: int = 0) -> TextSession:
    """Open an `onnx` Model with the tokenizer beside it. threads: 0 means all cores."""
    rounds = any(node.op_type == "DynamicQuantizeLinear" for node in load_structure(model.weights).graph.node)
    return TextSession(session.open_session(model, threads=threads), TextEncoder.of(model), alone=rounds)
