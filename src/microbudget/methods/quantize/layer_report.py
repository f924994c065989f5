"""What quantization did to each layer, in numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

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
    weight_error: float | None = None  # at the layer's output, after repair
    weight_error_before: float | None = None  # round to nearest at min/max scales
    activation_error: float | None = None  # of the input, in the chosen range
    activation_error_before: float | None = None  # in the min/max range
    observer: str | None = None
    saturation: float | None = None  # fraction of input values that the range cuts
    loss_share: float | None = None  # of the sum of all layers' KL divergences
    reason: str = ""  # why it is as it is, in words

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Symptoms:
    """What a reason is told from."""

    channel_outlier: float  # the input's largest channel over its median channel
    weight_outlier: float  # the largest weight over the root mean square, of the worst output
    rows_per_column: float | None  # samples of the input over its length; None without data


def reason(report: LayerReport, symptoms: Symptoms) -> str:
    """The likeliest cause of the layer's error in words; empty where nothing is wrong."""
    activation, weight = report.activation_error or 0.0, report.weight_error or 0.0
    if max(activation, weight) < BAD_ERROR:
        return ""
    if symptoms.rows_per_column is not None and symptoms.rows_per_column < FEW_ROWS and weight >= activation:
        return f"too few samples: {symptoms.rows_per_column:.1f} inputs seen per weight of an output"
    if activation >= weight:
        return _activation_reason(report, symptoms)
    if symptoms.weight_outlier > OUTLIER:
        return f"outlier weight: the largest is {symptoms.weight_outlier:.0f} times its row's root mean square"
    return f"{report.bits} bits are coarse for these weights"


def _activation_reason(report: LayerReport, symptoms: Symptoms) -> str:
    if report.saturation and report.saturation > SATURATED:
        return f"saturated activation: {report.saturation:.1%} of its input is cut"
    if symptoms.channel_outlier > OUTLIER:
        return f"outlier channel: one channel of its input is {symptoms.channel_outlier:.0f} times the median one"
    return f"{report.activation_bits} bits are coarse for its input"
