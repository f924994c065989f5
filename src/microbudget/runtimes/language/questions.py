"""Questions to an open language model: which of several choices is likely, or what it writes after a prompt.

What is asked and answered travels as JSON: texts and numbers of any count in one array. A question is

* `{"context": ..., "continuations": [...]}`; its answer `{"log_likelihoods": [...]}`, in nats, or
* `{"prompt": ..., "answer": ... or null, "tokens": ..., "chat": ...}`; its answer `{"text": ..., "log_likelihood": ...,
  "chat": ...}`: what greedy decoding writes and how likely that is. answer: what is expected, which says how much is
  written; tokens: how much, where nothing is expected. chat: through the model's chat template, where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chat import Message
from .generate import greedy
from .likelihood import begun, check_length, log_likelihoods
from .reader import Reader

FURTHER = 2  # tokens after the expected ones: whether the model goes on with the same word
Render = Callable[[Sequence[Message]], str]


def packed(questions: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Questions as the inputs of a session's `answer`: `questions` (n, bytes), padded, with `end` (n,)."""
    parts = [json.dumps(question, ensure_ascii=False).encode() for question in questions]
    table = np.zeros((len(parts), max(map(len, parts))), np.uint8)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = np.frombuffer(part, np.uint8)
    return {"questions": table, "end": np.array([len(part) for part in parts])}


def answered(reader: Reader, inputs: dict[str, NDArray[Any]], rows: int, render: Render) -> NDArray[Any]:
    """The answers to packed questions, (n,) JSON texts. rows: of logits at once. Raises BadData, UnsupportedModel."""
    questions = (
        json.loads(row[: int(end)].tobytes()) for row, end in zip(inputs["questions"], inputs["end"], strict=True)
    )
    return np.array([json.dumps(_answer(reader, question, rows, render)) for question in questions])


def _answer(reader: Reader, question: dict[str, Any], rows: int, render: Render) -> dict[str, Any]:
    if "continuations" in question:
        found = log_likelihoods(reader, question["context"], question["continuations"], rows)
        return {"log_likelihoods": [round(value, 6) for value in found]}
    chat = bool(question["chat"] and reader.chat_template)
    prompt = render([{"role": "user", "content": question["prompt"]}]) if chat else question["prompt"].rstrip(" ")
    prompted = begun(reader, reader.encode(prompt, chat))
    if chat and reader.bos is not None and prompted[:2] == [reader.bos] * 2:  # the template writes it too
        prompted = prompted[1:]
    expected = question["answer"]
    tokens = question["tokens"] if expected is None else len(reader.encode(f" {expected}")) + FURTHER
    check_length(reader, len(prompted) + tokens, question["prompt"])
    text, likelihood = greedy(reader, prompted, tokens)
    return {"text": text, "log_likelihood": round(likelihood, 6), "chat": chat}
