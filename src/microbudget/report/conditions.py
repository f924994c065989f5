"""Conditions: how and on what machine it was measured, so that a number can be judged and reproduced."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..judge.budget import Measurement
from ..model import Record
from ..units import format_seconds
from . import phrases
from .outcome import Outcome
from .part import Part, words_of

UNTRAINED = {"calibration": "calibration", "nothing": "not used"}  # what a train split is where nothing trains
Facts = tuple[tuple[str, str], ...]


def conditions(outcome: Outcome, part: Part, record: Record | None) -> Facts:
    """Names and values, only those that are known."""
    shown = outcome.best or outcome.reference
    measurement, settings = shown.measurement or outcome.reference.measurement, outcome.settings
    facts = [
        ("Model", _named(settings, "model")),
        ("Chosen of", _chosen_of(outcome)),
        ("Data", _named(settings, "data")),
        (words_of(outcome.kind, outcome.metric).examples.capitalize(), _splits(outcome, part)),
        ("Seed", str(settings.get("seed", ""))),
    ]
    if measurement is not None:
        facts += [
            ("Machine", _machine(measurement.machine)),
            ("Timed", phrases.timed_on(outcome.reference)),
            ("Runtime", _runtimes(outcome)),
            ("Threads", "" if measurement.threads is None else str(measurement.threads)),
            ("Loading", "" if measurement.load_s is None else f"{format_seconds(measurement.load_s)} in a new process"),
            ("Not measured", ", ".join(not_measured(measurement))),
        ]
    facts += [
        ("Versions", "" if record is None else ", ".join(f"{name} {text}" for name, text in record.versions.items())),
        ("Time taken", format_seconds(sum(row.seconds for row in outcome.rows))),
        ("Ended" if outcome.ended else "Last row", _when(outcome)),
    ]
    return tuple((name, value) for name, value in facts if value)


def not_measured(measurement: Measurement) -> list[str]:
    """The costs that have no number, by name."""
    costs = {"latency": "latency_s", "memory": "memory_bytes", "energy": "energy_j"}
    absent = [name for name, field in costs.items() if getattr(measurement, field) is None]
    return list(dict.fromkeys([*absent, *measurement.not_measured]))


def _named(settings: dict[str, Any], what: str) -> str:
    fingerprint = settings.get(f"{what}_fingerprint")
    return f"{settings.get(what, '')}" + (f" (fingerprint {fingerprint})" if fingerprint else "")


def _chosen_of(outcome: Outcome) -> str:
    """Of which networks the run's was chosen, and why; "" where there was no other."""
    kept = outcome.run.beginning
    if kept is None or kept["path"] != outcome.settings.get("model_path"):
        return ""
    best: dict[str, float] = {}
    for shape in kept["shapes"]:
        best[shape["network"]] = max(best.get(shape["network"], 0.0), shape["measurement"]["quality"])
    networks = ", ".join(f"{name} ({quality:.3f})" for name, quality in best.items())
    return f"{networks}, by their frozen features, size and latency (choose.json). {kept['why']}"


def _splits(outcome: Outcome, part: Part) -> str:
    """Examples per split: from the data where the kind opened them, else from what was measured."""
    sizes = dict(part.split_sizes)
    if "train" in sizes and (name := UNTRAINED.get(outcome.settings.get("use", ""))):
        sizes = {name: sizes.pop("train"), **sizes}
    if not sizes and outcome.reference.measurement is not None:
        sizes["validation"] = outcome.reference.measurement.examples
        if outcome.reference.test is not None:
            sizes["test"] = outcome.reference.test.examples
    return ", ".join(f"{count} {split}" for split, count in sizes.items())


def _machine(machine: dict[str, Any]) -> str:
    parts = [str(machine.get("cpu", "")), f"{machine['cores']} cores" if "cores" in machine else ""]
    parts += [str(machine.get("architecture", "")), str(machine.get("platform", ""))]
    if machine.get("load_average") is not None:
        parts.append(f"load average {machine['load_average']}")
    return ", ".join(part for part in parts if part)


def _runtimes(outcome: Outcome) -> str:
    """The runtime of what ships, and the reference's where it is another."""
    ours = outcome.best.measurement if outcome.best else None
    theirs = outcome.reference.measurement
    if ours is None or theirs is None or ours.runtime == theirs.runtime:
        known = ours or theirs
        return "" if known is None else known.runtime
    return f"{ours.runtime}; the reference: {theirs.runtime}"


def _when(outcome: Outcome) -> str:
    path = outcome.run.result if outcome.ended else outcome.run.rows
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M %Z")
