"""lora of a language model with a prompt: the label's tokens after the prompt are what is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch.nn import Module

from ...methods import Context
from ...methods.lora import Lora
from ...methods.lora.training import Learner, adapted_record, train_adapters
from ...model import Model, Record
from ...runtimes.hf.causal import CausalTokenizer, load_network
from ...runtimes.language.likelihood import begun, split
from ...runtimes.text.encoding import PROMPT
from ...runtimes.text.prompt import Prompt
from ...runtimes.text.prompted import cut
from ...task import Example
from ...training.next_tokens import TokenRows, next_tokens, padded
from .teaching import texts_of

RATE = 5e-4


def apply(step: Lora, model: Model, context: Context, out: Path) -> Record:
    """Train the adapters. The labels' probabilities are learnt now, so that nothing is left to calibrate."""
    task, labels = context.task, tuple(context.task.labels)
    prompt = Prompt.read((model.record.preprocessing or {})[PROMPT])
    tokenizer = CausalTokenizer(model.path)
    train, validation = (
        _rows(prompt, tokenizer, task.examples(name), step.length, context) for name in ("train", "validation")
    )
    learner = Learner(
        load_network(model.path), head=None, head_factor=1.0, alpha=2.0 * step.rank, rate=RATE, mode=Module.train
    )
    assert train is not None
    report = train_adapters(step, learner, next_tokens(train, validation), model, context, out)
    record = adapted_record(model, context, {**report, "rows": len(train), "length": train.tokens.shape[1]})
    reading = {**(record.preprocessing or {}), PROMPT: replace(prompt, calibrated=False).as_dict()}
    return replace(record, labels=labels, preprocessing=reading)


def _rows(
    prompt: Prompt, tokenizer: CausalTokenizer, examples: Sequence[Example], length: int, context: Context
) -> TokenRows | None:
    """A row for each labelled text: the prompt, which is read, and its label, which is learnt. None: there is none.

    length: tokens of a row at most, from which the text is cut.
    """
    around = len(tokenizer.encode(prompt.context(("",) * prompt.parts)))
    longest = max(len(tokenizer.encode(f" {word}")) for word in prompt.words)
    most = max(1, length - around - longest - 1)
    labelled = [example for example in examples if example.label is not None]
    rows: list[list[tuple[int, bool]]] = []
    for example, texts in zip(labelled, texts_of(context.task, labelled, length), strict=True):
        assert example.label is not None
        before, after = split(tokenizer, prompt.context(cut(tokenizer, texts, most)), prompt.words[example.label])
        rows.append([*_tagged(begun(tokenizer, before), False), *_tagged(after, True)])
    return padded(rows) if rows else None


def _tagged(tokens: Sequence[int], learnt: bool) -> Iterator[tuple[int, bool]]:
    return ((token, learnt) for token in tokens)
