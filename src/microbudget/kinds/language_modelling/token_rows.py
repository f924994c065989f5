"""Text and conversations as rows of tokens, of which a language model learns some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...errors import BadData
from ...task import Example, Split, Task
from ...training.next_tokens import TokenRows, padded


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
    taken = sum(learnt for row in rows for _, learnt in row)
    return padded(rows, 1 - taken / meant)


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
