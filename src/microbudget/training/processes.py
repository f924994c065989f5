"""Processes: what several processes of one training (`accelerate launch`) do together."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from .order import Rows


class Processes:
    """The processes that share each batch; most often there is one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._alone = accelerator.num_processes == 1

    def share(self, rows: Rows) -> Rows:
        """What this process takes of a batch; a batch with fewer rows than processes is taken whole by each."""
        count = self._accelerator.num_processes
        return rows if len(rows) < count else np.array_split(rows, count)[self._accelerator.process_index]

    def any(self, here: bool) -> bool:
        """Whether it is so in one of the processes: all of them stop at the same step, or none does."""
        return here if self._alone else self.mean(torch.tensor(float(here), device=self._accelerator.device)) > 0

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over the processes, so that all of them see a NaN."""
        return float(value.detach() if self._alone else self._accelerator.reduce(value.detach(), "mean"))
