"""Image classifiers of Hugging Face folders in torch: opened in float32, converted to ONNX, saved."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingExtra

if TYPE_CHECKING:
    from ...model import Model

try:
    import torch
    import transformers

    # Loading the first network would import a thousand more modules; here they are not taken for its memory and time.
    import transformers.modeling_utils
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[train]'") from error

from . import widths
from .pretrained import open_network
from .session import TorchSession, use_threads


def open_session(model: Model, *, threads: int = 0) -> TorchSession:
    """Open an `hf` Model. threads: 0 means torch's own choice, all cores."""
    use_threads(threads)
    return TorchSession(load_network(model.path))


def load_network(folder: Path, state: Mapping[str, Any] | None = None) -> Any:
    """The image classifier in a Hugging Face folder: a module in float32 and eval mode.

    state: of the record, where it is not in the folder yet. Raises what `open_network` raises.
    """
    return open_network(transformers.AutoModelForImageClassification, folder, "an image classifier", state)


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
            buffer,  # type: ignore[arg-type] # a stream is taken too
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return buffer.getvalue()


def save_network(network: Any, preprocessing: dict[str, Any], out: Path) -> None:
    """Save the network in float32 as an ordinary Hugging Face folder."""
    widths.save(network, out)
    write_preprocessing(preprocessing, out)


def write_preprocessing(preprocessing: dict[str, Any], out: Path) -> None:
    """Write the file with which transformers prepares a model's inputs."""
    text = json.dumps(preprocessing, indent=1)
    (out / "preprocessor_config.json").write_text(text, encoding="utf-8")


def resize_positions(folder: Path, config: dict[str, Any]) -> None:
    """Fit the position embeddings of a vision transformer in `folder` to the image size in its (changed) config.

    They form a grid of (image_size / patch_size) ** 2 positions after the special tokens; the grid is interpolated
    bicubically (Dosovitskiy et al. 2021, section 3.2). Networks without such a table are left alone.
    """
    from safetensors.torch import load_file, save_file

    if "patch_size" not in config or "image_size" not in config:
        return
    sizes = config["image_size"] if isinstance(config["image_size"], list) else [config["image_size"]] * 2
    patch = config["patch_size"] if isinstance(config["patch_size"], int) else config["patch_size"][0]
    rows, columns = (size // patch for size in sizes)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(str(file))
        tables = [name for name in tensors if name.endswith(("position_embeddings", "pos_embed"))]
        for name in tables:
            tensors[name] = _interpolated(tensors[name], rows, columns)
        if tables:
            save_file(tensors, str(file), metadata={"format": "pt"})


def _interpolated(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """table: (1, special + side * side, width) -> (1, special + rows * columns, width)."""
    side = int((table.shape[1]) ** 0.5)
    special = table.shape[1] - side * side
    grid = table[:, special:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    flat = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).to(table.dtype)
    return torch.cat([table[:, :special], flat], dim=1).contiguous()
