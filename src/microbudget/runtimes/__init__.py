"""Runtimes: open a Model and answer a batch. One small interface over ONNX Runtime, OpenVINO, torch and llama.cpp.

Import a runtime's module only when a model of its format is opened: a worker process that times an ONNX file
must not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidOption, UnsupportedModel
from ..model import LANGUAGE_MODELLING, TRANSCRIPTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..model import Model
    from .speech.whisper import WhisperSession

FOR_FORMAT: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "openvino"),
    "hf": ("torch",),
    "gguf": ("gguf",),
    "ct2": ("ct2",),
}
# Where a runtime has another module for a kind of task than for images.
MODULES = {"onnx": "onnx.session", "torch": "hf.torch", "gguf": "gguf.session", "ct2": "ct2.session"}
FOR_TASK = {("torch", LANGUAGE_MODELLING): "hf.causal", ("torch", TRANSCRIPTION): "hf.whisper"}


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


def module_of(runtime: str, task: str | None = None) -> str:
    """The module of a runtime, below this package, for a kind of task."""
    return FOR_TASK.get((runtime, task or ""), MODULES.get(runtime, runtime))


def open_session(model: Model, *, threads: int = 0, runtime: str | None = None) -> Session:
    """Open a model with a runtime's module name ("onnx", "openvino", "torch"), by default the first of its format.

    threads: 0 means all cores. Raises UnsupportedModel when the runtime does not take the format.
    """
    chosen = runtime or default_runtime(model.format)
    if chosen not in FOR_FORMAT[model.format]:
        known = ", ".join(FOR_FORMAT[model.format])
        raise InvalidOption(f"runtime {chosen!r} does not open {model.format!r}; runtimes that do: {known}")
    name = module_of(chosen, model.task)
    module = importlib.import_module(f".{name}", __name__)
    session: Session = module.open_session(model, threads=threads)
    return session


def open_speech(model: Model, *, threads: int = 0, language: str | None = None) -> WhisperSession:
    """Open a speech model for recordings of any length. language: a code, else it is detected."""
    name = module_of(default_runtime(model.format), TRANSCRIPTION)
    module = importlib.import_module(f".{name}", __name__)
    session: WhisperSession = module.open_session(model, threads=threads, language=language)
    return session
