"""What a student learns from a dictation: the teacher's words, and how sure it was of each.

Loss = weight of the words * cross entropy + weight of the doubts * KL(teacher || student), summed over the tokens of a
text and divided by their number (Gandhi et al. 2023, arXiv:2311.00430, equations 2 to 5; weights 1.0 and 0.8). Of the
teacher the k likeliest tokens are known; all others are one outcome: the KL is that of the coarser distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...task import Example
from ...training.train import Batch, Lesson, Rows
from .decoding import Written
from .teacher import Dictation

IGNORED = -100
LEAST = 1e-6  # of the probability that is left for all other tokens: float16 rounds what is less
JUDGED = 16  # examples that are judged at once


@dataclass(frozen=True)
class Weights:
    """Of the two parts of the loss."""

    words: float = 1.0  # cross entropy on what the teacher wrote
    doubts: float = 0.8  # KL from its distribution


def lesson(
    dictation: Dictation,
    task: Any,
    train: Sequence[Example],
    validation: Sequence[Example],
    weights: Weights,
    *,
    hears: bool,
) -> Lesson:
    """For `train.train`. hears: the student's own encoder is trained, or its window is another; else it reads states.

    With `hears` the features are those of the student's front end (`dictation.front` is replaced by the caller).
    """

    def inputs(examples: Sequence[Example]) -> dict[str, Tensor]:
        if hears:
            heard = np.stack([dictation.front(task.waveform(example, dictation.front.seconds)) for example in examples])
            return {"features": torch.from_numpy(heard)}
        return {"states": torch.from_numpy(np.stack([dictation.states(example) for example in examples])).float()}

    def batch(examples: Sequence[Example]) -> dict[str, Tensor]:
        return {**inputs(examples), **targets([dictation.written[example.key] for example in examples])}

    def rows(chosen: Rows, _epoch: int) -> Batch:
        return batch([train[int(row)] for row in chosen])

    def judge(network: Any) -> dict[str, float]:
        total, device = 0.0, next(network.parameters()).device
        for start in range(0, len(validation), JUDGED):
            part = validation[start : start + JUDGED]
            tensors = {name: tensor.to(device) for name, tensor in batch(part).items()}
            total += float(loss(network, tensors, weights)) * len(part)
        return {"loss": total / len(validation)}

    return Lesson(len(train), rows, lambda network, part: loss(network, part, weights), judge if validation else None)


def targets(written: Sequence[Written]) -> dict[str, Tensor]:
    """Padded: `tokens` (batch, length) fed to the decoder, `words` (batch, length) that follow, IGNORED in the prompt
    and behind the end, `ids` and `doubts` (batch, length, k), the teacher's likeliest tokens and their log-probability.
    """
    length = max(len(row.prompt) + len(row.tokens) for row in written) - 1
    top = max(row.ids.shape[1] for row in written)
    tokens = np.zeros((len(written), length), np.int64)
    words = np.full((len(written), length), IGNORED, np.int64)
    ids = np.zeros((len(written), length, top), np.int64)
    doubts = np.full((len(written), length, top), -np.inf, np.float32)
    for place, row in enumerate(written):
        whole, begin = np.concatenate([row.prompt, row.tokens]), len(row.prompt) - 1
        end = begin + len(row.tokens)
        tokens[place, :end] = whole[:-1]
        tokens[place, end:] = whole[-1]
        words[place, begin:end] = row.tokens
        ids[place, begin:end, : row.ids.shape[1]] = row.ids
        doubts[place, begin:end, : row.ids.shape[1]] = row.log_probabilities
    arrays: dict[str, NDArray[Any]] = {"tokens": tokens, "words": words, "ids": ids, "doubts": doubts}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loss(network: Any, batch: Batch, weights: Weights) -> Tensor:
    """The mean over the rows of a batch of the loss per token; see the module."""
    heard = {"encoder_outputs": (batch["states"],)} if "states" in batch else {"input_features": batch["features"]}
    logits = network(**heard, decoder_input_ids=batch["tokens"], use_cache=False).logits.float()
    known = batch["words"] != IGNORED
    log_q = torch.log_softmax(logits[known], -1)
    surprise = -log_q.gather(-1, batch["words"][known][:, None])[:, 0]
    each = weights.words * surprise
    if weights.doubts:
        each = each + weights.doubts * divergence(batch["doubts"][known], batch["ids"][known], log_q)
    counts = known.sum(1)
    share = (1.0 / counts.clamp(min=1))[:, None].expand_as(known)[known]
    return (each * share).sum() / len(counts)


def divergence(log_p: Tensor, ids: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, (n,), where of p only the likeliest tokens are known; the others are one outcome.

    log_p, ids: (n, k). log_q: (n, vocabulary).
    """
    p = log_p.exp()
    known_q = log_q.gather(-1, ids)
    inside = torch.where(p > 0, p * (log_p - known_q), torch.zeros_like(p)).sum(-1)
    rest_p = (1 - p.sum(-1)).clamp(min=0)
    rest_q = (1 - torch.where(p > 0, known_q.exp(), torch.zeros_like(p)).sum(-1)).clamp(min=LEAST)
    outside = torch.where(
        rest_p > LEAST, rest_p * (rest_p.clamp(min=LEAST).log() - rest_q.log()), torch.zeros_like(rest_p)
    )
    return inside + outside
