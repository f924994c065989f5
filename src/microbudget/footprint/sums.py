"""An estimate: the lines of its sum, energy, carbon and money, and what they are comparable with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from . import facts
from .ranges import Range, exactly

J_PER_KWH = 3.6e6
SCOPES = ("accelerator", "node", "facility")  # and None, not said: from the accelerators alone to the building
NOT_SAID = "node (accelerators alone at the low end, building at the high end)"
KETTLE_KWH = Range(
    0.10, 0.11, 0.13, "a litre from 15 to 100 °C takes 0.099 kWh, kettles lose a tenth: general knowledge"
)
TRAIN_KWH = Range(0.04, 0.08, 0.13, "kWh a passenger and kilometre of electric trains: general knowledge")


@dataclass(frozen=True)
class Line:
    """One line of a sum."""

    name: str
    value: Range
    unit: str
    how: str = ""  # the line's arithmetic in words

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"name": self.name, **self.value.as_dict(), "unit": self.unit, "how": self.how}


@dataclass(frozen=True)
class Place:
    """Where it runs: how much of it is counted, cooling, grid and price. None: the facts' ranges."""

    scope: str | None = None
    pue: float | None = None
    region: str | None = None
    price: float | None = None  # dollars a kWh
    rent: float | None = None  # dollars a device-hour

    @property
    def counted(self) -> str:
        """What is counted: a PUE is asked for the building."""
        return self.scope or (NOT_SAID if self.pue is None else "facility")


ANYWHERE = Place()


@dataclass(frozen=True)
class Estimate:
    """What something takes, as the middle of a 90 % range, with the lines that lead to it."""

    energy_kwh: Range
    co2e_kg: Range
    cost: Range
    lines: tuple[Line, ...]
    scope: str
    by_scope_kwh: dict[str, Range]
    per: dict[str, Range] = field(default_factory=dict)  # joules of an answer, of a token
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; energies of an answer and a token where there are any."""
        found: dict[str, Any] = {}
        if self.per:
            found |= _three("energy", "_j", self.per["answer"])
            for name, value in self.per.items():
                found |= _three("energy", f"_j_per_{name}", value)
        found |= _three("energy", "_kwh", self.energy_kwh)
        found |= _three("co2e", "_kg", self.co2e_kg) | _three("cost", "", self.cost) | {"currency": "USD"}
        found |= {"scope": self.scope, "scopes_kwh": {name: each.as_dict() for name, each in self.by_scope_kwh.items()}}
        found |= {"lines": [line.as_dict() for line in self.lines], "notes": list(self.notes)}
        return found | {"comparisons": comparisons(self.energy_kwh)}

    to_dict = as_dict


def _three(name: str, unit: str, value: Range) -> dict[str, float]:
    return {f"{name}{unit}": value.middle, f"{name}_low{unit}": value.low, f"{name}_high{unit}": value.high}


def comparisons(energy: Range) -> list[dict[str, Any]]:
    """The energy as kettles and kilometres by train, with their ranges."""
    return [
        {"what": what, "unit": unit, **(energy / each).as_dict(), "origin": each.origin}
        for what, unit, each in (
            ("kettles of water brought to the boil", "kettles", KETTLE_KWH),
            ("one passenger by electric train", "km", TRAIN_KWH),
        )
    ]


def settled(
    accelerator: Range,
    host: Range,
    place: Place,
    family: str,
    lines: list[Line],
    *,
    hours: Range,
    extra: Range | None = None,
) -> tuple[Range, Range, Range, dict[str, Range]]:
    """From the accelerators' kWh to what is paid for: energy, CO2e, cost, and the energy in each scope.

    host: node over accelerators. extra: kWh of the node apart from its working accelerators. hours: of devices, for
    a rent. Adds its lines.
    """
    node = accelerator * host
    lines.append(
        Line("host", host, "x", "node over its accelerators: processors, memory, network, fans, power supplies")
    )
    if extra is not None:
        node = node + extra
        lines.append(Line("rest of the node", extra, "kWh", "devices that wait, and the node at rest"))
    building = facts.factor("pue", "data centre" if family in ("gpu", "tpu") else "home or edge")
    pue = building if place.pue is None else exactly(place.pue, "given")
    by_scope = {"accelerator": accelerator, "node": node, "facility": node * pue}
    if place.counted in ("facility", NOT_SAID):
        lines.append(Line("PUE", pue, "x", "building over its nodes: cooling, conversion"))
    energy = _counted(by_scope, place.counted)
    lines.append(Line("energy", energy, "kWh", f"of the {place.counted}"))
    grid = facts.grid(place.region)
    carbon = energy * grid * 1e-3
    lines += [Line("grid", grid, "g CO2e/kWh"), Line("carbon", carbon, "kg CO2e", "energy x grid, without manufacture")]
    price = facts.factor("price", "world") if place.price is None else exactly(place.price, "given")
    cost = energy * price
    lines.append(Line("price of electricity", price, "$/kWh"))
    if place.rent is not None:
        cost = hours * place.rent
        lines.append(Line("rent", exactly(place.rent, "given"), "$/device-hour", "in place of the electricity"))
    lines.append(Line("cost", cost, "$"))
    return energy, carbon, cost, by_scope


def _counted(by_scope: dict[str, Range], counted: str) -> Range:
    """The energy of a scope. Where none is said the range holds all three, as papers count either."""
    if counted != NOT_SAID:
        return by_scope[counted].of(f"scope: {counted}")
    least, middle, most = by_scope["accelerator"], by_scope["node"], by_scope["facility"]
    if not middle.middle:
        return middle
    below = math.hypot(math.log(least.middle / least.low), math.log(middle.middle / least.middle))
    above = math.hypot(math.log(middle.high / middle.middle), math.log(most.middle / middle.middle))
    return Range(middle.middle * math.exp(-below), middle.middle, middle.middle * math.exp(above), f"scope: {counted}")
