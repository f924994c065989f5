"""Agreement: a module must answer as ONNX Runtime does, on the user's own examples, before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....errors import UnsupportedModel
from ..session import OnnxSession
from .network import OnnxNetwork

TOLERANCE = 1e-3  # of the spread of the scores: float32 sums in another order


def check_agreement(network: OnnxNetwork, inputs: dict[str, NDArray[Any]]) -> float:
    """The largest difference of the scores to those of ONNX Runtime. Raises UnsupportedModel where it is no rounding.

    inputs: a few examples.
    """
    session = OnnxSession(network.proto.SerializeToString(), threads=1, output=network.output)
    expected = session.answer(inputs)
    session.close()
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()}
    try:
        with torch.no_grad():
            found = network.scores(**tensors).numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise UnsupportedModel(
            f"the graph cannot be trained: its module does not run on {len(next(iter(inputs.values())))} examples"
            f" ({str(error).splitlines()[0]}); train the head alone, or export the model again for any batch size"
        ) from error
    if found.shape != expected.shape:
        raise UnsupportedModel(
            f"the graph cannot be trained: its module answers in the shape {found.shape}, ONNX Runtime in"
            f" {expected.shape}"
        )
    difference = float(np.abs(found - expected).max())
    spread = max(float(np.ptp(expected)), 1e-3)
    if not difference <= TOLERANCE * spread:
        raise UnsupportedModel(
            f"the graph cannot be trained: its module answers differently from ONNX Runtime, by up to {difference:.3g}"
            f" where the scores span {spread:.3g}; train the head alone"
        )
    return difference
