"""An image classifier in two parts: a graph that computes features, and a linear layer from them to logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model import Model

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Backbone:
    """logits = features @ weight.T + bias, where `graph` computes the features in ONNX Runtime."""

    proto: Any  # the whole classifier as ONNX
    features: str  # name of the tensor that the linear layer takes
    graph: bytes  # ONNX, ends in that tensor
    weight: Array  # (outputs, inputs)
    bias: Array  # (outputs,)
    network: Any = None  # the torch module, for `hf`

    def logits(self, features: Array) -> Array:
        """features (examples, inputs) -> (examples, outputs)."""
        return features @ self.weight.T + self.bias


def open_backbone(model: Model) -> Backbone:
    """An `hf` or `onnx` classifier. Raises UnsupportedModel when it does not end in a linear layer."""
    import onnx

    from ...runtimes.onnx.half import widen

    network = None
    if model.format == "hf":
        from ...images.preprocess import Preprocessing
        from ...runtimes.hf.image_classifier import load_network, onnx_bytes

        network = load_network(model.path)
        height, width = Preprocessing.parse(model.record.preprocessing or {}).input_size
        proto = onnx.load_from_string(onnx_bytes(network, height, width))
    else:
        proto = onnx.load(str(model.weights))
        widen(proto)
    from ...runtimes.onnx.surgery import backbone, find_classifier

    classifier = find_classifier(proto, model.record.output if model.format == "onnx" else None)
    graph = backbone(proto, classifier.features).SerializeToString()
    return Backbone(proto, classifier.features, graph, classifier.weight, classifier.bias, network)
