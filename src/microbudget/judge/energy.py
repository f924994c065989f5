"""Energy per inference: read from the hardware where it has counters, estimated from processor time where it does not.

A number carries its origin: `energy_source` is "rapl", "nvml" or "estimate", and an estimate carries its range.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..machine import processor as machine
from ..units import format_joules

if TYPE_CHECKING:
    from .worker import Worker

Source = Literal["rapl", "nvml", "estimate"]
POWERCAP = Path("sys/class/powercap")
READ_S = 0.5  # RAPL's counters move every millisecond: a reading over half a second is good to well under 1 %
COUNTED_ZONES = ("package", "dram")  # psys holds both again, core and uncore are inside package


@dataclass(frozen=True)
class Energy:
    """Joules of one call, where the number comes from, and for an estimate the range that it may lie in."""

    joules: float
    source: Source
    low_j: float
    high_j: float
    how: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.source != "estimate":
            return f"{format_joules(self.joules)} ({self.source})"
        low, high = format_joules(self.low_j), format_joules(self.high_j)
        return f"about {format_joules(self.joules)} (estimate, {low} to {high})"


@dataclass(frozen=True)
class PowerClass:
    """Watts that one busy core adds, for a kind of processor, as the middle and the ends of what sources give."""

    name: str
    watts: float
    low: float
    high: float
    source: str


# low: SPECpower_ssj2008, full load minus idle per hardware thread. middle and high: thermal design power per core.
SERVER = PowerClass(
    "server",
    4.2,
    1.1,
    10.5,
    "low: SPECpower of EPYC 2nd generation by Cloud Carbon Footprint (1.58 - 0.47 W a thread); middle: EPYC 7552,"
    " 200 W / 48 cores; high: Xeon E5-2660 v3, 105 W / 10 cores (Green Algorithms, TDP_cpu.csv)",
)
DESKTOP = PowerClass(
    "desktop",
    10.8,
    6.6,
    23.8,
    "thermal design power per core of Core and Ryzen desktops: 65 W / 6 cores, Ryzen 9 3950X 105 W / 16, Core i7-6700K"
    " 95 W / 4 (Green Algorithms, TDP_cpu.csv)",
)
LAPTOP = PowerClass(
    "laptop",
    5.3,
    3.8,
    7.5,
    "thermal design power per core of laptops: Ryzen 5 3500U 15 W / 4 cores, Ryzen 3 3200U 15 W / 2 (Green Algorithms,"
    " TDP_cpu.csv); middle: their geometric mean",
)
APPLE = PowerClass(
    "Apple silicon",
    4.3,
    2.1,
    4.8,
    "package power minus idle per core: M1 (20 - 3) W over 4 fast or all 8 cores, M2 (22 - 3) W over 4",
)
BOARD = PowerClass(
    "ARM board",
    1.3,
    1.0,
    1.7,
    "wall power at full load minus idle per core: Raspberry Pi 4 (7 - 2.9) W / 4, Raspberry Pi 5 (10 - 3.3) W / 4;"
    " middle: their geometric mean",
)
UNKNOWN = PowerClass("unknown", 5.0, 1.0, 23.8, "the range over all kinds; middle: the geometric mean of its ends")
KINDS: tuple[tuple[PowerClass, tuple[str, ...]], ...] = (
    (APPLE, ("apple",)),
    (SERVER, ("epyc", "xeon", "graviton", "neoverse", "ampere", "platinum")),
    (BOARD, ("raspberry", "bcm2", "cortex", "rockchip", "jetson")),
    (DESKTOP, ("ryzen", "core(tm)", "core i", "threadripper", "athlon", "pentium", "celeron", "fx(tm)")),
)


def power_class(cpu: str) -> PowerClass:
    """The kind of a processor by its name; laptops are the desktops' names with a mobile suffix."""
    lower = cpu.lower()
    found = next((kind for kind, words in KINDS if any(word in lower for word in words)), UNKNOWN)
    mobile = any(part[-1:] in ("u", "h", "p", "y") or part[-2:] in ("hs", "hx", "g7", "g4") for part in _models(lower))
    return LAPTOP if found is DESKTOP and mobile else found


