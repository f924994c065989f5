"""Which networks classify images, what their files say, and how they are opened."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UnsupportedModel, UnsupportedPreprocessing
from ...images.processors import with_type
from ...model import Model, Record, external_data
from ...runtimes.loading import read_preprocessing
from ...runtimes.signature import CAST, CHANNELS, Port, Signature, listed

if TYPE_CHECKING:
    from ...images.preprocess import Preprocessing

KIND = "image-classification"
ARCHITECTURES = ("*ForImageClassification*",)
FORMATS = ("onnx", "hf")  # whose files are of this kind where no record says otherwise; `hf` of records before 0.2 only
RUNTIMES: dict[str, str] = {}  # modules of `runtimes` in place of a runtime's own
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def hf_record(folder: Path, config: dict[str, Any]) -> Record:
    """Of a Hugging Face folder: its labels and its preprocessing. Raises ValueError, TypeError for damaged labels."""
    labels = labels_of(config, folder / "config.json")
    preprocessing = image_preprocessing(folder, config.get("model_type"))
    return Record(task=KIND, labels=labels, preprocessing=preprocessing, source=str(folder))


def image_preprocessing(folder: Path, model_type: str | None) -> dict[str, Any] | None:
    """As `read_preprocessing`, with the processor's type, which follows from the model's where the file lacks it."""
    preprocessing = read_preprocessing(folder)
    return None if preprocessing is None else with_type(preprocessing, model_type)


def foreign_record(path: Path, model_format: str) -> Record | None:
    """Of an `.onnx` file: labels and preprocessing from its metadata or beside it, else what is usual, with a warning.

    None for one that takes rows of integers, such as tokens. Raises UnsupportedModel for what takes no images, or not
    as its preprocessing makes them.
    """
    from ...runtimes.onnx.graph import load_structure
    from ...runtimes.onnx.interface import read_signature
    from ...runtimes.onnx.session import read_metadata

    external_data(path)  # refuses a file that is no ONNX or whose weights are missing
    signature = read_signature(path)
    integers = [port for port in signature.inputs if port.dtype in ("int32", "int64") and len(port.shape or ()) == 2]
    if integers and len(integers) == len(signature.inputs):
        return None
    pixels = _pixels(signature, path)
    height, width = _sides(pixels)
    labels, preprocessing = read_metadata(load_structure(path))
    preprocessing = preprocessing or read_preprocessing(path.parent)
    if preprocessing is None:
        preprocessing = _usual_preprocessing(height or 224, width or 224, as_bytes=pixels.dtype == "uint8")
        does = "with ImageNet's mean and standard deviation" if preprocessing["do_normalize"] else "as bytes"
        warnings.warn(
            f"{path} has no preprocessing config: using {height or 224} x {width or 224} pixels {does}."
            " Put a preprocessor_config.json next to it if that is wrong",
            stacklevel=2,
        )
    labels = labels or labels_beside(path.parent)
    return Record(task=KIND, labels=labels, preprocessing=preprocessing, source=str(path))


def _usual_preprocessing(height: int, width: int, *, as_bytes: bool) -> dict[str, Any]:
    """ImageNet's; for an input of bytes no more than the size, since such a graph normalizes by itself."""
    return {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": not as_bytes,
        "rescale_factor": 1 / 255,
        "do_normalize": not as_bytes,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }


def _pixels(signature: Signature, path: Path) -> Port:
    """The one input, (batch, 3, height, width) or (batch, height, width, 3)."""
    if len(signature.inputs) != 1:
        raise UnsupportedModel(
            f"{path} has {len(signature.inputs)} inputs ({listed(signature.inputs)}); an image classifier has one, the"
            " pixels"
        )
    pixels = signature.inputs[0]
    shape = pixels.shape
    channels = None if shape is None or len(shape) != 4 else shape[3 if pixels.channels_last else 1]
    if shape is None or len(shape) != 4 or channels not in (None, CHANNELS):
        raise UnsupportedModel(
            f"{path} takes the input {pixels}; an image classifier takes (batch, 3, H, W) or (batch, H, W, 3)"
        )
    if pixels.dtype not in CAST:
        raise UnsupportedModel(
            f"{path} takes the input {pixels}; pixels are given as {', '.join(sorted(CAST))}: export the model with"
            " one of these"
        )
    return pixels


def _sides(pixels: Port) -> tuple[int | None, int | None]:
    """Height and width; None where the graph leaves them open."""
    assert pixels.shape is not None
    return (pixels.shape[1], pixels.shape[2]) if pixels.channels_last else (pixels.shape[2], pixels.shape[3])


def check_preprocessing(model: Model) -> None:
    """The preprocessing must be known, and make the pixels that the model takes.

    Raises UnsupportedModel, UnsupportedPreprocessing with the file and what to do.
    """
    from ...images.preprocess import Preprocessing  # not in a worker process, whose memory is measured

    if model.record.preprocessing is None:
        raise UnsupportedModel(
            f"{model.folder} has no preprocessor_config.json, so how its photos are resized and normalized is not"
            " known: copy that file from the model that it was made from (processor.save_pretrained writes it)"
        )
    try:
        how = Preprocessing.parse(model.record.preprocessing)
    except UnsupportedPreprocessing as error:
        raise UnsupportedPreprocessing(f"the preprocessing of {model.path}: {error}") from error
    if model.format == "onnx":
        from ...runtimes.onnx.interface import read_signature

        _check_pixels(_pixels(read_signature(model.weights), model.path), how, model.path)


def _check_pixels(pixels: Port, how: Preprocessing, path: Path) -> None:
    if any(side not in (None, made) for side, made in zip(_sides(pixels), how.input_size, strict=True)):
        raise UnsupportedModel(
            f"{path} takes {' x '.join(map(str, _sides(pixels)))} pixels, but its preprocessing makes"
            f" {how.input_size[0]} x {how.input_size[1]}: correct size or crop_size in preprocessor_config.json"
        )
    if pixels.dtype == "uint8" and not (how.table == np.arange(256)).all():
        raise UnsupportedModel(
            f"{path} takes bytes (its input is {pixels}), but its preprocessing rescales or normalizes them: set"
            " do_rescale and do_normalize to false in preprocessor_config.json"
        )


def labels_beside(folder: Path) -> tuple[str, ...] | None:
    """The labels of an `.onnx` file that a `labels.txt` or a `config.json` beside it names, in the outputs' order.

    None where there is neither, or where the config has the names LABEL_0, LABEL_1, ... that transformers makes up.
    """
    path = folder / "labels.txt"
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").strip("\r\n").split("\n")
        except UnicodeDecodeError as error:
            raise UnsupportedModel(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from error
        return tuple(line.strip() for line in lines)
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        labels = labels_of(json.loads(path.read_text(encoding="utf-8-sig")), path)
    except (ValueError, AttributeError, TypeError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    made_up = labels is not None and all(label == f"LABEL_{place}" for place, label in enumerate(labels))
    return None if made_up else labels


def labels_of(config: dict[str, Any], path: Path) -> tuple[str, ...] | None:
    """The labels of a Hugging Face config, in the outputs' order; None without any.

    Raises UnsupportedModel where an output has no name: the names after it would be those of other outputs.
    """
    names = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
    missing = sorted(set(range(max(names, default=-1) + 1)) - set(names))
    if missing or min(names, default=0) < 0:
        raise UnsupportedModel(
            f"{path}: id2label names {len(names)} outputs up to {max(names)}, but not output"
            f" {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}: give every output from 0 a name"
        )
    return tuple(names[index] for index in range(len(names))) or None
