"""A head on a frozen encoder: features computed once, against an encoder that answers every epoch, as in torch.

    python benchmarks/specialists_frozen.py [LABELS]      SST-2 with so many labels a class; about three minutes, quiet

The peer is the usual loop of torch: batches of 32 texts, padded to their longest, the encoder without gradients,
AdamW on the head. It runs three of 25 epochs, which all take the same time. Ours is `finetune` as a user calls it,
everything included: the graph, the features, forty epochs over them. Writes into docs/results/text.md.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from markdown import RESULTS, provenance, table, write_between
from microbudget.kinds.text_classification.data import TextTask
from microbudget.methods import Context
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from specialists import MODEL, opened

EPOCHS, MEASURED, BATCH, RATE = 25, 3, 32, 1e-3


def by_torch(task: TextTask) -> float:
    """Seconds of 25 epochs, from three."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(MODEL), AutoModel.from_pretrained(MODEL).eval()
    head = torch.nn.Linear(encoder.config.hidden_size, len(task.labels))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE)
    examples, random = list(task.examples("train")), np.random.default_rng(0)
    spent = []
    for _ in range(MEASURED):
        started = time.perf_counter()
        order = random.permutation(len(examples))
        for start in range(0, len(order), BATCH):
            chosen = [examples[place] for place in order[start : start + BATCH]]
            texts = [task.text_of(each)[0] for each in chosen]
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states, mask = encoder(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
                pooled = (states * mask).sum(1) / mask.sum(1)
            loss = torch.nn.functional.cross_entropy(head(pooled), torch.tensor([each.label for each in chosen]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        spent.append(time.perf_counter() - started)
    return EPOCHS * float(np.median(spent))


def by_features(task: TextTask) -> float:
    """Seconds of `finetune` in an empty folder."""
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        build(load(MODEL), Recipe.read("finetune"), Context(task, Path(folder) / "cache"), Path(folder) / "models")
        spent = time.perf_counter() - started
        shutil.rmtree(Path(folder) / "models")
    return spent


def main() -> None:
    labels = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    task = opened("sst2", labels)
    ours, theirs = by_features(task), by_torch(task)
    rows = [
        (f"torch, the encoder in each of {EPOCHS} epochs", f"{theirs:.0f}", ""),
        ("finetune: features once", f"{ours:.0f}", f"{theirs / ours:.1f} times less; goal: 20"),
    ]
    texts = len(task.examples("train"))
    found = f"{table(('a head on a frozen encoder', 'seconds', ''), rows)}\n\nOn {texts:,} texts of SST-2."
    write_between(RESULTS / "text.md", "frozen", f"{provenance('specialists_frozen.py')}\n\n{found}")
    print(found)


if __name__ == "__main__":
    main()
