"""lora: low-rank adaptation. A few numbers beside each frozen matrix learn the new task (Hu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ...errors import BadData, InvalidOption, UnsupportedModel
from ...model import LANGUAGE_MODELLING, TRANSCRIPTION, Model, Record
from ...runtimes.loading import known_outputs
from ...units import format_bytes
from .. import Context, Method, option

LANGUAGE_RATE, IMAGE_RATE = 2e-3, 5e-4


@dataclass(frozen=True)
class _Training:
    """What differs between images and language."""

    head: str | None  # name of the layer that is trained whole
    head_share: float  # of the rate
    alpha: float
    rate: float
    mode: Any  # of the network at the start of an epoch


@dataclass(frozen=True)
class Lora(Method):
    """Low-rank adaptation: trains a few numbers beside frozen weights; for images and language models."""

    revision: ClassVar[int] = 3
    formats: ClassVar[dict[str, str]] = {"hf": "hf"}

    rank: int = option(8, "inner width of each adapter", low=1, high=1024)
    alpha: float | None = option(
        None, "scale of the adapters; by default twice the rank, for images the rank", low=1e-3, high=1e6
    )
    targets: str | None = option(None, "names of layers, separated by commas; by default all that can be adapted")
    epochs: int = option(5, "passes over the training examples at most", low=1, high=10_000)
    patience: int = option(2, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float | None = option(
        None, "of AdamW at the start of the cosine; by default 0.002, for images 0.0005", low=1e-8, high=1.0
    )
    batch_size: int = option(8, "examples, or rows of tokens, in a step", low=1, high=4096)
    length: int = option(256, "language: tokens in a row", low=8, high=1_000_000)
    checkpointing: bool = option(False, "compute each block again in the backward pass: less memory, a third slower")
    merge: bool = option(True, "add the adapters to the weights; False keeps them as a small folder beside the model")

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Train adapters on the train split, stop early on validation; write the merged model, or the adapters."""
        self.refuse_kinds(model, context, TRANSCRIPTION)
        if not self.merge and model.record.recipe and model.path.resolve().parent == out.resolve().parent:
            raise InvalidOption(
                "lora: merge=False leaves a folder that needs its backbone, which must be the model that you gave:"
                " put lora first in the recipe, or merge"
            )
        if not self.merge and model.record.state.get("zeros"):
            raise InvalidOption("lora: an adapter would fill the zeros of pruned weights: use merge=True")
        if not context.task.examples("train"):
            raise BadData("there are no training examples: give some")
        language = model.task == LANGUAGE_MODELLING
        return self._language(model, context, out) if language else self._images(model, context, out)

    def _images(self, model: Model, context: Context, out: Path) -> Record:
        """The head first, on features, then the adapters and it together: a random head would teach them nonsense."""
        from ...kinds.image_classification.transfer import check_classes
        from ...training import classifiers, lessons
        from ...training.train import frozen_norms

        preprocessing = model.record.preprocessing
        if preprocessing is None:
            raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
        check_classes(context.task)
        self._has_validation(context)
        network = _headed(model, preprocessing, context)
        training = _Training(
            classifiers.head_of(network)[0],
            classifiers.head_share(network),
            self.alpha or float(self.rank),
            self.learning_rate or IMAGE_RATE,
            frozen_norms,
        )
        lesson = lessons.labelled(context.task, preprocessing)
        history = self._train(classifiers.for_training(network), training, lesson, model, context, out)
        return self._record(model, context, history, labels=tuple(context.task.labels))

    def _language(self, model: Model, context: Context, out: Path) -> Record:
        from torch.nn import Module

        from ...runtimes.hf.causal import load_network, load_tokenizer
        from .reading import lesson, table

        network, tokenizer = load_network(model.path), load_tokenizer(model.path)
        longest = getattr(network.config, "max_position_embeddings", None) or self.length
        length = min(self.length, int(longest))
        rows = table(context.task, "train", tokenizer, length)
        held_out = table(context.task, "validation", tokenizer, length) if self._has_validation(context) else None
        training = _Training(
            None, 1.0, self.alpha or 2.0 * self.rank, self.learning_rate or LANGUAGE_RATE, Module.train
        )
        if rows.cut:
            context.progress.warn(
                f"lora: {rows.cut:.0%} of what the assistant says lies behind token {length} of its conversation and is"
                " not learnt: a larger length takes it in"
            )
        history = self._train(network, training, lesson(rows, held_out), model, context, out)
        return self._record(model, context, {**history, "rows": len(rows), "length": length, "cut": rows.cut})

    def _has_validation(self, context: Context) -> bool:
        found = bool(context.task.examples("validation"))
        if not found:
            context.progress.warn("lora: there is no validation split: all epochs run and the last weights are kept")
        return found

    def _train(
        self, network: Any, training: _Training, lesson: Any, model: Model, context: Context, out: Path
    ) -> dict[str, Any]:
        """Train, and write what is asked for; what is told of it."""
        from ...training.train import Settings, train
        from .adapting import adapted, chosen, groups, keep_zeros, last_parts, numbers

        names = chosen(network, self.targets, training.head)
        learner = adapted(network, names, self.rank, training.alpha, training.head, context.seed)
        keep_zeros(learner, model.record.state.get("zeros", ()))
        trained, everything = numbers(learner)
        estimate = self._estimate(learner, lesson, training.mode)
        context.progress.say(
            f"lora      {trained:,} of {everything:,} numbers are trained ({trained / everything:.2%}), in"
            f" {len(names)} layers ({', '.join(last_parts(names)[:8])}); about {format_bytes(estimate)} of memory at"
            " most, beside what Python and torch take"
        )
        parts = self.batch_size if self.checkpointing else 1
        settings = Settings(self.epochs, training.rate, self.batch_size, patience=self.patience, parts=parts)
        done = train(
            learner,
            lesson,
            settings,
            groups=groups(learner, training.head_share),
            mode=training.mode,
            seed=context.seed,
            threads=context.threads,
            checkpoint=context.checkpoint("lora"),
            deadline=context.deadline,
            what="lora",
            progress=context.progress,
        )
        self._write(learner, model, out)
        facts = {"trained": trained, "parameters": everything, "layers": len(names), "memory_estimate_bytes": estimate}
        return {**done.as_dict(), **facts}

    def _estimate(self, learner: Any, lesson: Any, mode: Any) -> int:
        """Peak memory of the training in bytes; turns gradient checkpointing on where it is asked for."""
        import numpy as np
        import torch

        from .adapting import enable_checkpointing
        from .memory import checkpointed, entering_bytes, saved_bytes, training_bytes

        batch = lesson.batch(np.array([0]), 0)
        mode(learner)
        with torch.random.fork_rng(devices=[]):
            kept, largest = saved_bytes(learner, lambda network: lesson.loss(network, batch))
            if not self.checkpointing:
                return training_bytes(learner, min(self.batch_size, lesson.examples), kept, largest)
            network = learner.base_model.model
            if not getattr(network, "supports_gradient_checkpointing", False):
                raise UnsupportedModel(f"{type(network).__name__} knows no gradient checkpointing: leave it out")
            enable_checkpointing(network)
            blocks = int(getattr(network.config, "num_hidden_layers", 1))
            entering = entering_bytes(network, blocks, lambda _: lesson.loss(learner, batch))
            outside, _ = saved_bytes(learner, lambda network: lesson.loss(network, batch))
        return training_bytes(learner, 1, checkpointed(kept, outside, blocks, entering), largest)

    def _write(self, learner: Any, model: Model, out: Path) -> None:
        if not self.merge:
            from ...runtimes.hf.adapters import save

            save(learner, model, out)
            return
        from ...runtimes.hf.widths import save as save_network

        zeros = set(model.record.state.get("zeros", ()))
        before = {name: tensor == 0 for name, tensor in _weights(learner) if name in zeros}
        network = learner.merge_and_unload()
        for name, tensor in network.named_parameters():
            if name in before:
                tensor.detach().masked_fill_(before[name], 0.0)
        save_network(network, out)
        model.copy_beside(out)

    def _record(
        self, model: Model, context: Context, history: dict[str, Any], labels: tuple[str, ...] | None = None
    ) -> Record:
        keys = (example.key for split in ("train", "validation") for example in context.task.examples(split))
        return replace(
            model.record,
            task=context.task.kind,
            labels=labels or model.record.labels,
            seen=tuple(sorted({*model.record.seen, *keys})),
            history={**model.record.history, "lora": history},
        )


