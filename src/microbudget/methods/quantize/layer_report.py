"""What quantization did to each layer, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .symptoms import Symptoms

BAD_ERROR = 1e-3  # of the output's variance: 30 dB
SATURATED = 1e-3
OUTLIER = 8.0
FEW_ROWS = 2.0


@dataclass(frozen=True)
class LayerReport:
    """One layer. Errors are lost power over power, so 0.01 is 20 dB; None where it was not measured."""

    name: str
    op: str
    shape: tuple[int, ...]  # of the weights
    parameters: int
    bits: int  # of the weights; 32 is float
    activation_bits: int  # of the input; 32 is float
    scheme: str
    weight_error: float | None = None  # at the layer's output, after corrections
    weight_error_before: float | None = None  # round to nearest at min/max scales
    activation_error: float | None = None  # of the input, in the chosen range
    activation_error_before: float | None = None  # in the min/max range
    observer: str | None = None
    saturation: float | None = None  # fraction of input values that the range clips
    loss_share: float | None = None  # of the loss of all layers: see `with_shares`
    reason: str = ""  # why it is as it is, in words

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "shape": list(self.shape)}


def with_shares(reports: Sequence[LayerReport]) -> tuple[LayerReport, ...]:
    """The reports with each layer's share of the loss.

    With `size` or `max_kl` it is known already: the share of all layers' KL divergences, each measured with only that
    layer's weights rounded. Otherwise it is the share of all layers' relative squared errors, of their outputs by the
    weights and of their inputs by the ranges, which takes every layer to be equally important.
    """
    errors = [(report.weight_error or 0.0) + (report.activation_error or 0.0) for report in reports]
    if not sum(errors) or any(report.loss_share is not None for report in reports):
        return tuple(reports)
    return tuple(replace(report, loss_share=e / sum(errors)) for report, e in zip(reports, errors, strict=True))


def reason(report: LayerReport, symptoms: Symptoms) -> str:
    """The likeliest cause of the layer's error in words; empty where nothing is wrong."""
    activation = max(report.activation_error or 0.0, symptoms.depthwise_error)
    weight, rows = report.weight_error or 0.0, symptoms.rows_per_column
    # weights fitted to few rows have a small error on these rows: the error before the fit is more telling
    at_stake = max(weight, report.weight_error_before or 0.0)
    if rows is not None and rows < FEW_ROWS and at_stake >= max(activation, BAD_ERROR):
        return f"too few samples: {rows:.1f} inputs seen per weight of an output"
    if max(activation, weight) < BAD_ERROR:
        return ""
    if activation >= weight:
        return _activation_reason(report, symptoms)
    if symptoms.weight_outlier > OUTLIER:
        return f"outlier weight: the largest is {symptoms.weight_outlier:.0f} times its row's root mean square"
    return f"{report.bits} bits are too coarse for these weights"


def _activation_reason(report: LayerReport, symptoms: Symptoms) -> str:
    if report.saturation and report.saturation > SATURATED:
        return f"saturated activation: {report.saturation:.1%} of its input is clipped"
    if symptoms.depthwise_error > max(report.activation_error or 0.0, BAD_ERROR):
        return (
            f"depthwise per tensor: one scale for all channels of its input, the largest {symptoms.channel_outlier:.0f}"
            " times the median one"
        )
    if symptoms.channel_outlier > OUTLIER:
        return f"outlier channel: one channel of its input is {symptoms.channel_outlier:.0f} times the median one"
    return f"{report.activation_bits} bits are too coarse for its input"
