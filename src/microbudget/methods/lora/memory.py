"""Memory: what a training will take at its peak, estimated before it starts."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

BYTES = 4  # of a float32
STATES = 3  # a gradient and AdamW's two averages, of each number that is trained
KEPT = 1  # and its best value so far
# glibc's heap cannot give the place of a freed tensor to one of the same size (they are aligned: its bug 14581), so
# that a step's temporary tensors take memory in addition to those it keeps: twice as much was seen. Other heaps were
# not tried.
HEAP = 2 if platform.libc_ver()[0] == "glibc" else 1


def saved_bytes(network: Any, forward: Callable[[Any], torch.Tensor]) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the gradient, without the weights, and those of the largest tensor.

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


def entering_bytes(network: Any, blocks: int, forward: Callable[[Any], torch.Tensor]) -> int:
    """Bytes of what the first of the network's `blocks` blocks is given in a forward pass; 0 where none is found."""
    rows = [each for each in network.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == blocks]
    if not rows:
        return 0
    seen = [0]

    def note(_block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)]
        seen[0] = tensors[0].numel() * tensors[0].element_size() if tensors else 0

    handle = rows[0][0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            forward(network)
    finally:
        handle.remove()
    return seen[0]


def checkpointed(row_bytes: int, outside: int, blocks: int, entering: int) -> int:
    """What a row keeps with gradient checkpointing: what is outside of the blocks, what enters each, and one of them.

    row_bytes: without it. outside: what `saved_bytes` sees with it. entering: bytes of what a block is given.
    """
    return outside + blocks * entering + max(0, row_bytes - outside) // blocks