def _headed(model: Model, preprocessing: dict[str, Any], context: Context) -> Any:
    """The network with a head for the data's labels: its own rows where it knows all, else one fitted on features."""
    from ...kinds.image_classification.backbone import take_apart
    from ...kinds.image_classification.features import FeatureStore
    from ...kinds.image_classification.transfer import Material, one_thread
    from ...runtimes.hf.torch import load_network, put_head
    from ...training import classifiers
    from ...training.head import HeadSettings

    labels = tuple(context.task.labels)
    network = load_network(model.path)
    rows = known_outputs(model, labels, network.config.num_labels)
    if rows is not None:
        classifiers.set_classes(network, labels, rows)
        return network
    apart = take_apart(model)
    store = FeatureStore(apart.graph, preprocessing, context.cache / "features", context.threads)
    with one_thread():
        material = Material.of(store, context.task, 1, context.seed, context.progress)
        head = material.fit(len(labels), HeadSettings(), context.seed)
    put_head(apart.network, apart.weight, head.layers[0], labels)
    return apart.network


def _weights(learner: Any) -> list[tuple[str, Any]]:
    """The frozen weights under the names that they have without adapters."""
    return [(name.replace(".base_layer.", "."), tensor) for name, tensor in learner.base_model.model.named_parameters()]
