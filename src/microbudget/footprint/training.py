"""What a training takes: device-hours, given or from its arithmetic, times the power of a device.

Arithmetic: 6 operations a parameter and token (Kaplan et al. 2020, section 2.1; 4 where only adapters learn, as no
gradient of the frozen weights is computed), of which a device does its peak times the utilization (MFU, Chowdhery et
al. 2022, appendix B). Power: the limit times a share.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidOption
from .facts import Device, factor
from .ranges import Range, exactly
from .sums import ANYWHERE, Estimate, Line, Place, settled

SECONDS = 3600.0
OPERATIONS = {"full": 6, "lora": 4}  # a parameter and token
SMALL, MEDIUM = 50e6, 500e6  # parameters, for the power
FEW = 300e6  # parameters, for the utilization


@dataclass(frozen=True)
class Run:
    """A training as papers describe it; None where something is not known."""

    device: Device
    devices: int | None = None
    parameters: float | None = None
    active: float | None = None  # of a mixture of experts
    tokens: float | None = None
    operations: float | None = None
    device_hours: float | None = None
    precision: str = "bf16"
    method: str = "full"


def estimate(run: Run, place: Place = ANYWHERE) -> Estimate:
    """Energy, carbon and cost of a training. Raises InvalidOption where neither hours nor arithmetic can be known."""
    if run.device.limit_w <= 0:
        raise InvalidOption(f"the power limit of {run.device.name} is not known: add --tdp 300W")
    lines: list[Line] = []
    hours = _device_hours(run, lines)
    if run.device.system_w:
        power = Range(0.80, 1.0, 1.15, run.device.origin).of("measured averages of runs: Patterson 2021, PaLM, GLaM")
        watts = power * run.device.system_w
        host = factor("host", "tpu")
        how = "with host, network and fans, so that it counts as node and as accelerator"
    else:
        share = factor("power_train", *_power_classes(run))
        lines.append(Line("share of the power limit", share, "x"))
        watts = share * run.device.limit_w
        host = factor("host", *_host_classes(run.device))
        how = f"share x {run.device.limit_w:g} W ({run.device.origin})"
    lines.append(Line("power of a device", watts.of(run.device.origin), "W", how))
    accelerator = hours * watts * 1e-3
    lines.append(Line("accelerators", accelerator.of("device-hours x power"), "kWh"))
    energy, carbon, cost, scopes = settled(accelerator, host, place, run.device.family, lines, hours=hours)
    notes = ["one run: failed runs, searches for settings and manufacture are not counted"]
    return Estimate(energy, carbon, cost, tuple(lines), place.counted, scopes, notes=tuple(notes))


def _device_hours(run: Run, lines: list[Line]) -> Range:
    if run.device_hours is not None:
        hours = exactly(run.device_hours, "given")
        lines.append(Line("device-hours", hours, "h"))
        return hours
    work = _operations(run, lines)
    peak = run.device.peak(32 if run.precision == "fp32" else 16)
    used = _utilization(run)
    lines += [
        Line("peak of a device", exactly(peak, run.device.origin), "operations/s", "dense, 16 bits"),
        Line("utilization (MFU)", used, "x", "of the peak, over the whole run"),
    ]
    hours = work / used / (peak * SECONDS)
    lines.append(Line("device-hours", hours.of("operations / (peak x utilization)"), "h"))
    if run.devices:
        days = hours / (24.0 * run.devices)
        lines.append(Line("duration", days.of(f"device-hours / {run.devices} devices"), "days"))
    return hours


def _operations(run: Run, lines: list[Line]) -> Range:
    if run.operations is not None:
        work = exactly(run.operations, "given")
        lines.append(Line("operations", work, ""))
        return work
    if run.parameters is None or run.tokens is None:
        raise InvalidOption("a training needs --device-hours, or --flops, or both --params (or a config) and --tokens")
    per = OPERATIONS[run.method]
    active = run.active or run.parameters
    lines += [
        Line("active parameters", exactly(active, "given"), ""),
        Line("tokens", exactly(run.tokens, "given"), ""),
    ]
    work = exactly(per * active * run.tokens, "Kaplan et al. 2020, section 2.1")
    lines.append(Line("operations", work, "", f"{per} x active parameters x tokens"))
    return work


def _utilization(run: Run) -> Range:
    used = factor("mfu", run.device.generation, "other")
    origin = used.origin
    active = run.active or run.parameters
    adjusted = [
        ("mixture of experts", bool(run.active and run.parameters and run.active < 0.9 * run.parameters)),
        ("under 300M parameters", bool(active and active < FEW)),
        ("8-bit training", run.precision in ("fp8", "int8")),
    ]
    for name, applies in adjusted:
        if applies:
            more = factor("mfu_of", name)
            used, origin = used * more, f"{origin}; {more.origin}"
    return Range(min(used.low, 0.9), min(used.middle, 0.9), min(used.high, 0.95), origin)


def _power_classes(run: Run) -> tuple[str, ...]:
    if run.device.family == "laptop-gpu":
        return ("laptop-gpu",)
    if run.parameters is None:
        return ("unknown",)
    return ("small" if run.parameters < SMALL else "medium" if run.parameters < MEDIUM else "large",)


def _host_classes(device: Device) -> tuple[str, ...]:
    if device.name.startswith("GH"):
        return ("superchip",)
    kind = "desktop-gpu" if device.family == "laptop-gpu" else device.family
    return (kind, "one device")
