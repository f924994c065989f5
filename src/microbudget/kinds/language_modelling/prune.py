"""prune of a language model: the network with windows of tokens; each token but the last has an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import BadData, InvalidOption
from ...methods import Context
from ...methods.prune import Prune
from ...methods.prune.target import Batch, PruningTarget
from ...model import Model
from ...runtimes.hf.causal import load_network, load_tokenizer
from ...task import Example

TAKES = ("hf",)
WINDOWS_AT_ONCE = 8
WINDOW = 128  # tokens


class TextTarget(PruningTarget):
    """A language model; rows are the tokens that have a next one."""

    def answer(self, network: Any, batch: Batch) -> Tensor:
        """Logits (rows, vocabulary) of one batch."""
        logits: Tensor = network(**batch, use_cache=False).logits
        return logits[:, :-1].reshape(-1, logits.shape[-1])

    def labelled(self) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with the next tokens."""
        for batch in self.batches:
            yield batch, batch["input_ids"][:, 1:].reshape(-1)


def open_target(step: Prune, model: Model, context: Context, examples: Sequence[Example]) -> TextTarget:
    """The model's network with windows of WINDOW tokens from the passages, one after the other."""
    if step.latency:
        raise InvalidOption(
            "prune: latency is measured in ONNX Runtime, on images: use size or sparsity for a language model"
        )
    task: Any = context.task
    tokenizer = load_tokenizer(model.path)
    tokens: list[int] = []
    for example in examples:
        tokens += tokenizer(task.text(example), add_special_tokens=False, verbose=False)["input_ids"]
    width = min(WINDOW, len(tokens) // 2)
    if width < 2:
        raise BadData(f"the text to prune with has {len(tokens)} tokens: give more")
    rows = torch.tensor(tokens[: len(tokens) // width * width]).reshape(-1, width)[: len(examples)]
    starts = range(0, len(rows), WINDOWS_AT_ONCE)
    batches = [{"input_ids": rows[start : start + WINDOWS_AT_ONCE]} for start in starts]
    keys = tuple(example.key for example in examples)
    return TextTarget(load_network(model.path), batches, keys=keys, uniform=True)
