"""What a photo classifier is worth before it is trained: its frozen features, at each input size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...images.preprocess import Preprocessing
from ...methods import Context, Method
from ...methods.resize import Resize
from ...model import ONNX_NAME, Model
from ...search.frozen import Frozen
from ...task import Task
from ...training.features import FeatureStore
from ...training.head import Head
from .backbone import Backbone, open_backbone
from .finetune import write_onnx
from .search_space import SearchSpace
from .teaching import preprocessing_of

EXAMPLES = "photos"


def smaller(given: Model, task: Task) -> tuple[Method, ...]:
    """The steps to its smaller input sizes, largest first."""
    return tuple(Resize(pixels=pixels) for pixels in SearchSpace(given, task).smaller_inputs())


def size_of(model: Model) -> str:
    """Its input size, as a person calls it."""
    height, width = Preprocessing.parse(preprocessing_of(model)).input_size
    return f"{height} px" if height == width else f"{height} x {width} px"


def frozen(model: Model, context: Context) -> Frozen:
    """The network without its last layer. Raises UnsupportedModel where it does not end in a linear one."""
    preprocessing = preprocessing_of(model)
    backbone = open_backbone(model)
    store = FeatureStore(backbone.graph, preprocessing, context.cache / "features", context.threads)

    def with_head(head: Head, out: Path) -> Model:
        write_onnx(backbone, head, out, context.task.labels, preprocessing)
        return _written(model, context, out)

    def as_it_is(out: Path) -> Model:
        return _as_onnx(model, backbone, out)

    return Frozen(store, context.task, backbone.logits, with_head, as_it_is)


def _written(model: Model, context: Context, out: Path) -> Model:
    labels = context.task.labels
    record = replace(model.record, task=context.task.kind, labels=labels, output=None, fingerprint=None)
    return Model(out, "onnx", record)


def _as_onnx(model: Model, backbone: Backbone, out: Path) -> Model:
    import onnx

    from ...runtimes.onnx.session import write_metadata

    write_metadata(backbone.proto, model.labels or (), preprocessing_of(model))
    onnx.save(backbone.proto, str(out / ONNX_NAME))
    return Model(out, "onnx", replace(model.record, fingerprint=None))
