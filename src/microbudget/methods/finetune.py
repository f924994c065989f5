"""finetune: transfer learning. A new head on a frozen backbone whose features are computed once per view."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import BadData, UnsupportedModel
from ..features import FeatureStore
from ..head import Head, HeadSettings, fit_head
from ..learning_curve import learning_curve
from ..metrics import classification_report, confusion_matrix
from ..model import ONNX_NAME, Model, Record
from ..tasks import Example
from . import Context, Method, option

Labels = NDArray[np.intp]
Features = tuple[NDArray[np.float32], Labels]
HIDDEN = 256
DROPOUT = 0.5


@dataclass(frozen=True)
class Finetune(Method):
    """Transfer learning: a new head for your labels on the frozen network."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}

    head: str = option(
        "linear", "the new head: one linear layer, or dense 256 ReLU, dropout 0.5", choices=("linear", "mlp")
    )
    views: int = option(1, "how many views of each photo: the plain one, then augmented ones", low=1, high=64)
    epochs: int = option(40, "passes over the features at most", low=1, high=10_000)
    patience: int = option(10, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float | None = option(
        None, "of AdamW at the start of the cosine; by default higher for a head on few features", low=1e-7, high=1.0
    )
    weight_decay: float = option(0.01, "of AdamW", low=0.0, high=10.0)

    def output_format(self, input_format: str) -> str:
        """As the input's, but no Hugging Face class holds an `mlp` head: that gives `onnx`."""
        output = super().output_format(input_format)
        return "onnx" if self.head == "mlp" else output

    def settings(self) -> HeadSettings:
        """The head's own settings."""
        hidden, dropout = (HIDDEN, DROPOUT) if self.head == "mlp" else (0, 0.0)
        return HeadSettings(hidden, dropout, self.epochs, self.patience, self.learning_rate, self.weight_decay)

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Train the head on the train split, stop early on validation, write the model and what it learned."""
        preprocessing = model.record.preprocessing
        if preprocessing is None:
            raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
        train, validation = context.task.examples("train"), context.task.examples("validation")
        _check_classes(train, validation, context.task.labels)
        graph = _open(model, context, self.views)
        store = FeatureStore(graph.backbone, preprocessing, context.cache / "features", context.threads)
        with threadpool_limits(1):  # small matrices: on a busy machine several threads took ten times as long
            fitted, history = self._train(store, train, validation, context)
        graph.write(fitted, out, context.task.labels, preprocessing, linear_hf=self.output_format(model.format) == "hf")
        seen = {*model.record.seen, *(example.key for example in (*train, *validation))}
        return replace(
            model.record,
            task=context.task.kind,
            labels=context.task.labels,
            preprocessing=preprocessing,
            seen=tuple(sorted(seen)),
            history={**model.record.history, "finetune": history},
        )

    def _train(
        self, store: FeatureStore, train: Sequence[Example], validation: Sequence[Example], context: Context
    ) -> tuple[Head, dict[str, Any]]:
        """The head, and what is told of its training."""
        y, held_out_y = _labels(train), _labels(validation)
        views = [store.rows(context.task, train, view, context.seed, context.progress) for view in range(self.views)]
        held_out = store.rows(context.task, validation, 0, context.seed, context.progress), held_out_y
        classes = len(context.task.labels)

        def fit(rows: NDArray[np.intp], settings: HeadSettings) -> Head:
            chosen = np.concatenate([view[rows] for view in views]), np.tile(y[rows], len(views))
            return fit_head(chosen, held_out, classes, settings, context.seed)

        def right(head: Head) -> NDArray[np.bool_]:
            answers: NDArray[np.bool_] = head.logits(held_out[0]).argmax(1) == held_out_y
            return answers

        head = fit(np.arange(len(y)), self.settings())
        linear = replace(self.settings(), hidden=0, dropout=0.0)  # for the curve: an mlp takes ten times as long
        curve = learning_curve(lambda rows: right(fit(rows, linear)), y, context.seed)
        answers = head.logits(held_out[0]).argmax(1)
        confusion = confusion_matrix(answers, held_out_y, classes)
        report = {**classification_report(answers, held_out_y, classes), "confusion": confusion.tolist()}
        context.progress.say(f"finetune  validation accuracy {report['accuracy']:.3f}, f1 {report['f1']:.3f}; {curve}")
        return head, {"epochs": head.history, "validation": report, "learning_curve": curve.as_dict()}


def _labels(examples: Sequence[Example]) -> Labels:
    return np.array([example.label for example in examples], np.intp)


def _check_classes(train: Sequence[Example], validation: Sequence[Example], labels: tuple[str, ...]) -> None:
    """Every class must be in the train split, and there must be something to stop on."""
    if len(labels) < 2:
        raise BadData(f"the data have one class only ({', '.join(labels)}): a classifier needs at least two")
    present = {example.label for example in train}
    absent = [name for index, name in enumerate(labels) if index not in present]
    if absent:
        raise BadData(f"no training example of {', '.join(absent[:5])}: add some, or leave that class out")
    if not validation:
        raise BadData("no validation examples: add some, so that training knows when to stop")


@dataclass(frozen=True)
class _Graph:
    """A classifier taken apart: its ONNX form, the backbone's bytes, and for `hf` the torch network."""

    proto: Any
    features: str
    backbone: bytes
    weight: NDArray[np.float32]
    network: Any = None

    def write(
        self, head: Head, out: Path, labels: tuple[str, ...], preprocessing: dict[str, Any], *, linear_hf: bool
    ) -> None:
        """The model with its new head: a Hugging Face folder, or `model.onnx`."""
        if linear_hf:
            from ..runtimes.torch import save_with_head

            save_with_head(self.network, self.weight, head.layers[0], labels, preprocessing, out)
            return
        import onnx

        from ..runtimes.onnx import write_metadata
        from ..runtimes.surgery import with_head

        proto = with_head(self.proto, self.features, list(head.layers))
        write_metadata(proto, labels, preprocessing)
        onnx.save(proto, str(out / ONNX_NAME))


def _open(model: Model, context: Context, views: int) -> _Graph:
    """Take the model apart; meanwhile the images are decoded (Pillow leaves `import torch` the interpreter)."""
    prepare = getattr(context.task, "prepare", None)
    with ThreadPoolExecutor(1) as pool:
        decoded = pool.submit(prepare, [model.record.preprocessing], views, context.progress) if prepare else None
        graph = _take_apart(model)
        if decoded:
            decoded.result()
    return graph


def _take_apart(model: Model) -> _Graph:
    import onnx

    network = None
    if model.format == "hf":
        from ..runtimes.torch import load_network, onnx_bytes
        from ..tasks.preprocess import Preprocessing

        network = load_network(model.path)
        height, width = Preprocessing.parse(model.record.preprocessing or {}).input_size
        proto = onnx.load_from_string(onnx_bytes(network, height, width))
    else:
        proto = onnx.load(str(model.weights))
    from ..runtimes.surgery import backbone, find_classifier

    classifier = find_classifier(proto)
    body = backbone(proto, classifier.features).SerializeToString()
    return _Graph(proto, classifier.features, body, classifier.weight, network)
