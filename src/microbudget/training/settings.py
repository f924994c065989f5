"""The settings of a training: how the network learns, and how the training is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import SILENT, Progress


@dataclass(frozen=True)
class Settings:
    """How a network learns: AdamW (Loshchilov & Hutter 2019), linear warm-up, cosine to zero."""

    epochs: int
    learning_rate: float = 1e-3  # at the end of the warm-up
    batch_size: int = 32  # at most: an epoch is cut into batches of equal size, so that none has a single example
    weight_decay: float = 0.01  # on matrices and kernels; not on biases and norms
    warmup: float = 0.05  # fraction of all steps
    patience: int | None = 5  # epochs without a better validation loss before it stops; None: never before the end
    clip: float = 1.0  # the gradient's norm at most; 0: not clipped
    average: float = 0.0  # share of all steps over which the weights are averaged, see `Average`; 0: not at all
    cut: bool = False  # when the time is up what is learnt so far is kept; else that is an error
    # The last epoch is kept, not the best on validation, which then says more of what is kept; or the network as given
    # where that is better.
    last: bool = False
    parts: int = 1  # a batch goes through in so many parts: less memory, the same step


@dataclass(frozen=True)
class Execution:
    """How a training is run. Only the seed changes the result."""

    seed: int = 0
    threads: int = 0  # 0: torch's own choice, all cores
    checkpoint: Path | None = None  # a file that survives a kill, from which the same call resumes
    deadline: float | None = None  # of `time.monotonic`
    name: str = "training"  # in messages
    progress: Progress = SILENT
