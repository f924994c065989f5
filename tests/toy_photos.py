"""Photos of noise for the tests of tasks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

LONG_AGO_S = 10**9


def noise(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def photo(path: Path, seed: int, size: tuple[int, int] = (12, 10), **options) -> Path:
    """A file of noise, old enough that its hash is remembered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path, **options)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def two_classes(folder: Path) -> Path:
    """Ten photos each of cat and dog."""
    for label in ("cat", "dog"):
        for number in range(10):
            photo(folder / label / f"{number}.png", seed=number + 100 * (label == "dog"))
    return folder
