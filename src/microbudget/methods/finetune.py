"""finetune: transfer learning. A new head on a frozen backbone whose features are computed once per view.

`unfreeze` then trains on from there through the network, its last block or all of it (head first, then the rest:
Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidOption, InvalidRecipe, UnsupportedModel
from ..kinds.image_classification.backbone import Backbone, take_apart
from ..kinds.image_classification.features import FeatureStore
from ..kinds.image_classification.transfer import (
    Labels,
    Material,
    check_classes,
    check_validation,
    labels_of,
    one_thread,
)
from ..metrics import classification_report, confusion_matrix
from ..model import LANGUAGE_MODELLING, ONNX_NAME, TRANSCRIPTION, Model, Record
from ..training.head import Head, HeadSettings
from ..training.learning_curve import learning_curve
from . import Context, Method, option

HIDDEN = 256
DROPOUT = 0.5
BACKBONE_SHARE, CUT_SHARE = 0.1, 0.3  # of `deep_rate`: of a backbone that is whole, and of one that was cut


@dataclass(frozen=True)
class Finetune(Method):
    """Transfer learning: a new head for your labels on the frozen network."""

    revision: ClassVar[int] = 3
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
    unfreeze: str | None = option(
        None,
        "what is trained beside the head, once the head is there: the last block, or all",
        choices=(None, "last", "all"),
    )
    deep_views: int = option(4, "unfreeze: views of each photo, each epoch shows another", low=1, high=64)
    deep_epochs: int = option(10, "unfreeze: passes over the photos at most", low=1, high=10_000)
    deep_patience: int = option(5, "unfreeze: epochs without a better validation loss before it stops", low=1)
    deep_rate: float = option(
        1e-3,
        "unfreeze: AdamW's learning rate of a head on up to 128 features, less on more; the backbone's is a tenth of"
        " it, or three where the network has lost channels",
        low=1e-8,
        high=1.0,
    )

    def output_format(self, input_format: str) -> str:
        """As the input's, but no Hugging Face class holds an `mlp` head: that gives `onnx`."""
        output = super().output_format(input_format)
        if self.unfreeze and input_format != "hf":
            raise InvalidRecipe(
                f"finetune(unfreeze={self.unfreeze!r}) trains through the network, which takes an hf folder, but gets"
                f" {input_format}: put it before export, or leave unfreeze out"
            )
        if self.unfreeze and self.head == "mlp":
            raise InvalidOption("finetune: unfreeze takes head='linear', the one that a Hugging Face folder can hold")
        return "onnx" if self.head == "mlp" else output

    def settings(self) -> HeadSettings:
        """The head's own settings."""
        hidden, dropout = (HIDDEN, DROPOUT) if self.head == "mlp" else (0, 0.0)
        return HeadSettings(hidden, dropout, self.epochs, self.patience, self.learning_rate, self.weight_decay)

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Train the head on the train split, stop early on validation, write the model and what it learned."""
        self.refuse_kinds(model, context, TRANSCRIPTION, LANGUAGE_MODELLING)
        preprocessing = model.record.preprocessing
        if preprocessing is None:
            raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
        check_classes(context.task)
        check_validation(context.task)
        apart = _open(model, context, max(self.views, self.deep_views) if self.unfreeze else self.views)
        store = FeatureStore(apart.graph, preprocessing, context.cache / "features", context.threads)
        with one_thread():
            material = Material.of(store, context.task, self.views, context.seed, context.progress)
            fitted, history = self._train(material, context)
        if self.unfreeze:
            history = self._deepen(apart, fitted, history, model, context, out)
        else:
            _write(apart, fitted, out, context.task.labels, preprocessing, hf=self.output_format(model.format) == "hf")
        used = (*context.task.examples("train"), *context.task.examples("validation"))
        seen = {*model.record.seen, *(example.key for example in used)}
        return replace(
            model.record,
            task=context.task.kind,
            labels=context.task.labels,
            preprocessing=preprocessing,
            seen=tuple(sorted(seen)),
            history={**model.record.history, "finetune": history},
        )

    def _train(self, material: Material, context: Context) -> tuple[Head, dict[str, Any]]:
        """The head, and what is told of its training."""
        classes, held_out_y = len(context.task.labels), material.held_out_labels

        def right(rows: Labels) -> NDArray[np.bool_]:
            linear = replace(self.settings(), hidden=0, dropout=0.0)  # an mlp takes ten times as long
            fitted = material.fit(classes, linear, context.seed, rows)
            answers: NDArray[np.bool_] = fitted.logits(material.held_out).argmax(1) == held_out_y
            return answers

        head = material.fit(classes, self.settings(), context.seed)
        curve = learning_curve(right, material.labels, context.seed)
        report = _report(head.logits(material.held_out), held_out_y, context.task.labels)
        context.progress.say(f"finetune  validation accuracy {report['accuracy']:.3f}, f1 {report['f1']:.3f}; {curve}")
        return head, {"epochs": head.history, "validation": report, "learning_curve": curve.as_dict()}

    def _deepen(
        self, apart: Backbone, head: Head, history: dict[str, Any], model: Model, context: Context, out: Path
    ) -> dict[str, Any]:
        """Train on from the finished head through the network; write it. What is told of it all."""
        from ..runtimes.hf.torch import put_head, save_network
        from ..training import classifiers, lessons
        from ..training.train import Settings, frozen_norms, train, zeros_stay

        task, preprocessing, network = context.task, model.record.preprocessing or {}, apart.network
        put_head(network, apart.weight, head.layers[0], task.labels)
        rate = self.deep_rate * classifiers.head_share(network)
        backbone = self.deep_rate * (CUT_SHARE if _lost_channels(model.record) else BACKBONE_SHARE)
        groups = classifiers.groups(network, self.unfreeze == "last", backbone / rate)
        settings = Settings(self.deep_epochs, rate, weight_decay=self.weight_decay, patience=self.deep_patience)
        trained = train(
            classifiers.for_training(network),
            lessons.labelled(task, preprocessing, views=self.deep_views),
            settings,
            groups=groups,
            mode=frozen_norms,
            after_step=zeros_stay(classifiers.pruned_weights(network, model.record.state)),
            seed=context.seed,
            threads=context.threads,
            checkpoint=context.checkpoint("finetune"),
            deadline=context.deadline,
            what="finetune",
            progress=context.progress,
        )
        save_network(network, preprocessing, out)
        validation = task.examples("validation")
        report = _report(lessons.answers(network, task, preprocessing, validation), labels_of(validation), task.labels)
        context.progress.say(f"finetune  unfrozen, epoch {trained.kept} kept: accuracy {report['accuracy']:.3f}")
        return {**history, **trained.as_dict(), "head_epochs": history["epochs"], "validation": report}


def _lost_channels(record: Record) -> bool:
    """Whether a prune has cut it: there is more to learn again, and prune has repaired what batch norm takes for known.

    Zeros and dropped blocks leave the statistics as they were.
    """
    reports = [report for name, report in record.history.items() if name.split()[0] == "prune"]
    return any(report.get("structure") == "channels" for report in reports)


def _report(logits: NDArray[Any], targets: Labels, labels: tuple[str, ...]) -> dict[str, Any]:
    answers = logits.argmax(1)
    confusion = confusion_matrix(answers, targets, len(labels))
    return {**classification_report(answers, targets, len(labels)), "confusion": confusion.tolist()}


def _write(
    apart: Backbone, head: Head, out: Path, labels: tuple[str, ...], preprocessing: dict[str, Any], *, hf: bool
) -> None:
    """The model with its new head: a Hugging Face folder, or `model.onnx`."""
    if hf:
        from ..runtimes.hf.torch import put_head, save_network

        put_head(apart.network, apart.weight, head.layers[0], labels)
        save_network(apart.network, preprocessing, out)
        return
    import onnx

    from ..runtimes.onnx.session import write_metadata
    from ..runtimes.onnx.surgery import with_head

    proto = with_head(apart.proto, apart.features, list(head.layers))
    write_metadata(proto, labels, preprocessing)
    onnx.save(proto, str(out / ONNX_NAME))


def _open(model: Model, context: Context, views: int) -> Backbone:
    """Take the model apart; meanwhile the images are decoded (Pillow leaves `import torch` the interpreter)."""
    prepare = getattr(context.task, "prepare", None)
    with ThreadPoolExecutor(1) as pool:
        decoded = pool.submit(prepare, [model.record.preprocessing], views, context.progress) if prepare else None
        apart = take_apart(model)
        if decoded:
            decoded.result()
    return apart
