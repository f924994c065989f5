"""Text and conversations as rows of tokens, and the objective with which a language model learns them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...errors import BadData
from ...task import Example, Split, Task
from ...training.objective import Batch, Objective, Scores

IGNORED = -100  # a target that is not learnt: the user's messages, and padding
VALIDATED_AT_ONCE = 1  # rows: more would take more memory than a training with checkpointing


@dataclass(frozen=True)
class TokenRows:
    """Rows of equal length: tokens and targets, both (rows, length), the targets not shifted.

    cut: fraction of the tokens to be learnt that did not fit into the rows.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    cut: float = 0.0

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: Any) -> Batch:
        """The inputs and targets of these rows."""
        return {"input_ids": self.tokens[rows], "targets": self.targets[rows]}


def token_rows(task: Task, split: Split, tokenizer: Any, length: int) -> TokenRows:
    """The split of a task with `text` or `conversation`, in rows of `length` tokens.

    Texts are joined and cut; a conversation is a row of its own, cut at its end. Raises BadData.
    """
    examples = task.examples(split)
    conversation = getattr(task, "conversation", None)
    if conversation is not None:
        return conversation_rows([conversation(example) for example in examples], tokenizer, length)
    text = getattr(task, "text", None)
    if text is None:
        raise BadData(f"a language model learns from text, and the data are for {task.kind}")
    return _texts(text, examples, tokenizer, length)


def _texts(text: Any, examples: Sequence[Example], tokenizer: Any, length: int) -> TokenRows:
    tokens: list[int] = []
    for example in examples:
        tokens += tokenizer(text(example), add_special_tokens=False, verbose=False)["input_ids"]
    length = min(length, len(tokens))
    if length < 2:
        raise BadData(f"the text has {len(tokens)} tokens: give more")
    rows = torch.tensor(tokens[: len(tokens) // length * length]).reshape(-1, length)
    return TokenRows(rows, rows)


def conversation_rows(conversations: Sequence[Any], tokenizer: Any, length: int) -> TokenRows:
    """Each message's tokens; targets are those of the assistant, with the token that ends its message."""
    rows = [_tagged(answers, tokenizer) for answers in _answers(conversations, tokenizer)]
    meant = sum(learnt for row in rows for _, learnt in row)
    rows = [row for row in (row[:length] for row in rows) if any(learnt for _, learnt in row)]
    if not rows:
        raise BadData(f"no answer of an assistant is in the first {length} tokens of a conversation: nothing to learn")
    width = max(len(row) for row in rows)
    tokens = np.zeros((len(rows), width), np.int64)
    targets = np.full((len(rows), width), IGNORED, np.int64)
    for index, row in enumerate(rows):
        for place, (token, learnt) in enumerate(row):
            tokens[index, place] = token
            targets[index, place] = token if learnt else IGNORED
    taken = sum(learnt for row in rows for _, learnt in row)
    return TokenRows(torch.from_numpy(tokens), torch.from_numpy(targets), 1 - taken / meant)


def _answers(conversations: Sequence[Any], tokenizer: Any) -> Iterator[list[tuple[str, str]]]:
    """Of each conversation each answer of the assistant, after the text before it, in the model's own template."""
    from ...runtimes.language.chat import ChatTemplate
    from ...runtimes.language.renderer import Renderer

    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token or "", tokenizer.eos_token or "")
    places = [[at for at, message in enumerate(row, 1) if message["role"] == "assistant"] for row in conversations]
    begun = (row[:end] for row, ends in zip(conversations, places, strict=True) for end in ends)
    with Renderer() as renderer:
        answers = renderer.last_answers(template, begun)
        for ends in places:
            yield list(itertools.islice(answers, len(ends)))


def _tagged(answers: Sequence[tuple[str, str]], tokenizer: Any) -> list[tuple[int, bool]]:
    """The tokens of a conversation, and whether they are the assistant's.

    The text grows answer by answer; what each part adds is encoded separately. Some templates rewrite earlier turns
    (without their reasoning): then those are only read, in their last form.
    """
    before = ""
    row: list[tuple[int, bool]] = []
    for prompt, reply in answers:
        if not prompt.startswith(before):
            before, row = "", []
        row += _encoded(tokenizer, prompt[len(before) :], False)
        row += _encoded(tokenizer, reply, True)
        before = prompt + reply
    return row


def _encoded(tokenizer: Any, text: str, learnt: bool) -> Iterator[tuple[int, bool]]:
    for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]:
        yield int(token), learnt


def next_tokens(train: TokenRows, validation: TokenRows | None) -> Objective:
    """Next tokens, by their mean cross entropy."""

    def validate(network: Any) -> Scores:
        return {"loss": mean_nats(network, validation)} if validation is not None else {}

    return Objective(
        len(train),
        lambda rows, _epoch: train.batch(torch.from_numpy(np.asarray(rows))),
        loss,
        validate if validation is not None else None,
        lambda batch: float((batch["targets"][:, 1:] != IGNORED).sum()),
    )


def loss(network: Any, batch: Batch) -> torch.Tensor:
    """Mean nats of the targets, a scalar."""
    total, count = _nats(network, batch)
    return total / count.clamp(min=1)


def mean_nats(network: Any, rows: TokenRows) -> float:
    """Mean nats of all targets of a table; the network is in eval mode."""
    device = next(network.parameters()).device
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), VALIDATED_AT_ONCE):
            part = rows.batch(slice(start, start + VALIDATED_AT_ONCE))
            batch = {name: tensor.to(device) for name, tensor in part.items()}
            nats, targets = _nats(network, batch)
            total, count = total + float(nats), count + float(targets)
    return total / max(count, 1.0)


def _nats(network: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    logits = network(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    targets = batch["targets"][:, 1:]
    total = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return total, (targets != IGNORED).sum()
