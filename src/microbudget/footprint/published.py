"""The published cases as command lines of `estimate`, each with the figure that was published.

`facts/training.csv` and `facts/inference.csv` have the cases, `facts/cases.csv` how an inference case is asked for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from .facts import rows

SCOPES = {"node_partial": "node", "accelerator+host": "node"}
UNITS = {"J/output token": ("token", 1.0), "J/image": ("answer", 1.0), "J/video": ("answer", 1.0),
         "J/inference": ("answer", 1.0), "uJ/inference": ("answer", 1e-6), "Wh/query": ("answer", 3600.0)}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A published figure: kWh of a training, joules of an answer or a token."""

    name: str
    command: tuple[str, ...]  # after `microbudget estimate`
    published: float
    per: str  # "training", "answer", "token"
    scope: str  # what the figure counts
    measured: bool  # not a product of limit and hours
    row: dict[str, str]

    @property
    def key(self) -> str:
        """Of the JSON document, without low and high."""
        return "energy_kwh" if self.per == "training" else f"energy_j_per_{self.per}"


def trainings() -> Iterator[Case]:
    """Cases of training with a published energy: hours where they are published, else parameters and tokens."""
    for row in rows("training"):
        if not row["reported_energy_kwh"]:
            continue
        devices = f"{row['n_devices']}x{row['device']}" if row["n_devices"] else row["device"]
        command = ["training", "--on", devices]
        total, active = row["params_total_B"], row["params_active_B"]
        if total:
            command += ["--params", f"{total}B" + (f"-A{active}B" if active != total else "")]
        if row["device_hours"]:
            command += ["--device-hours", row["device_hours"]]
        elif row["train_unit"] == "tokens":
            command += ["--tokens", row["train_amount"]]
        yield Case(
            row["case_id"],
            tuple(command),
            float(row["reported_energy_kwh"]),
            "training",
            SCOPES.get(row["energy_scope"], row["energy_scope"]),
            row["circular"] == "no",
            row,
        )


def inferences() -> Iterator[Case]:
    """Cases of inference that can be asked for: those without a size or device are left out (`unknown`)."""
    asked = {row["case_id"]: row for row in rows("cases")}
    for row in rows("inference"):
        how = asked.get(row["case_id"])
        if how is None or not how["arguments"]:
            continue
        per, scale = UNITS[row["unit"]]
        command = ("inference", *shlex.split(how["arguments"]))
        yield Case(
            row["case_id"], command, float(row["value"]) * scale, per, how["scope"], row["kind"] == "measured", row
        )


def unknown() -> dict[str, str]:
    """Inference cases that no estimate can be made of, with the reason."""
    return {row["case_id"]: row["reason"] for row in rows("cases") if not row["arguments"]}
