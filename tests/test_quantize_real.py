"""The int8 file of a published network, in three runtimes that share no code: the same top answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from PIL import Image

from microbudget.methods.quantize.quantizing import quantize_graph
from toy_networks import batches, run

ASSETS = Path(__file__).parents[2] / "shared" / "assets"
RESNET, PHOTOS = ASSETS / "models" / "resnet20_cifar10.onnx", ASSETS / "images" / "cifar10" / "train"
REFERENCE_OPSET = 19  # the first whose DequantizeLinear ONNX's own evaluator knows

pytestmark = pytest.mark.skipif(not (RESNET.is_file() and PHOTOS.is_dir()), reason="needs the shared assets")


def photos(count: int) -> np.ndarray:
    """The first photos of every class in turn, (count, 3, 32, 32), normalized as the network wants them."""
    paths = sorted(PHOTOS.glob("*/*"))
    chosen = paths[:: len(paths) // count][:count]
    x = np.stack([np.asarray(Image.open(path).convert("RGB"), np.float32) for path in chosen]).transpose(0, 3, 1, 2)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)[:, :, None, None]
    return (x / 255 - mean) / std


@pytest.mark.parametrize("bits", [8, 4])
def test_onnxruntime_openvino_and_onnx_itself_give_the_same_top_answers(bits, tmp_path):
    openvino = pytest.importorskip("openvino")
    x, source, out = photos(20), tmp_path / "float.onnx", tmp_path / "small.onnx"
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(RESNET)), REFERENCE_OPSET), str(source))
    name = onnx.load(str(source)).graph.input[0].name
    data = batches(x, name=name)
    quantize_graph(source, data, out, bits=bits, observer="min_max", corrections=("scales", "bias"), threads=1)
    compiled = openvino.compile_model(str(out), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = {
        "onnxruntime": run(out, x, name),
        "openvino": compiled([x])[0],
        "onnx": ReferenceEvaluator(str(out)).run(None, {name: x})[0],
    }
    top = {runtime: answer.argmax(1).tolist() for runtime, answer in answers.items()}
    assert top["onnxruntime"] == top["openvino"] == top["onnx"]
    assert np.mean(np.array(top["onnx"]) == run(source, x, name).argmax(1)) >= (0.95 if bits == 8 else 0.7)
