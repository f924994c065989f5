"""Next tokens: rows of tokens of which some are learnt, and the objective with which a language model learns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .objective import Batch, Objective, Scores

IGNORED = -100  # a target that is not learnt: what is only read, and padding
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


def padded(rows: Sequence[Sequence[tuple[int, bool]]], cut: float = 0.0) -> TokenRows:
    """Rows of tokens, each with whether it is learnt, padded at their ends."""
    width = max(map(len, rows))
    tokens = np.zeros((len(rows), width), np.int64)
    targets = np.full((len(rows), width), IGNORED, np.int64)
    for index, row in enumerate(rows):
        for place, (token, learnt) in enumerate(row):
            tokens[index, place] = token
            targets[index, place] = token if learnt else IGNORED
    return TokenRows(torch.from_numpy(tokens), torch.from_numpy(targets), cut)


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
