"""What a stage of layers was rounded to, as JSON for a journal: a quantization that is killed goes on after it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Plan, WeightFormat, Weights


def key(number: int, formats: Mapping[str, WeightFormat]) -> str:
    """The name of a stage in the journal. formats: of all layers: each is rounded for what those before it give."""
    digest = hashlib.sha256(repr(sorted((name, asdict(form)) for name, form in formats.items())).encode())
    return f"stage {number} of {digest.hexdigest()[:16]}"


def packed(plan: Plan, names: Collection[str]) -> dict[str, Any]:
    """The weights and biases of these layers, JSON-ready. A layer that has the weights of another one names it."""
    owners: dict[int, str] = {}
    for name, weights in plan.weights.items():
        owners.setdefault(id(weights), name)
    return {
        name: {
            "weights": owners[id(plan.weights[name])]
            if owners[id(plan.weights[name])] != name
            else _pack_weights(plan.weights[name]),
            "bias": _pack(plan.biases[name]) if name in plan.biases else None,
        }
        for name in names
    }


def unpack(stage: Mapping[str, Any], plan: Plan) -> None:
    """Give the plan what `packed` took from it, to the bit."""
    for name, row in stage.items():
        weights = row["weights"]
        plan.weights[name] = plan.weights[weights] if isinstance(weights, str) else _unpack_weights(weights)
        if row["bias"] is not None:
            plan.biases[name] = _unpack(row["bias"])


def _pack_weights(weights: Weights) -> dict[str, Any]:
    return {"q": _pack(weights.q), "S": _pack(weights.S), "bits": weights.bits, "group": weights.group}


def _unpack_weights(row: Mapping[str, Any]) -> Weights:
    return Weights(_unpack(row["q"]), _unpack(row["S"]), row["bits"], row["group"])


def _pack(array: NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"type": array.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(row: Mapping[str, Any]) -> NDArray[Any]:
    flat = np.frombuffer(base64.b64decode(row["data"]), np.dtype(row["type"]))
    return flat.reshape(row["shape"]).copy()
