"""finetune of an image classifier: a head on its features, then on request training through the network."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...methods import Context
from ...methods.finetune import Finetune
from ...model import ONNX_NAME, Model, Record
from ...task import Task
from ...training.features import FeatureStore
from ...training.head import Head
from ...training.head_data import HeadData, check_classes, check_validation, labels_of, one_thread
from ...training.head_report import answers_report, fit_and_report
from .backbone import Backbone, open_backbone
from .teaching import preprocessing_of

BACKBONE_FACTOR, CUT_FACTOR = 0.1, 0.3  # on `deep_rate`: for a backbone as it was trained, and for one that was cut


def apply(step: Finetune, model: Model, context: Context, out: Path) -> Record:
    """Train the head on the train split, stop early on validation, write the model and what it learned."""
    preprocessing = preprocessing_of(model)
    check_classes(context.task)
    check_validation(context.task)
    backbone = _open(model, context, max(step.views, step.deep_views) if step.unfreeze else step.views)
    store = FeatureStore(backbone.graph, preprocessing, context.cache / "features", context.threads)
    with one_thread():
        data = HeadData.of(store, context.task, step.views, context.seed, context.progress)
        head, history = fit_and_report(data, step.head_settings(), context.task.labels, context.seed, context.progress)
    if step.unfreeze:
        history = _train_network(step, backbone, head, history, model, context, out)
    else:
        in_folder = step.output_format(model.format) == "hf"
        _write(backbone, head, out, context.task.labels, preprocessing, hf=in_folder)
    used = (*context.task.examples("train"), *context.task.examples("validation"))
    record = model.record.with_seen(example.key for example in used).with_report("finetune", history)
    # whatever the outputs were called: the head's are new
    record = replace(record, task=context.task.kind, output=None)
    return replace(record, labels=context.task.labels, preprocessing=preprocessing)


def _train_network(
    step: Finetune, backbone: Backbone, head: Head, history: dict[str, Any], model: Model, context: Context, out: Path
) -> dict[str, Any]:
    """Train through the network, beginning with the finished head, and write it. The report of both trainings."""
    from ...training import classifiers, objectives
    from ...training.modes import frozen_norms, zeros_stay
    from ...training.settings import Settings
    from ...training.train import train

    task, preprocessing = context.task, preprocessing_of(model)
    network, save = _with_head(backbone, head, task, preprocessing)
    rate = step.deep_rate * classifiers.head_factor(network)
    backbone_rate = step.deep_rate * (CUT_FACTOR if _lost_channels(model.record) else BACKBONE_FACTOR)
    trained = train(
        classifiers.for_training(network),
        objectives.labelled(task, preprocessing, views=step.deep_views),
        Settings(step.deep_epochs, rate, weight_decay=step.weight_decay, patience=step.deep_patience),
        context.execution("finetune"),
        groups=classifiers.groups(network, step.unfreeze == "last", backbone_rate / rate),
        mode=frozen_norms,
        after_step=zeros_stay(classifiers.pruned_weights(network, model.record.state)),
    )
    save(network, out)
    validation = task.examples("validation")
    logits = objectives.answers(network, task, preprocessing, validation)
    report = answers_report(logits, labels_of(validation), len(task.labels))
    context.progress.detail(f"finetune  unfrozen, epoch {trained.kept} kept: accuracy {report['accuracy']:.3f}")
    return {**history, **trained.as_dict(), "head_epochs": history["epochs"], "validation": report}


def _with_head(
    backbone: Backbone, head: Head, task: Task, preprocessing: dict[str, Any]
) -> tuple[Any, Callable[[Any, Path], None]]:
    """The network with its new head, of torch or made of the graph, and what writes it into a folder."""
    if backbone.network is None:
        from ...runtimes.onnx.surgery import with_head
        from .graph import network_of, save_graph

        proto = with_head(backbone.proto, backbone.features, list(head.layers))
        graph = network_of(proto, task, preprocessing, "logits")
        return graph, lambda network, out: save_graph(network, task.labels, preprocessing, out)
    from ...runtimes.hf.heads import put_head
    from ...runtimes.hf.image_classifier import save_network

    put_head(backbone.network, backbone.weight, head.layers[0], task.labels)
    return backbone.network, lambda network, out: save_network(network, preprocessing, out)


def _lost_channels(record: Record) -> bool:
    """Whether prune has removed channels: there is more to learn again, and the backbone takes a higher rate.

    Zeros and dropped blocks leave the statistics of batch norm as they were.
    """
    reports = [report for name, report in record.history.items() if name.split()[0] == "prune"]
    return any(report.get("structure") == "channels" for report in reports)


def _write(
    backbone: Backbone, head: Head, out: Path, labels: tuple[str, ...], preprocessing: dict[str, Any], *, hf: bool
) -> None:
    """The model with its new head: a Hugging Face folder, or `model.onnx`."""
    if hf:
        from ...runtimes.hf.heads import put_head
        from ...runtimes.hf.image_classifier import save_network

        put_head(backbone.network, backbone.weight, head.layers[0], labels)
        save_network(backbone.network, preprocessing, out)
        return
    write_onnx(backbone, head, out, labels, preprocessing)


def write_onnx(
    backbone: Backbone, head: Head, out: Path, labels: tuple[str, ...], preprocessing: dict[str, Any]
) -> None:
    """`model.onnx` in the folder: the backbone with a new head, and what its runtime has to know."""
    import onnx

    from ...runtimes.onnx.session import write_metadata
    from ...runtimes.onnx.surgery import with_head

    proto = with_head(backbone.proto, backbone.features, list(head.layers))
    write_metadata(proto, labels, preprocessing)
    onnx.save(proto, str(out / ONNX_NAME))


def _open(model: Model, context: Context, views: int) -> Backbone:
    """The model's backbone; meanwhile the images are decoded (Pillow releases the interpreter for `import torch`)."""
    prepare = getattr(context.task, "prepare", None)
    with ThreadPoolExecutor(1) as pool:
        decoded = pool.submit(prepare, [model.record.preprocessing], views, context.progress) if prepare else None
        backbone = open_backbone(model)
        if decoded:
            decoded.result()
    return backbone
