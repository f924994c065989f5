"""A classifier of transformers in torch, eager, float32: the session of any kind of classifier."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ...errors import MissingExtra

try:
    import torch
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[train]'") from error


class TorchSession:
    """An open network that takes inputs by name and returns `logits`."""

    runtime = f"torch {torch.__version__}"

    def __init__(self, network: Any) -> None:
        self._network = network

    def answer(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Logits (batch, classes) for a batch of inputs by name."""
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            logits: NDArray[Any] = self._network(**tensors).logits.numpy()
        return logits

    def close(self) -> None:
        """Release the network."""
        del self._network


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads in this process; 0 leaves it its own choice, all cores."""
    if threads:
        torch.set_num_threads(threads)
