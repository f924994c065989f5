"""Runtimes: open a Model and answer a batch. One small interface over ONNX Runtime, OpenVINO, torch and llama.cpp.

Import a runtime's module only when a model of its format is opened: a worker process that times an ONNX file
must not pay for torch. A module whose library is loaded with the first model has `load_library` to load it before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidOption, UnsupportedModel
from ..kind import find_facet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..model import Model

FOR_FORMAT: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "openvino"),
    "hf": ("torch",),
    "gguf": ("gguf",),
    "ct2": ("ct2",),
}
MODULES = {
    "onnx": "onnx.session",
    "openvino": "openvino",
    "torch": "hf.image_classifier",
    "gguf": "gguf.session",
    "ct2": "ct2.session",
}


class Session(Protocol):
    """An open model. Threads that wait must not spin, so that a waiting session does not disturb its neighbour."""

    runtime: str  # name and version, "onnxruntime 1.31.1"

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The model's output for a batch: logits (batch, classes) for a classifier; see `language`, `whisper`."""
        ...

    def close(self) -> None:
        """Release the model's memory."""
        ...


def default_runtime(model_format: str) -> str:
    """The first choice of runtime for a format, by its module's name."""
    if model_format not in FOR_FORMAT:
        raise UnsupportedModel(f"no runtime opens format {model_format!r}; known: {', '.join(FOR_FORMAT)}")
    return FOR_FORMAT[model_format][0]


def module_of(runtime: str, kind: str | None = None) -> str:
    """The module of a runtime; of a kind of model the one that the kind's `network.py` names in its place."""
    network = find_facet(kind, "network") if kind else None  # none for a kind of the user's own
    own = network.RUNTIMES if network else {}
    return f"{__name__}.{own.get(runtime, MODULES[runtime])}"


def open_session(model: Model, *, threads: int = 0, runtime: str | None = None) -> Session:
    """Open a model with a runtime by its name ("onnx", "openvino", "torch"), by default the first of its format.

    threads: 0 means all cores. Raises UnsupportedModel for an unknown format, InvalidOption when the runtime does not
    open the format.
    """
    chosen = runtime or default_runtime(model.format)
    if chosen not in FOR_FORMAT[model.format]:
        known = ", ".join(FOR_FORMAT[model.format])
        raise InvalidOption(f"runtime {chosen!r} does not open {model.format!r}; runtimes that do: {known}")
    session: Session = importlib.import_module(module_of(chosen, model.task)).open_session(model, threads=threads)
    return session
