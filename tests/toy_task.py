"""A task of random pictures whose labels are a known linear model's answers, some of them changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from microbudget.task import Example, Scores
from toy_models import CLASSES, SIZE


class ToyTask:
    kind = "image-classification"
    fingerprint = "toy"

    def __init__(
        self, count: int = 40, labels: tuple[str, ...] = CLASSES, wrong: float = 0.2, unlabelled: int = 0
    ) -> None:
        coin = np.random.default_rng(7)
        self.labels, self.unlabelled = labels, unlabelled
        self.pixels = coin.normal(size=(count, 3, SIZE, SIZE)).astype("f")
        from toy_models import parameters

        weights, bias = parameters(0)
        truth = (self.pixels.reshape(count, -1) @ weights + bias).argmax(axis=1)
        changed = coin.random(count) < wrong
        self.targets = np.where(changed, (truth + 1) % 3, truth)
        self.collated: list[int] = []

    def examples(self, split: str) -> Sequence[Example]:
        if split == "unlabelled":
            return [Example(str(i), None, f"{i}.png") for i in range(self.unlabelled)]
        if split != "test":
            return ()
        return [Example(str(i), self.labels.index(CLASSES[t]), f"{i}.png") for i, t in enumerate(self.targets)]

    def collate(self, examples, preprocessing, view=0):
        self.collated.append(len(examples))
        return {"pixel_values": self.pixels[[int(example.key) for example in examples]]}

    def score(self, outputs, examples) -> Scores:
        right = outputs.argmax(axis=1) == np.array([example.label for example in examples])
        return Scores("accuracy", right.astype(float), np.ones(len(examples)))

    def loss(self, outputs, examples):
        raise NotImplementedError
