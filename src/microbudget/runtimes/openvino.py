"""OpenVINO on the CPU, in float32 unless the file is quantized: by itself it would run float models in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import MissingExtra, UnsupportedModel, what_it_said
from .signature import Batching, Port, Signature, has_channels_last

if TYPE_CHECKING:
    from ..model import Model

try:
    import openvino
except ImportError as error:
    raise MissingExtra("the runtime openvino is not installed: pip install 'microbudget[openvino]'") from error


class OpenVinoSession:
    """An open `.onnx` file in OpenVINO."""

    runtime = f"openvino {openvino.__version__.split('-')[0]}"

    def __init__(self, path: Path, threads: int = 0, *, output: str | None = None, classes: int | None = None) -> None:
        """output: the name of the one to answer; None: the only one, or of several that with `classes` numbers."""
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            network = core.read_model(str(path))
            self._request = core.compile_model(network, "CPU", config).create_infer_request()
        except RuntimeError as error:
            raise UnsupportedModel(f"openvino cannot open {path}: {what_it_said(error)}") from error
        self.signature = _signature(network, path)
        scores = self.signature.scores(classes, output)
        self._output = self.signature.outputs.index(scores)
        # A Reshape inside may fix the batch. OpenVINO 2026.4 then answers a larger one with what it answered before,
        # and every one after it too; but it knows the output's shape.
        inside = scores.shape[0] if scores.shape else None
        self._batching = Batching(self._run, self.signature.batch or inside)

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The output for a batch of inputs by name; see `Signature.feed`, `Batching`."""
        return self._batching(self.signature.feed(inputs))

    def _run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        self._request.infer(inputs)
        output: NDArray[Any] = self._request.get_output_tensor(self._output).data.copy()
        return output

    def close(self) -> None:
        """Release the compiled model."""
        del self._request


def open_session(model: Model, *, threads: int = 0) -> OpenVinoSession:
    """Open an `onnx` Model. threads: 0 means all cores."""
    return OpenVinoSession(model.weights, threads, output=model.record.output, classes=len(model.labels or ()) or None)


def _signature(network: Any, path: Path) -> Signature:
    """As OpenVINO says; where an input's shape does not tell its layout, from the graph."""
    inputs, outputs = (tuple(map(_port, found)) for found in (network.inputs, network.outputs))
    if any(has_channels_last(port.shape) is None for port in inputs):
        from .onnx.graph import load_structure
        from .onnx.interface import signature_of

        return signature_of(load_structure(path))
    return Signature(inputs, outputs)


def _port(value: Any) -> Port:
    sides = value.get_partial_shape()
    shape = None if sides.rank.is_dynamic else tuple(side.get_length() if side.is_static else None for side in sides)
    dtype = str(value.get_element_type().to_dtype())
    return Port(value.get_any_name(), dtype, shape, bool(has_channels_last(shape)))
