"""torch, eager: opens Hugging Face folders in float32, and converts them to ONNX."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..errors import MissingExtra, UnsupportedModel

if TYPE_CHECKING:
    from ..model import Model

try:
    import torch
    import transformers
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[train]'") from error


class TorchSession:
    """An open `hf` classifier in eager mode, float32."""

    runtime = f"torch {torch.__version__}"

    def __init__(self, folder: Path, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._network = load_network(folder)

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Logits (batch, classes) for a batch of inputs by name."""
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            logits: NDArray[Any] = self._network(**tensors).logits.numpy()
        return logits

    def close(self) -> None:
        """Release the network."""
        del self._network


def open_session(model: Model, *, threads: int = 0) -> TorchSession:
    """Open an `hf` Model. threads: 0 means torch's own choice, all cores."""
    return TorchSession(model.path, threads)


def load_network(folder: Path) -> Any:
    """The image classifier in a Hugging Face folder: a module in float32 and eval mode.

    Only safetensors are read, remote code is not run, and weights that are missing or of another shape are an error:
    transformers would draw them at random and go on.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        network, info = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModel(f"transformers cannot open {folder} as an image classifier: {reason}") from error
    missing = sorted(map(str, info["missing_keys"])) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing:
        raise UnsupportedModel(f"{folder} lacks {len(missing)} weights of its architecture, such as {missing[0]!r}")
    return network.eval()


class _Logits(torch.nn.Module):
    """The part of a classifier that we ship: pixel values in, logits out."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values: (batch, 3, height, width) -> logits (batch, classes)."""
        logits: torch.Tensor = self.network(pixel_values=pixel_values).logits
        return logits


def onnx_bytes(network: Any, height: int, width: int, opset: int = 17) -> bytes:
    """The network as an ONNX file's bytes: input `pixel_values`, output `logits`, any batch size, batch norm folded.

    By tracing: torch's newer exporter takes eight times as long for the same graph and needs another package.
    """
    example = torch.zeros(2, 3, height, width)  # a batch of 1 would be taken for a constant by some models
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns about every Python branch; the export is checked on real images
        torch.onnx.export(
            _Logits(network).eval(),
            (example,),
            buffer,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return buffer.getvalue()
