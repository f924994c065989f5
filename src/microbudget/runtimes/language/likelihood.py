"""Likelihood: what tokens cost under logits, and how likely a model finds each of several continuations of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import BadData
from .reader import Logits, Reader, Tokenizer

AT_ONCE = 4  # rows of logits in a copy: with a vocabulary of 49,152 they stay in a core's cache
MOST_BRANCHES = 32  # at once: llama.cpp has at most 64 sequences

Tokens = list[int]


def nats(logits: Logits, targets: Sequence[int]) -> NDArray[np.float64]:
    """The cross entropy of each target, -ln p: logits (tokens, vocabulary) -> (tokens,)."""
    found = np.empty(len(logits))
    buffer = np.empty((AT_ONCE, logits.shape[1]), np.float32)
    for start in range(0, len(logits), AT_ONCE):
        rows = logits[start : start + AT_ONCE]
        shifted = np.subtract(rows, rows.max(axis=1, keepdims=True), out=buffer[: len(rows)])
        chosen = shifted[np.arange(len(rows)), list(targets[start : start + AT_ONCE])].astype(np.float64)
        total = np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64)
        found[start : start + AT_ONCE] = np.log(total) - chosen
    return found


def log_likelihoods(reader: Reader, context: str, continuations: Sequence[str], rows: int) -> list[float]:
    """ln p of each continuation after the context, which is read once for all of them.

    Both are tokenized together and cut where the tokens of the context alone end, as lm-evaluation-harness does it
    (`TemplateLM._encode_pair`). An empty context is BOS, where the model has one. rows: of logits at once. Raises
    BadData where they do not fit into the model's context.
    """
    pairs = [split(reader, context, continuation) for continuation in continuations]
    prefix = begun(reader, pairs[0][0])
    branches = [tokens for _, tokens in pairs]
    check_length(reader, len(prefix) + max(map(len, branches)) - 1, context or continuations[0])
    if prefix:
        return [-cost for cost in _costs(reader, prefix, branches, rows)]
    first = float(np.log(reader.vocabulary))  # nothing is before the first token: all are equally likely
    return [-first - sum(_costs(reader, branch[:1], [branch[1:]], rows)) for branch in branches]


def split(reader: Tokenizer, context: str, continuation: str) -> tuple[Tokens, Tokens]:
    """The tokens of a context and of what continues it. Spaces at the end of the context go with the continuation."""
    before = reader.encode(context.rstrip()) if context.rstrip() else []
    whole = reader.encode(context + continuation)
    return before, whole[len(before) :] or reader.encode(continuation)


def begun(reader: Tokenizer, tokens: Tokens) -> Tokens:
    """The tokens after BOS, where the model was trained to see one or nothing else is there."""
    if reader.bos is None or (tokens and not reader.adds_bos):
        return tokens
    return [reader.bos, *tokens]


def check_length(reader: Reader, tokens: int, text: str) -> None:
    """Raise BadData for a question that does not fit into the model's context: a part of it is another question."""
    if tokens > reader.longest:
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise BadData(
            f"the question {shown!r} has {tokens} tokens with its answer, and the model reads at most {reader.longest}:"
            " shorten it, or leave it out"
        )


def _costs(reader: Reader, prefix: Tokens, branches: Sequence[Tokens], rows: int) -> list[float]:
    """Nats of each branch, the parts of a long one one after the other."""
    found: list[float] = []
    parts = [branch[:rows] for branch in branches]
    for batch in _batches(parts, rows):
        chosen = [parts[number] for number in batch if parts[number]]
        answered = iter(reader.branch(prefix, chosen) if chosen else ())
        found += [float(nats(next(answered), parts[number]).sum()) if parts[number] else 0.0 for number in batch]
    rest = [(number, branch) for number, branch in enumerate(branches) if len(branch) > rows]
    for number, branch in rest:
        found[number] += sum(_costs(reader, [*prefix, *branch[:rows]], [branch[rows:]], rows))
    return found


def _batches(branches: Sequence[Tokens], rows: int) -> Iterator[list[int]]:
    """The numbers of the branches, so many at once that padded to one length they need at most `rows` rows."""
    batch: list[int] = []
    for number in range(len(branches)):
        longest = max(len(branches[each]) for each in (*batch, number))
        if batch and (len(batch) == MOST_BRANCHES or longest * (len(batch) + 1) > rows):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
