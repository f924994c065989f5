"""The network of a text classifier before its last layer, as an ONNX graph that ends in features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import torch

from ...model import Model
from ...runtimes.hf.text_classifier import PooledClassifier, load_network, onnx_bytes
from ...runtimes.onnx.half import widen
from ...runtimes.onnx.surgery import backbone, find_classifier
from ...runtimes.text.encoding import INPUTS
from .teaching import reading


@dataclass(frozen=True)
class Backbone:
    """A graph with its output of features; of a Hugging Face folder the network too, without a head of our own."""

    proto: Any
    output: str
    network: Any

    @classmethod
    def of(cls, model: Model) -> Backbone:
        """Of an encoder its pooled output; of a classifier what its last linear layer takes."""
        network = None
        if model.format == "hf":
            network = load_network(model.path)
            if isinstance(network, PooledClassifier):
                network.head = torch.nn.Identity()
            proto = onnx.load_from_string(onnx_bytes(network, tuple(reading(model)[INPUTS])))
            if isinstance(network, PooledClassifier):
                return cls(proto, proto.graph.output[0].name, network)
        else:
            proto = onnx.load(str(model.weights))
            widen(proto)
        found = find_classifier(proto, model.record.output if model.format == "onnx" else None)
        return cls(proto, found.features, network)

    @property
    def graph(self) -> bytes:
        """The graph that ends in features."""
        made: bytes = backbone(self.proto, self.output).SerializeToString()
        return made
