"""The network of a text classifier before its last layer, as an ONNX graph that ends in features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch.nn import Linear

from ...methods import Context
from ...model import Model
from ...runtimes.hf.heads import head_of, put_head
from ...runtimes.hf.text_classifier import PooledClassifier, load_network, onnx_bytes, put_new_head
from ...runtimes.onnx.half import widen
from ...runtimes.onnx.surgery import backbone, find_classifier
from ...runtimes.text.encoding import INPUTS
from ...training.features import FeatureStore
from ...training.head import Head
from .teaching import reading


@dataclass(frozen=True)
class Backbone:
    """A graph with its output of features; of a Hugging Face folder the network too, without a head of our own."""

    proto: Any
    output: str
    network: Any
    head: tuple[Any, Any] | None = None  # its own: weight (outputs, inputs), bias (outputs,); None: it has none

    @classmethod
    def of(cls, model: Model) -> Backbone:
        """Of an encoder its pooled output; of a classifier what its last linear layer takes."""
        network = None
        if model.format == "hf":
            network, own = load_network(model.path), None
            if isinstance(network, PooledClassifier):
                own, network.head = network.head, torch.nn.Identity()
            proto = onnx.load_from_string(onnx_bytes(network, tuple(reading(model)[INPUTS])))
            if isinstance(network, PooledClassifier):
                linear = (own.weight.detach().numpy(), own.bias.detach().numpy()) if isinstance(own, Linear) else None
                return cls(proto, proto.graph.output[0].name, network, linear)
        else:
            proto = onnx.load(str(model.weights))
            widen(proto)
        found = find_classifier(proto, model.record.output if model.format == "onnx" else None)
        return cls(proto, found.features, network, (found.weight, found.bias))

    @property
    def graph(self) -> bytes:
        """The graph that ends in features."""
        made: bytes = backbone(self.proto, self.output).SerializeToString()
        return made


class Features:
    """What a head reads: the encoder as a graph that ends in its features, and the network that it is of."""

    def __init__(self, backbone: Backbone, context: Context, names: tuple[str, ...]) -> None:
        self.proto, self.output, self.network = backbone.proto, backbone.output, backbone.network
        # Texts come sorted by nothing: each call pads to its longest, which the mask takes out of the answer again.
        self.store = FeatureStore(backbone.graph, {"inputs": list(names)}, context.cache / "features", context.threads)

    @classmethod
    def of(cls, model: Model, context: Context) -> Features:
        """Of a model; the store takes a task whose texts are its tokens."""
        return cls(Backbone.of(model), context, tuple(reading(model)[INPUTS]))

    def with_head(self, head: Head, labels: tuple[str, ...]) -> Any:
        """The network with a linear head that was fitted to its features."""
        weight, bias = head.layers[0]
        if isinstance(self.network, PooledClassifier):
            put_new_head(self.network, weight, bias, labels)
        else:
            put_head(self.network, head_of(self.network)[1].weight.detach().numpy(), (weight, bias), labels)
        return self.network
