"""Which networks classify images, what their files say, and how they are opened."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel
from ...images.processors import with_type
from ...model import Record, external_data
from ...runtimes.loading import read_preprocessing

KIND = "image-classification"
ARCHITECTURES = ("*ForImageClassification*",)
FORMATS = ("onnx", "hf")  # whose files are of this kind where no record says otherwise; `hf` of records before 0.2 only
RUNTIMES: dict[str, str] = {}  # modules of `runtimes` in place of a runtime's own
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def hf_record(folder: Path, config: dict[str, Any]) -> Record:
    """Of a Hugging Face folder: its labels and its preprocessing. Raises ValueError, TypeError for damaged labels."""
    names = {int(key): str(value) for key, value in config.get("id2label", {}).items()}
    labels = tuple(names[index] for index in sorted(names)) if names else None
    preprocessing = image_preprocessing(folder, config.get("model_type"))
    return Record(task=KIND, labels=labels, preprocessing=preprocessing, source=str(folder))


def image_preprocessing(folder: Path, model_type: str | None) -> dict[str, Any] | None:
    """As `read_preprocessing`, with the processor's type, which follows from the model's where the file lacks it."""
    preprocessing = read_preprocessing(folder)
    return None if preprocessing is None else with_type(preprocessing, model_type)


def foreign_record(path: Path, model_format: str) -> Record:
    """Of an `.onnx` file: labels and preprocessing from its metadata, else what is usual, with a warning.

    Raises UnsupportedModel for what takes no images.
    """
    import onnx

    from ...runtimes.onnx.session import read_metadata

    external_data(path)  # refuses a file that is no ONNX or whose weights are missing
    proto = onnx.load(str(path), load_external_data=False)
    height, width = _image_size(proto.graph, path)
    labels, preprocessing = read_metadata(proto)
    preprocessing = preprocessing or read_preprocessing(path.parent)
    if preprocessing is None:
        warnings.warn(
            f"{path} has no preprocessing config: using {height} x {width} pixels with ImageNet's mean and standard"
            " deviation. Put a preprocessor_config.json next to it if that is wrong",
            stacklevel=2,
        )
        preprocessing = {
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        }
    return Record(task=KIND, labels=labels, preprocessing=preprocessing, source=str(path))


def _image_size(graph: Any, path: Path) -> tuple[int, int]:
    """Height and width of the one input (batch, 3, height, width); 224 where the graph leaves them open."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise UnsupportedModel(f"{path} has {len(inputs)} inputs ({names}); an image classifier has one, the pixels")
    shape = inputs[0].type.tensor_type.shape.dim
    if len(shape) != 4 or shape[1].dim_value not in (0, 3):
        dims = [dim.dim_value or dim.dim_param or "?" for dim in shape]
        raise UnsupportedModel(f"{path} takes an input of shape {dims}; an image classifier takes (batch, 3, H, W)")
    if shape[0].dim_value > 0:
        raise UnsupportedModel(
            f"{path} has a fixed batch of {shape[0].dim_value}: export it with a dynamic batch"
            " (torch.onnx.export(..., dynamic_axes={input: {0: 'batch'}}))"
        )
    return shape[2].dim_value or 224, shape[3].dim_value or 224
