"""What memory that is kept between the steps of a training saves: MobileNetV2, 32 photos of 160 pixels, two threads.

    python benchmarks/allocator.py          # a minute; writes into docs/training.md

Rounds of steps with and without `machine.allocator.reused_memory` are interleaved, in one process.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import transformers

from choice import MODEL
from markdown import ROOT, provenance, table, write_between
from microbudget.machine.allocator import reused_memory
from microbudget.machine.memory import read

ROUNDS, STEPS = 5, 4
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "as the system does": contextlib.nullcontext,
    "kept": reused_memory,
}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    network = transformers.AutoModelForImageClassification.from_pretrained(MODEL, dtype=torch.float32).train()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    photos = torch.randn(32, 3, 160, 160).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        network(photos).logits.logsumexp(1).mean().backward()
        optimizer.step()

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    left: dict[str, float] = {}
    step()
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            with way():
                step()
                before, began = resource.getrusage(resource.RUSAGE_SELF).ru_stime, time.monotonic()
                for _ in range(STEPS):
                    step()
                wall = (time.monotonic() - began) / STEPS
                kernel = (resource.getrusage(resource.RUSAGE_SELF).ru_stime - before) / STEPS
                found[name].append((wall, kernel))
            left[name] = read().resident_bytes
    rows = [
        (
            name,
            f"{statistics.median(wall for wall, _ in each):.2f} s",
            f"{statistics.median(kernel for _, kernel in each):.2f} s",
            f"{left[name] / 1e9:.2f} GB",
        )
        for name, each in found.items()
    ]
    text = table(("freed memory", "a step", "of it in the kernel", "resident after the training"), rows)
    print(text)
    write_between(ROOT / "docs" / "training.md", "allocator", f"{text}\n\n{provenance('allocator.py')}")


if __name__ == "__main__":
    main()
