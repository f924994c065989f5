"""The facts of estimates: devices, grids, ranges of factors, and published cases, each with its origin.

All lie in `facts/*.csv`. A row whose `looked_up` is not `yes` was not found in a source.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from ..errors import InvalidOption
from .ranges import Range, exactly

EVERYWHERE = "World"
NOISE = re.compile(r"nvidia|tesla|geforce|google|hbm\d?e?|raspberrypi(?=\d)|instinct|radeon|gpu")


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of `facts/<name>.csv`."""
    yield from csv.DictReader((files(__package__) / "facts" / f"{name}.csv").read_text("utf-8").splitlines())


@dataclass(frozen=True)
class Device:
    """An accelerator, a processor or a whole board. 0 where a number is not known."""

    name: str
    family: str  # gpu (of servers), tpu, desktop-gpu, laptop-gpu, soc, board, cpu, laptop, mcu
    generation: str
    limit_w: float
    idle_w: float
    bytes_per_s: float
    memory_bytes: float
    flops: dict[int, float]  # operations a second by bits of a number: 32, 16, 8
    system_w: float  # measured average with host, network and fans; 0 where there is none
    origin: str

    def peak(self, bits: int) -> float:
        """Operations a second at numbers of at most so many bits; of the next wider where the device has none."""
        wide = [self.flops[size] for size in (8, 16, 32) if size >= bits and self.flops.get(size)]
        if not wide and not any(self.flops.values()):
            raise InvalidOption(f"operations a second of {self.name} are not known: add --peak 100T")
        return max(wide) if wide else max(self.flops.values())

    @property
    def in_data_centre(self) -> bool:
        """Whether buildings with cooling hold it."""
        return self.family in ("gpu", "tpu")


def _number(text: str) -> float:
    return float(text) if text else 0.0


@cache
def devices() -> dict[str, Device]:
    """All devices of `facts/devices.csv` by name."""
    found = {}
    for row in rows("devices"):
        looked = "" if row["looked_up"] == "yes" else f" (looked up: {row['looked_up']})"
        peaks = {32: "fp32_tflops", 16: "bf16_fp16_dense_tflops", 8: "int8_dense_tops"}
        found[row["device"]] = Device(
            name=row["device"],
            family=row["family"],
            generation=row["generation"],
            limit_w=_number(row["tdp_w"]),
            idle_w=_number(row["idle_w"]) or 0.2 * _number(row["tdp_w"]),
            bytes_per_s=_number(row["mem_bw_gbps"]) * 1e9,
            memory_bytes=_number(row["mem_gb"]) * 1e9,
            flops={bits: _number(row[key]) * 1e12 for bits, key in peaks.items()},
            system_w=_number(row["system_w"]),
            origin=row["source"] + looked,
        )
    return found


@cache
def _names() -> dict[str, str]:
    """The device of each way to write its name."""
    found: dict[str, str] = {}
    for row in rows("devices"):
        for name in (row["device"], *filter(None, row["aliases"].split(";"))):
            found.setdefault(_plain(name), row["device"])
    return found


def _plain(name: str) -> str:
    text = re.sub(r"sxm\d\b", "sxm", name.lower())
    return NOISE.sub("", re.sub(r"[^a-z0-9+]", "", text))


def find_device(name: str) -> Device:
    """A device by its name in any spelling. Raises InvalidOption with the nearest names."""
    known, plain = _names(), _plain(name)
    if plain in known:
        return devices()[known[plain]]
    begun = sorted({known[key] for key in known if plain and len(plain) >= 3 and key.startswith(plain)})
    if len(begun) == 1:
        return devices()[begun[0]]
    near = begun[:4] or [known[key] for key in get_close_matches(plain, known, n=4, cutoff=0.5)]
    shown = ", ".join(dict.fromkeys(near)) or "A100-SXM-80GB, H100-SXM, RTX 4090, Apple M2 (10-core GPU)"
    raise InvalidOption(
        f"there is no device {name!r} among the facts; the nearest are {shown}; or describe it with"
        " --tdp 300W --bandwidth 900GB/s --peak 125T"
    )


@cache
def _factors() -> dict[tuple[str, str], Range]:
    return {
        (row["factor"], row["class"]): Range(
            float(row["low"]), float(row["middle"]), float(row["high"]), f"{row['class']}: {row['source']}"
        )
        for row in rows("factors")
    }


def factor(name: str, *classes: str) -> Range:
    """A range of `facts/factors.csv`, of the first of the classes that has a row."""
    known = _factors()
    return next(known[name, each] for each in classes if (name, each) in known)


def grid(region: str | None) -> Range:
    """Grams of CO2e a kWh: of a region by (part of) its name, or a number. Raises InvalidOption."""
    if region is None:
        return factor("grid", "unknown")
    try:
        value = float(region)
    except ValueError:
        found = _grid_of(region)
        source = f"{found['region']} {found['year']}, {found['source']}"
        return factor("grid", "named") * exactly(float(found["gCO2e_per_kWh"]), source).of(source)
    if not 0 <= value < 3000:
        raise InvalidOption(f"a grid emits between 0 and 3000 g of CO2e a kWh, not {region}")
    return exactly(value, "given")


def _grid_of(region: str) -> dict[str, str]:
    wanted = region.lower()
    known = {row["region"]: row for row in rows("grid")}
    exact = [row for name, row in known.items() if name.lower() == wanted]
    part = [row for name, row in known.items() if wanted in name.lower()]
    if found := exact or part:
        return found[-1] if exact else found[0]
    near = get_close_matches(region, known, n=3, cutoff=0.4)
    raise InvalidOption(
        f"there is no region {region!r} among the grids; {'the nearest are ' + ', '.join(near) if near else 'give'}"
        f"{', or give' if near else ''} a number of g CO2e a kWh"
    )
