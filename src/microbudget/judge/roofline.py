"""The roofline: the least time that a model's arithmetic and weights need on this machine, and its share of latency."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..model import Model
from ..task import Inputs
from .ceilings import Ceilings, ceilings

if TYPE_CHECKING:
    from .work import Work


def least_s(work: Work, limits: Ceilings) -> float:
    """The least seconds: the arithmetic or the unavoidable bytes, whichever takes longer (Williams et al. 2009).

    Unavoidable are the weights, the inputs and the outputs; activations may stay in the caches or be fused away.
    """
    arithmetic = sum(2 * count / limits.operations_per_s[element] for element, count in work.multiply_adds.items())
    moved = work.weight_bytes + work.in_out_bytes
    return max(arithmetic, moved / limits.bandwidth(moved))


def roofline(model: Model, inputs: Inputs, latency_s: float, threads: int) -> dict[str, Any] | None:
    """The roofline of a model for these inputs, JSON-ready; `share` is the least time as a fraction of `latency_s`.

    None for a format whose work cannot be counted.
    """
    if model.format != "onnx":
        return None
    from .work import count

    work = count(model.weights, {name: value.shape for name, value in inputs.items()})
    limits = ceilings(threads)
    least = least_s(work, limits)
    return {
        **asdict(work),
        "multiply_adds_total": work.total_multiply_adds,
        "least_s": least,
        "share": least / latency_s,
        "operations_per_s": limits.operations_per_s,
        "bytes_per_s": limits.bandwidth(work.weight_bytes + work.in_out_bytes),
    }
