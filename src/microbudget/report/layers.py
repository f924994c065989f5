"""Layers: the quantization error of each, the largest first, with the reason in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..model import Record
from . import phrases

STEP = "quantize"
DRAWN = ("layers", "notes")  # what this section shows of the step's report
FLOAT_BITS = 32
SCHEMES = {"static": "static", "dynamic": "dynamic", "weights": "weight-only", "float": "float"}


@dataclass(frozen=True)
class Row:
    """One layer, as text; `error` is the larger relative error, `bar` that relative to the worst layer's."""

    name: str
    kind: str
    bits: str
    scheme: str
    before: str
    after: str
    activation_before: str
    activation: str
    cut: str
    share: str
    reason: str
    error: float
    bar: float


@dataclass(frozen=True)
class Layers:
    """The rows, the step's decisions, and a summary."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    summary: str
    worst: str  # the worst layers with their reasons; "" where no layer has a reason


def reported(record: Record | None) -> list[dict[str, Any]]:
    """The layers as `quantize` wrote them into a model's record; empty when it has no table of layers."""
    report = (record.history.get(STEP) if record is not None else None) or {}
    found = report.get("layers") if isinstance(report, Mapping) else None
    whole = isinstance(found, list) and all(isinstance(row, Mapping) for row in found)
    return list(found) if whole and isinstance(found, list) else []


def layers(record: Record | None) -> Layers | None:
    """From a model's record; None when it has no table of layers."""
    found = reported(record)
    if record is None or not found:
        return None
    report = record.history[STEP]
    worst = max(_error(row) for row in found)
    rows = tuple(_row(row, worst) for row in sorted(found, key=_error, reverse=True))
    notes = report.get("notes")
    decisions = tuple(map(str, notes)) if isinstance(notes, list) else ()
    summary = _summary(found, report.get("kl"), bool(report.get("kl_is_fitted", True)))
    return Layers(rows, decisions, summary, _worst(rows))


def without_layers(record: Record) -> Record:
    """The record without what this section draws."""
    report = record.history.get(STEP)
    if layers(record) is None or not isinstance(report, Mapping):
        return record
    kept = {key: value for key, value in report.items() if key not in DRAWN}
    return replace(record, history={**record.history, STEP: kept})


def _error(row: Mapping[str, Any]) -> float:
    return max(_number(row, "weight_error"), _number(row, "activation_error"))


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and 0 <= value < float("inf") else 0.0


def _row(row: Mapping[str, Any], worst: float) -> Row:
    error = _error(row)
    return Row(
        name=str(row.get("name", "")),
        kind=_kind(row),
        bits=f"{_bits(row.get('bits'))} × {_bits(row.get('activation_bits'))}",
        scheme=SCHEMES.get(str(row.get("scheme")), phrases.MISSING),
        before=_percent(row.get("weight_error_before")),
        after=_percent(row.get("weight_error")),
        activation_before=_percent(row.get("activation_error_before")),
        activation=_percent(row.get("activation_error")),
        cut=_percent(row.get("saturation")),
        share=_percent(row.get("loss_share")),
        reason=str(row.get("reason") or ""),
        error=error,
        bar=error / worst if worst else 0.0,
    )


def _kind(row: Mapping[str, Any]) -> str:
    shape = row.get("shape")
    size = " × ".join(map(str, shape)) if isinstance(shape, (list, tuple)) else ""
    return f"{row.get('op', '')} {size}".strip()


def _bits(value: Any) -> str:
    return phrases.MISSING if value is None else "float" if value == FLOAT_BITS else str(value)


def _percent(value: Any) -> str:
    """A relative error to two digits: 0.00123 -> "0.12 %"."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return phrases.MISSING
    return "0 %" if value == 0 else "< 0.001 %" if abs(value) < 1e-5 else f"{value * 100:.2g} %"


def _summary(rows: Sequence[Mapping[str, Any]], kl: Any, fitted: bool) -> str:
    counts = Counter(_bits(row.get("bits")) for row in rows)
    by_bits = ", ".join(
        f"{count} {'float' if bits == 'float' else f'with {bits} bits'}" for bits, count in counts.items()
    )
    where = "On calibration data" if fitted else "On examples that it was not calibrated with,"
    divergence = (
        f" {where} its answers diverge from the float model's by {kl:.2g} nats (KL)." if isinstance(kl, float) else ""
    )
    return f"{len(rows)} layers: {by_bits}.{divergence}"


def _worst(rows: Sequence[Row]) -> str:
    reasons = [f"{row.name}: {row.reason}" for row in rows if row.reason][:3]
    return "; ".join(reasons)
