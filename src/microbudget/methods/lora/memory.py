"""Memory: what a training will take at its peak, told before it starts."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

BYTES = 4  # of a float32
STATES = 3  # a gradient and AdamW's two averages, of each number that is trained
KEPT = 1  # and its best value so far
# glibc's heap cannot give the place of a freed tensor to one of the same size (they are aligned: its bug 14581), so
# that what a step computes and drops stays beside what it keeps; twice as much was seen, other heaps were not tried.
HEAP = 2 if platform.libc_ver()[0] == "glibc" else 1


def saved_bytes(network: Any, forward: Callable[[Any], torch.Tensor]) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the gradient, weights apart, and those of the largest tensor.

    A storage counts once.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    seen: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # so that no other tensor gets a place that was counted

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward(network)
    return sum(seen.values()), max(seen.values(), default=0)


def training_bytes(network: Any, rows: int, row_bytes: int, largest: int) -> int:
    """An estimate of the peak: weights, the states of what is trained, and what the rows that go through at once take.

    row_bytes, largest: as of `saved_bytes`, of one row. The gradient of the largest (the logits) is there twice; of all
    that a row keeps the heap holds `HEAP` times as much.
    """
    sizes = [(int(tensor.numel()), bool(tensor.requires_grad)) for tensor in network.parameters()]
    numbers, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    return BYTES * (numbers + (STATES + KEPT) * trained) + HEAP * rows * (row_bytes + 2 * largest)


def checkpointed(row_bytes: int, outside: int, blocks: int, entering: int) -> int:
    """What a row keeps with gradient checkpointing: what is outside of the blocks, what enters each, and one of them.

    row_bytes: without it. outside: what `saved_bytes` sees with it. entering: bytes of what a block is given.
    """
    return outside + blocks * entering + max(0, row_bytes - outside) // blocks
