"""The shapes of a graph's tensors as a run has them: where they depend on numbers, inference cannot know them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

Shape = tuple[int, ...]


def shapes_of_run(path: Path, names: Iterable[str], inputs: dict[str, Shape]) -> dict[str, Shape]:
    """Shapes of the tensors `names` when zeros of these input shapes go through the graph once.

    Empty where the graph does not run so.
    """
    wanted = sorted(set(names))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        model = onnx.load(str(path))
        given = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        zeros = {
            name: np.zeros(shape, helper.tensor_dtype_to_np_dtype(types.get(name, TensorProto.FLOAT)))
            for name, shape in inputs.items()
        }
        return {name: tuple(found.shape) for name, found in zip(wanted, session.run(wanted, zeros), strict=True)}
    except Exception:  # of onnxruntime, protobuf (above 2 GB) and onnx; what is not counted is reported as that
        return {}
