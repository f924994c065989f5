"""Memory: what a training will take at its peak, told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BYTES = 4  # of a float32
STATES = 3  # a gradient and AdamW's two averages, of each number that is trained
KEPT = 1  # and its best value so far


def saved_bytes(network: Any, forward: Callable[[Any], torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for the gradient, weights apart; each storage counts once."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # so that no other tensor gets its place
        return tensor

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(network)
    return sum(seen.values())


def peak_bytes(network: Any, forward: Callable[[Any], torch.Tensor], rows: int, blocks: int = 1) -> int:
    """An estimate for the training of what requires a gradient: weights, their states, and what a pass keeps.

    forward: the loss of one row. rows: that go through at once. blocks: of which only one at a time is kept when the
    others are computed again (gradient checkpointing), else 1.
    """
    numbers = sum(tensor.numel() for tensor in network.parameters())
    trained = sum(tensor.numel() for tensor in network.parameters() if tensor.requires_grad)
    passing = rows * saved_bytes(network, forward)
    if blocks > 1:
        passing = passing // blocks + passing // 8  # one block whole, and what enters each
    return BYTES * (numbers + (STATES + KEPT) * trained) + passing
