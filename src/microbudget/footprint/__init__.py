"""Energy, carbon and money on paper: what a training took, and what an answer takes, with ranges and origins.

Pure arithmetic over `facts/*.csv`. `docs/footprint.md` has the equations, `docs/results/footprint.md` how near the
published cases are.
"""

from __future__ import annotations

from typing import Any

from ..errors import check_options
from . import asking
from .sums import Estimate

PLACE = ("on", "tdp", "bandwidth", "peak", "scope", "pue", "grid", "price", "rent", "params", "precision", "flops")
TRAINING = (*PLACE, "tokens", "device_hours", "method")
INFERENCE = (
    *PLACE, "tokens", "prompt", "batch", "software", "steps", "resolution", "frames", "idle_devices",
    "rate", "macs", "encoder",
)  # fmt: skip


def estimate_training(model: str | None = None, **options: Any) -> Estimate:
    """What a training took: `estimate_training(params="7B", tokens="2T", on="2048xA100-SXM-80GB")`.

    model: hub id, folder or config.json in place of `params`. The options are those of `microbudget estimate
    training`. Raises InvalidOption, InvalidUnit, ModelNotFound, UnsupportedModel.
    """
    check_options(options, TRAINING)
    return asking.training(options, _network(model))


def estimate_inference(model: str | None = None, **options: Any) -> Estimate:
    """What an answer takes: `estimate_inference("meta-llama/Llama-3.1-8B-Instruct", tokens=300, on="H100-SXM")`.

    model: hub id, folder, file, config.json or a size such as "8B" or "235B-A22B". The options are those of
    `microbudget estimate inference`. Raises InvalidOption, InvalidUnit, ModelNotFound, UnsupportedModel.
    """
    check_options(options, INFERENCE)
    return asking.inference(options, _network(model))


def _network(model: str | None) -> Any:
    if model is None:
        return None
    from .models import network_of

    return network_of(str(model))
