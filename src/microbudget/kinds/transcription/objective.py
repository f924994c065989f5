"""What a student learns from pseudo-labels: the teacher's tokens, and its distribution over the next token.

Loss = weight of the tokens * cross entropy + weight of the distribution * KL(teacher || student), summed over the
tokens of a transcript and divided by their number (Gandhi et al. 2023, arXiv:2311.00430, equations 2 to 5; weights 1.0
and 0.8). Of the teacher the k most likely tokens are known; all others are one outcome: the KL is that of the coarser
distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...audio.log_mel import LogMel
from ...task import Example
from ...training.objective import Batch, Objective
from ...training.order import Rows
from .decoding import PseudoLabel
from .pseudo_labels import PseudoLabels

IGNORED = -100
LEAST = 1e-6  # of the probability that is left for all other tokens: float16 rounds what is less
VALIDATED_AT_ONCE = 16  # examples


@dataclass(frozen=True)
class Weights:
    """Of the two parts of the loss."""

    tokens: float = 1.0  # cross entropy on the teacher's transcript
    distribution: float = 0.8  # KL from the teacher's distribution


PAPER = Weights()


@dataclass(frozen=True)
class TrainingData:
    """The recordings that are learnt from, with the teacher's pseudo-labels; those left out are counted by reason."""

    task: Any
    labels: PseudoLabels
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    left_out: dict[str, int]

    @property
    def keys(self) -> set[str]:
        """For `Record.seen`."""
        return {example.key for example in (*self.train, *self.validation)}

    def report(self) -> dict[str, Any]:
        """For a record's history."""
        counts = {"teacher_passes": self.labels.passes, "recordings": len(self.labels.labels)}
        return {**counts, "train": len(self.train), "validation": len(self.validation), "left_out": self.left_out}


def objective(data: TrainingData, weights: Weights = PAPER, *, front: LogMel | None) -> Objective:
    """The objective of a student. front: the student's own, where its encoder is trained or its window is another; None
    where the student reads the states of the teacher's encoder.
    """
    labels, task = data.labels, data.task

    def inputs(examples: Sequence[Example]) -> dict[str, Tensor]:
        if front is not None:
            features = np.stack([front(task.waveform(example, front.seconds)) for example in examples])
            return {"features": torch.from_numpy(features)}
        return {"states": torch.from_numpy(np.stack([labels.states(example) for example in examples])).float()}

    def batch(examples: Sequence[Example]) -> dict[str, Tensor]:
        return {**inputs(examples), **targets([labels.labels[example.key] for example in examples])}

    def rows(chosen: Rows, _epoch: int) -> Batch:
        return batch([data.train[int(row)] for row in chosen])

    def validate(network: Any) -> dict[str, float]:
        total, device = 0.0, next(network.parameters()).device
        for start in range(0, len(data.validation), VALIDATED_AT_ONCE):
            part = data.validation[start : start + VALIDATED_AT_ONCE]
            tensors = {name: tensor.to(device) for name, tensor in batch(part).items()}
            total += float(loss(network, tensors, weights)) * len(part)
        return {"loss": total / len(data.validation)}

    return Objective(
        len(data.train),
        rows,
        lambda network, part: loss(network, part, weights),
        validate if data.validation else None,
    )


def targets(labels: Sequence[PseudoLabel]) -> dict[str, Tensor]:
    """Padded: `tokens` (batch, length) fed to the decoder, `next` (batch, length) that follow, IGNORED in the prompt
    and after the end, `ids` and `log_probabilities` (batch, length, k), the teacher's most likely tokens.
    """
    length = max(len(label.prompt) + len(label.tokens) for label in labels) - 1
    top = max(label.ids.shape[1] for label in labels)
    tokens = np.zeros((len(labels), length), np.int64)
    following = np.full((len(labels), length), IGNORED, np.int64)
    ids = np.zeros((len(labels), length, top), np.int64)
    log_probabilities = np.full((len(labels), length, top), -np.inf, np.float32)
    for place, label in enumerate(labels):
        whole, begin = np.concatenate([label.prompt, label.tokens]), len(label.prompt) - 1
        end = begin + len(label.tokens)
        tokens[place, :end] = whole[:-1]
        tokens[place, end:] = whole[-1]
        following[place, begin:end] = label.tokens
        ids[place, begin:end, : label.ids.shape[1]] = label.ids
        log_probabilities[place, begin:end, : label.ids.shape[1]] = label.log_probabilities
    arrays: dict[str, NDArray[Any]] = {
        "tokens": tokens,
        "next": following,
        "ids": ids,
        "log_probabilities": log_probabilities,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loss(network: Any, batch: Batch, weights: Weights) -> Tensor:
    """The mean over the rows of a batch of the loss per token; see the module."""
    given = {"encoder_outputs": (batch["states"],)} if "states" in batch else {"input_features": batch["features"]}
    logits = network(**given, decoder_input_ids=batch["tokens"], use_cache=False).logits.float()
    known = batch["next"] != IGNORED
    log_q = torch.log_softmax(logits[known], -1)
    cross_entropy = -log_q.gather(-1, batch["next"][known][:, None])[:, 0]
    each = weights.tokens * cross_entropy
    if weights.distribution:
        each = each + weights.distribution * divergence(batch["log_probabilities"][known], batch["ids"][known], log_q)
    counts = known.sum(1)
    share = (1.0 / counts.clamp(min=1))[:, None].expand_as(known)[known]
    return (each * share).sum() / len(counts)


def divergence(log_p: Tensor, ids: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, (n,), where of p only the most likely tokens are known; the others are one outcome.

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
