"""Another latency for a Measurement: what follows from it follows.

A kind names the numbers of its `cost_extra` that do in `WITH_LATENCY` of its `judging.py`: 1 where they grow with the
latency, -1 where they are rates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..kind import find_facet
from . import energy
from .budget import Measurement

TIMES = ("median_s", "p90_s", "processor_s")


def with_latency(measurement: Measurement, latency_s: float, low_s: float, high_s: float) -> Measurement:
    """The Measurement with this latency: throughput, estimated energy, roofline and the kind's numbers agree with it.

    Energy that was read from counters stays. A Measurement without a latency stays as it is.
    """
    if not measurement.latency_s:
        return measurement
    factor = latency_s / measurement.latency_s
    extra = dict(measurement.extra)
    changed: dict[str, Any] = {"latency_s": latency_s, "latency_low_s": low_s, "latency_high_s": high_s}
    if measurement.throughput_per_s is not None:
        changed["throughput_per_s"] = measurement.throughput_per_s / factor
    if timing := extra.get("timing"):
        times = {name: timing[name] * factor for name in TIMES}
        rate = timing["throughput_per_s"] / factor
        extra["timing"] = {**timing, **times, "low_s": low_s, "high_s": high_s, "throughput_per_s": rate}
        if measurement.energy_source == "estimate":
            used = energy.estimate(times["processor_s"], measurement.machine.get("cpu"))
            extra["energy"], changed["energy_j"] = used.as_dict(), used.joules
    if floor := extra.get("floor"):
        extra["floor"] = {**floor, "share": floor["least_s"] / latency_s}
    own: dict[str, int] = getattr(find_facet(measurement.task, "judging"), "WITH_LATENCY", {})
    extra |= {name: extra[name] * factor**power for name, power in own.items() if name in extra}
    return replace(measurement, extra=extra, **changed)
