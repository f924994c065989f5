"""Average: an exponential average of the weights over the steps of a training, which is what is judged and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import checkpoint

Tensors = tuple[Tensor, ...] | list[Tensor]
WARM_UP = 10  # steps: the average forgets the first ones faster, decay = (1 + step) / (WARM_UP + step) at most


class Average:
    """A copy of a network whose weights and running statistics are averages over the last steps.

    Polyak and Juditsky 1992; the exponential form and its warm-up as in Tan and Le 2019 (arXiv:1905.11946). horizon:
    steps, of which a weight is 1 / e of the newest one's.
    """

    def __init__(self, network: torch.nn.Module, horizon: float) -> None:
        self._decay = 1 - 1 / max(1.0, horizon)
        self._averaged = AveragedModel(network, multi_avg_fn=self._follow, use_buffers=True)

    @property
    def network(self) -> torch.nn.Module:
        """The averaged network, in eval mode."""
        return self._averaged.module.eval()

    def update(self, network: torch.nn.Module) -> None:
        """Take in the weights after a step."""
        self._averaged.update_parameters(network)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"weights": checkpoint.weights_of(self._averaged.module), "steps": int(self._averaged.n_averaged)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        checkpoint.put_weights(self._averaged.module, state["weights"])
        self._averaged.n_averaged.fill_(state["steps"])

    def _follow(self, averages: Tensors, latest: Tensors, steps: Tensor | int) -> None:
        seen = int(steps)
        follow: Any = get_ema_multi_avg_fn  # torch does not say its types
        follow(min(self._decay, (1 + seen) / (WARM_UP + seen)))(averages, latest, steps)