def _models(cpu: str) -> list[str]:
    """The parts of a name that are model numbers: "i7-1260p" has "1260p"."""
    return [part for part in cpu.replace("-", " ").split() if sum(letter.isdigit() for letter in part) >= 3]


class Meter(Protocol):
    """Something that counts joules. Reading it before and after a run gives what the run took."""

    source: Source
    how: str

    def read(self) -> tuple[float, ...]:
        """The counters, in joules."""
        ...

    def since(self, before: tuple[float, ...]) -> float:
        """Joules since a reading."""
        ...


class Rapl:
    """The processor's own counters (package and memory) in the powercap tree, by zone. Raises OSError without them.

    root: the tree's root, so that a recorded tree can be replayed.
    """

    source: Source = "rapl"
    how = "RAPL counters of processor and memory over the run, all processes and idle power included"

    def __init__(self, root: Path = Path("/")) -> None:
        zones = sorted((root / POWERCAP).glob("*rapl*:*"))
        counted = [zone for zone in zones if (zone / "name").read_text().strip().startswith(COUNTED_ZONES)]
        self._counters = [zone / "energy_uj" for zone in counted]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) * 1e-6 for zone in counted]
        if not counted:
            raise OSError("there is no RAPL zone")
        self.read()  # newer kernels let only root read the counters

    def read(self) -> tuple[float, ...]:
        """The counter of each zone, in joules."""
        return tuple(int(counter.read_text()) * 1e-6 for counter in self._counters)

    def since(self, before: tuple[float, ...]) -> float:
        """Joules since a reading; a counter that wrapped around at its range is corrected."""
        pairs = zip(self.read(), before, self._ranges, strict=True)
        return sum((now - then) % whole for now, then, whole in pairs)


class Nvml:
    """The energy counters of NVIDIA GPUs, since the driver was loaded. Raises OSError where they cannot be read."""

    source: Source = "nvml"
    how = "NVML counters of the GPUs over the run, idle power included"

    def __init__(self, library: Any = None) -> None:
        try:
            if library is None:
                library = importlib.import_module("pynvml")  # of nvidia-ml-py
            library.nvmlInit()
            self._library = library
            self._devices = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
            self.read()
        except Exception as error:  # the library raises errors of its own, and is optional
            raise OSError(f"NVML cannot be read: {error}") from error
        if not self._devices:
            raise OSError("NVML finds no GPU")

    def read(self) -> tuple[float, ...]:
        """The counter of each GPU, in joules."""
        return tuple(self._library.nvmlDeviceGetTotalEnergyConsumption(device) * 1e-3 for device in self._devices)

    def since(self, before: tuple[float, ...]) -> float:
        """Joules since a reading."""
        return sum(now - then for now, then in zip(self.read(), before, strict=True))


def find_meter(device: str = "cpu", root: Path = Path("/"), nvml: Any = None) -> Meter | None:
    """The meter for a device ("cpu" or "cuda") that can be read without root, or None."""
    try:
        return Nvml(nvml) if device == "cuda" else Rapl(root)
    except (OSError, ValueError):
        return None


def estimate(processor_s: float, cpu: str | None = None) -> Energy:
    """Joules from processor time: seconds of busy cores times the watts that one busy core adds."""
    kind = power_class(machine.processor() if cpu is None else cpu)
    how = f"{processor_s:.3g} s of processor time at {kind.watts} W a busy core ({kind.name}). {kind.source}"
    return Energy(processor_s * kind.watts, "estimate", processor_s * kind.low, processor_s * kind.high, how)


def of_model(worker: Worker, call_s: float, processor_s: float, meter: Meter | None = None) -> Energy:
    """Energy of one call of the model that the worker has prepared inputs for.

    call_s: seconds, processor_s: processor seconds of a call, both already measured. With a meter the model runs for
    half a second between two readings; without one this is an estimate and runs nothing.
    """
    if meter is None:
        return estimate(processor_s)
    calls = max(3, math.ceil(READ_S / call_s))
    before = meter.read()
    worker.time_block(calls, 0)
    joules = meter.since(before) / calls
    return Energy(joules, meter.source, joules, joules, meter.how)
