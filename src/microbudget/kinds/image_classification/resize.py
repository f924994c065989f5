"""resize of an image classifier: fewer pixels in its preprocessing, its configuration and its graph."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidOption, UnsupportedModel, what_it_said
from ...images.preprocess import Preprocessing
from ...methods import Context
from ...methods.resize import Resize
from ...model import ONNX_NAME, Model, Record
from ...runtimes.signature import CHANNELS
from .teaching import preprocessing_of


def apply(step: Resize, model: Model, context: Context, out: Path) -> Record:
    """Write the same weights for the smaller input. Raises UnsupportedModel when the network does not allow it."""
    del context
    before = Preprocessing.parse(preprocessing_of(model))
    if step.pixels > max(before.input_size):
        raise InvalidOption(
            f"resize: pixels={step.pixels} is larger than the model's {before.input_size[0]}; it only makes smaller"
        )
    preprocessing = before.resized(step.pixels)
    height, width = Preprocessing.parse(preprocessing).input_size
    if model.format == "hf":
        _resize_hf(model, height, width, preprocessing, out)
    else:
        _resize_onnx(model, height, width, preprocessing, out)
    report = {"before": list(before.input_size), "after": [height, width]}
    return replace(model.record.with_report("resize", report), preprocessing=preprocessing)


def _resize_hf(model: Model, height: int, width: int, preprocessing: dict[str, Any], out: Path) -> None:
    from ...runtimes.hf.image_classifier import load_network, resize_positions, write_preprocessing

    for file in model.files:
        if file.name != "processor_config.json":
            shutil.copyfile(file, out / file.name)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if "image_size" in config:
        config["image_size"] = height if height == width else [height, width]
        (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    resize_positions(out, config)
    write_preprocessing(preprocessing, out)
    _check_answers(load_network(out, model.record.state), height, width)


def _check_answers(network: Any, height: int, width: int) -> None:
    import torch

    try:
        with torch.inference_mode():
            logits = network(pixel_values=torch.zeros(1, 3, height, width)).logits
    except (RuntimeError, ValueError) as error:
        raise UnsupportedModel(f"{type(network).__name__} does not take {height} x {width} pixels: {error}") from error
    if not torch.isfinite(logits).all():
        raise UnsupportedModel(f"{type(network).__name__} answers NaN at {height} x {width} pixels")


def _resize_onnx(model: Model, height: int, width: int, preprocessing: dict[str, Any], out: Path) -> None:
    """New dimensions on the graph's input; a graph that holds its size elsewhere is refused."""
    import onnx

    from ...runtimes.onnx.interface import signature_of
    from ...runtimes.onnx.session import OnnxSession, write_metadata

    proto = onnx.load(str(model.weights))
    port = signature_of(proto).inputs[0]
    pixels = next(value for value in proto.graph.input if value.name == port.name)
    rows, columns = (1, 2) if port.channels_last else (2, 3)
    pixels.type.tensor_type.shape.dim[rows].dim_value = height
    pixels.type.tensor_type.shape.dim[columns].dim_value = width
    del proto.graph.value_info[:]  # shapes at the old size
    write_metadata(proto, model.labels, preprocessing)
    onnx.save(proto, str(out / ONNX_NAME))
    try:
        session = OnnxSession(out / ONNX_NAME, output=model.record.output, classes=len(model.labels or ()) or None)
        scores = session.answer({port.name: np.zeros((2, CHANNELS, height, width), np.float32)})
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise UnsupportedModel(
            f"{model.path} is fixed to its input size ({what_it_said(error)}): put resize before export"
        ) from error
    if scores.shape[0] != 2 or not np.isfinite(scores).all():
        raise UnsupportedModel(f"{model.path} is fixed to its input size: put resize before export")
