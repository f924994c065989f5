"""OpenVINO on the CPU, in float32 unless the file is quantized: by itself it would run float models in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import MissingExtra, UnsupportedModel

if TYPE_CHECKING:
    from ..model import Model

try:
    import openvino
except ImportError as error:
    raise MissingExtra("the runtime openvino is not installed: pip install 'microbudget[openvino]'") from error


class OpenVinoSession:
    """An open `.onnx` file in OpenVINO."""

    runtime = f"openvino {openvino.__version__.split('-')[0]}"

    def __init__(self, path: Path, threads: int = 0) -> None:
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            self._request = core.compile_model(core.read_model(str(path)), "CPU", config).create_infer_request()
        except RuntimeError as error:
            raise UnsupportedModel(f"openvino cannot open {path}: {error}") from error

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """The first output for a batch of inputs by name."""
        self._request.infer(inputs)
        output: NDArray[Any] = self._request.get_output_tensor(0).data.copy()
        return output

    def close(self) -> None:
        """Release the compiled model."""
        del self._request


def open_session(model: Model, *, threads: int = 0) -> OpenVinoSession:
    """Open an `onnx` Model. threads: 0 means all cores."""
    return OpenVinoSession(model.weights, threads)
