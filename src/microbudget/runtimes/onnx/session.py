"""ONNX Runtime on the CPU: the default runtime, and how our own ONNX files carry their labels and preprocessing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
from numpy.typing import NDArray

from ...errors import UnsupportedModel, what_it_said
from ..signature import Batching, Port, Signature, has_channels_last

if TYPE_CHECKING:
    from ...model import Model

LABELS_KEY = "microbudget.labels"
PREPROCESSING_KEY = "microbudget.preprocessing"
_TOO_NEW = (  # what a file has in a newer version than the runtime, as its messages say it
    (
        "IR version",
        r"IR version: (\d+), max supported IR version: (\d+)",
        "load it with onnx.load, set ir_version = {} and save it",
    ),
    (
        "operator set",
        r"Opset (\d+) is under development.* till opset (\d+)",
        "export it again with opset_version={} or less, or convert it with onnx.version_converter.convert_version",
    ),
)
_NUMPY_NAMES = {"float": "float32", "double": "float64"}  # for onnxruntime's names of types


class OnnxSession:
    """An open `.onnx` file, or its bytes. `answer` may be called from several threads at once."""

    runtime = f"onnxruntime {onnxruntime.__version__}"

    def __init__(
        self, source: Path | bytes, threads: int = 0, *, output: str | None = None, classes: int | None = None
    ) -> None:
        """output: the name of the one to answer; None: the only one, or of several that with `classes` numbers."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads of an idle session must not take the processor from another one.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            name = "the model" if isinstance(source, bytes) else str(source)
            raise UnsupportedModel(_why_not(name, what_it_said(error))) from error
        self.signature = _signature(self._session, source)
        self._outputs = [self.signature.scores(classes, output).name]
        self._silent = onnxruntime.RunOptions()
        self._silent.log_severity_level = 4  # what fails is raised, and need not be printed as well
        self._batching = Batching(self._run, self.signature.batch)

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The output for a batch of inputs by name; see `Signature.feed`, `Batching`."""
        return self._batching(self.signature.feed(inputs))

    @property
    def batch(self) -> int | None:
        """The one number of examples that the graph takes, as far as the calls so far have shown; None: any."""
        return self._batching.size

    def _run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        output: NDArray[Any] = self._session.run(self._outputs, inputs, self._silent)[0]
        return output

    def close(self) -> None:
        """Release the session."""
        del self._session


def open_session(model: Model, *, threads: int = 0) -> OnnxSession:
    """Open an `onnx` Model. threads: 0 means all cores."""
    return OnnxSession(model.weights, threads, output=model.record.output, classes=len(model.labels or ()) or None)


def _why_not(name: str, said: str) -> str:
    """Why a file does not open, and what to do where it is newer than the runtime."""
    for what, pattern, remedy in _TOO_NEW:
        if found := re.search(pattern, said):
            given, most = found.groups()
            return (
                f"{name} is of ONNX's {what} {given}, and {OnnxSession.runtime} reads up to {most}:"
                f" {remedy.format(most)}, or install a newer onnxruntime ({said})"
            )
    return f"{OnnxSession.runtime} cannot open {name}: {said}"


def _signature(session: Any, source: Path | bytes) -> Signature:
    """As the runtime says; where an input's shape does not tell its layout, from the graph."""
    inputs, outputs = (tuple(map(_port, found)) for found in (session.get_inputs(), session.get_outputs()))
    if any(has_channels_last(port.shape) is None for port in inputs):
        import onnx

        from .graph import load_structure
        from .interface import signature_of

        return signature_of(onnx.load_from_string(source) if isinstance(source, bytes) else load_structure(source))
    return Signature(inputs, outputs)


def _port(value: Any) -> Port:
    element = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in value.shape)
    return Port(value.name, _NUMPY_NAMES.get(element, element), shape or None, bool(has_channels_last(shape)))


def write_metadata(graph: Any, labels: tuple[str, ...] | None, preprocessing: dict[str, Any] | None) -> None:
    """Put labels and preprocessing into an `onnx.ModelProto`, so that the one file is all that inference needs."""
    values = {LABELS_KEY: labels, PREPROCESSING_KEY: preprocessing}
    kept = [(prop.key, prop.value) for prop in graph.metadata_props if prop.key not in values]
    kept += [(key, json.dumps(value, ensure_ascii=False)) for key, value in values.items() if value is not None]
    del graph.metadata_props[:]
    for key, value in kept:
        graph.metadata_props.add(key=key, value=value)


def read_metadata(graph: Any) -> tuple[tuple[str, ...] | None, dict[str, Any] | None]:
    """Labels and preprocessing of an `onnx.ModelProto`, each None where it is missing."""
    values = {prop.key: prop.value for prop in graph.metadata_props}
    try:
        labels = json.loads(values[LABELS_KEY]) if LABELS_KEY in values else None
        preprocessing = json.loads(values[PREPROCESSING_KEY]) if PREPROCESSING_KEY in values else None
    except ValueError as error:
        raise UnsupportedModel(f"the model's metadata are damaged: {error}") from error
    return (None if labels is None else tuple(labels)), preprocessing
