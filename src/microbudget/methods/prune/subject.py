"""The network under the knife, and the examples without labels that its answers are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import BadData, UnsupportedModel
from ...model import LANGUAGE_MODELLING, Model
from ...task import Example
from .. import Context

BATCH = 32
READ_AT_ONCE = 8  # windows
WINDOW = 128  # tokens
Batch = dict[str, Tensor]


@dataclass
class Subject:
    """A network in eval mode, batches of inputs, and the class of each row where the labels are the network's."""

    network: Any
    batches: list[Batch]
    targets: Tensor | None = None
    keys: tuple[str, ...] = ()  # of the examples

    def logits(self, network: Any = None) -> Tensor:
        """Answers to all batches, (rows, classes): a row for each example, or for each token but the last."""
        with torch.inference_mode():
            return torch.cat([answer(network or self.network, batch) for batch in self.batches])

    def labelled(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its classes; without labels those that the network answers."""
        start = 0
        for batch in self.batches:
            if "input_ids" in batch:
                yield batch, batch["input_ids"][:, 1:].reshape(-1)
                continue
            count = len(next(iter(batch.values())))
            with torch.no_grad():
                found = answer(self.network, batch).argmax(1) if self.targets is None else self.targets[start:][:count]
            start += count
            yield batch, found

    @property
    def example(self) -> Batch:
        """Two examples, for tracing."""
        return {name: tensor[:2] for name, tensor in self.batches[0].items()}


def answer(network: Any, batch: Batch) -> Tensor:
    """Logits (rows, classes) of one batch."""
    options = {"use_cache": False} if "input_ids" in batch else {}
    logits: Tensor = network(**batch, **options).logits
    return logits[:, :-1].reshape(-1, logits.shape[-1]) if logits.ndim == 3 else logits


def divergence(reference: Tensor, answers: Tensor) -> float:
    """Mean KL of answers from the reference, in nats: both logits (rows, classes)."""
    p, q = (functional.log_softmax(one.double(), dim=1) for one in (reference, answers))
    return float((p.exp() * (p - q)).sum(dim=1).mean())


def open_subject(model: Model, context: Context, samples: int) -> Subject:
    """The model's network with `samples` training examples. Raises what opening raises, BadData without examples."""
    if context.threads:
        torch.set_num_threads(context.threads)
    examples = context.task.examples("train")
    if len(examples) < 2:
        raise BadData(f"prune compares answers on training examples, and there are {len(examples)}: give more")
    chosen = [examples[index] for index in np.unique(np.linspace(0, len(examples) - 1, samples, dtype=int))]
    if model.task == LANGUAGE_MODELLING:
        return _reader(model, context, chosen)
    return _classifier(model, context, chosen)


def _classifier(model: Model, context: Context, examples: Sequence[Example]) -> Subject:
    from ...runtimes.hf.torch import load_network
    from ...training.lessons import inputs

    if model.record.preprocessing is None:
        raise UnsupportedModel(f"{model.path} says nothing of its preprocessing: add a preprocessor_config.json")
    batches = [
        inputs(context.task, examples[start : start + BATCH], model.record.preprocessing)
        for start in range(0, len(examples), BATCH)
    ]
    known = model.labels is not None and tuple(model.labels) == tuple(context.task.labels)
    targets = torch.tensor([example.label for example in examples]) if known else None
    network = load_network(model.path).to(memory_format=torch.channels_last)  # as `inputs` has the pixels
    return Subject(network, batches, targets, tuple(example.key for example in examples))


def _reader(model: Model, context: Context, examples: Sequence[Example]) -> Subject:
    """Windows of WINDOW tokens from the passages, one behind the other."""
    from ...runtimes.hf.causal import load_network, load_tokenizer

    text = getattr(context.task, "text", None)
    if text is None:
        raise BadData(f"a language model is pruned with text, and the data are for {context.task.kind}")
    tokenizer = load_tokenizer(model.path)
    tokens: list[int] = []
    for example in examples:
        tokens += tokenizer(text(example), add_special_tokens=False, verbose=False)["input_ids"]
    width = min(WINDOW, len(tokens) // 2)
    if width < 2:
        raise BadData(f"the text to prune with has {len(tokens)} tokens: give more")
    rows = torch.tensor(tokens[: len(tokens) // width * width]).reshape(-1, width)[: len(examples)]
    batches = [{"input_ids": rows[start : start + READ_AT_ONCE]} for start in range(0, len(rows), READ_AT_ONCE)]
    return Subject(load_network(model.path), batches, None, tuple(example.key for example in examples))
