"""The sizes of a model that has to be opened or fetched: of ours, an ONNX or GGUF file, a hub id that is not known."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import ModelNotFound, UnsupportedModel
from ..model import Model, backbone_of
from . import asking
from .networks import Network, of_operations, of_size

FREE = {4: 224, 3: 224, 2: 128, 1: 1}  # of an input's dimensions that the file leaves open, by how many it has


def network_of(name: str) -> Network:
    """The network of a MODEL: a size, a config, a hub id or a model's files.

    Raises what opening it raises, ModelNotFound with the nearest known names, UnsupportedModel for what has no sizes.
    """
    found = asking.network_of(name)
    if found is not None:
        return found
    from ..runtimes.loading import load

    try:
        model = load(name, weights=False)
    except ModelNotFound as error:
        if Path(name).exists():
            raise
        raise asking.not_found(name) from error
    if model.format == "onnx":
        return _of_onnx(model)
    if model.format == "gguf":
        return _of_gguf(model.weights, name)
    config = asking.config_of(str(backbone_of(model.path) or model.path))
    if config is None:
        raise UnsupportedModel(f"{name} has no config.json, from which its sizes are read: give --params or --flops")
    return asking.network_of_config(config[1], name)


def _of_onnx(model: Model) -> Network:
    """Multiply-adds of one answer, counted node by node; open dimensions are a photo's or a text's of 128 tokens."""
    from ..judge.work import count
    from ..runtimes.onnx.graph import load_structure

    graph = load_structure(model.weights).graph
    constants = {tensor.name for tensor in graph.initializer}
    shapes = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in constants:
            free = FREE.get(len(dims), 16)
            shapes[value.name] = tuple(
                dim.dim_value if dim.dim_value > 0 else 1 if index == 0 else free for index, dim in enumerate(dims)
            )
    work = count(model.weights, shapes)
    operations = 2.0 * work.total_multiply_adds
    if not operations:
        raise UnsupportedModel(f"no operations of {model.path} could be counted: give --flops of one answer")
    elements = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    layers = (sum(work.multiply_adds[kind] > 0 for kind in work.multiply_adds) and len(graph.node) // 3) or 1
    return of_operations(operations, float(elements), max(1, layers))


def _of_gguf(path: Path, name: str) -> Network:
    from ..runtimes.gguf.file import GgufFile

    with GgufFile(path) as file:
        parameters = float(sum(tensor.parameters for tensor in file.tensors.values()))
        layers = file.whole(f"{file.architecture}.block_count", 0)
    usual = of_size(parameters, name=name)
    return (
        usual
        if not layers
        else Network(name, parameters, parameters, layers, usual.cache_values, origin=f"file {path.name}")
    )
