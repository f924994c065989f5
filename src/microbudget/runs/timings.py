"""Timings of another machine, as a kit's script wrote them, and what they say of the rows of a run.

A run keeps what was measured on its own machine. Timings are laid over it: each row gets what it costs there
(`Candidate.elsewhere`), and limits, goals and the report read that (`Candidate.there`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, RunMismatch
from ..judge.timing import RESOLUTION
from ..model import Model
from ..runtimes.loading import load
from .candidates import Candidate

VERSION = 1  # of kit.json and timings.json
IDENTITY = ("model_fingerprint", "data_fingerprint", "seed")  # of run.toml: what makes two runs the same
NAMES = {"model_fingerprint": "another model", "data_fingerprint": "other data", "seed": "another seed"}
COSTS = ("latency_s", "latency_low_s", "latency_high_s", "load_s", "memory_bytes")
ROW = ("fingerprint", "files", "recipe")


@dataclass(frozen=True)
class Timings:
    """What a kit's script wrote. content: of the file. path: where it was read."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Timings:
        """Raises BadInput for a file that a kit's script has not written."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            wrong = _wrong(content)
        except OSError as error:
            raise BadInput(f"the timings {path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise BadInput(
                f"{path} holds no timings ({wrong}): give the timings.json that time_models.py wrote in the folder of"
                " `microbudget kit RUN`"
            )
        return cls(path, content)

    @property
    def machine(self) -> str:
        """The machine in a few words: "ARM Cortex-A76, 4 threads"."""
        threads = self.content["threads"]
        return f"{self.content['machine'].get('cpu', 'another machine')}, {threads} thread{'s' if threads != 1 else ''}"

    def check(self, folder: Path, settings: dict[str, Any], rows: Sequence[Candidate]) -> None:
        """Raise RunMismatch where they are of another run or of other files than the run in `folder` has."""
        kept = self.content["run"]
        differs = [NAMES[key] for key in IDENTITY if kept.get(key) != settings.get(key)]
        if differs:
            raise RunMismatch(
                f"{self.path} has the timings of another run, with {' and '.join(differs)} than {folder}: give the RUN"
                " that its kit was made from, or make a kit of this one"
            )
        known = {row.fingerprint: row for row in rows if row.measurement is not None and (folder / row.path).exists()}
        found = [each for each in self.content["models"] if each["fingerprint"] in known]
        if not found:
            raise RunMismatch(
                f"{self.path} has timings of {len(self.content['models'])} models, and {folder} has none of these: give"
                " the RUN that its kit was made from, or make a kit of this one"
            )
        for each in found:
            row = known[each["fingerprint"]]
            if sorted(each["files"].values()) != sorted(hashes(load(folder / row.path)).values()):
                raise RunMismatch(
                    f"{self.path} has timings of other files than {row.path} in {folder} holds now: make a kit of this"
                    " run again, and time that"
                )

    def laid_over(self, rows: Sequence[Candidate]) -> list[Candidate]:
        """The rows with what they cost on that machine, in `elsewhere`."""
        return [self.of(row) for row in rows]

    def of(self, row: Candidate) -> Candidate:
        """A row with what it costs on that machine. The reference has the times of its float export there."""
        as_base = self.content["run"].get("reference_as")
        is_reference = row.fingerprint == self.content["run"].get("reference")
        found = self._row(row.fingerprint) or (self._row(as_base) if is_reference else None)
        facts = {"machine": self.machine, "facts": self.content["machine"], "threads": self.content["threads"]}
        if found is None:
            return row.with_elsewhere({**facts, "missing": f"not timed on {self.machine}"})
        if "failure" in found:
            return row.with_elsewhere({**facts, "failure": f"fails on {self.machine}: {found['failure']}"})
        if not found["agrees"]:
            other = f"{found['examples'] - found['same_top']} of {found['examples']} top answers are others"
            facts["failure"] = f"answers otherwise on {self.machine}: {other}"
        if is_reference and found["fingerprint"] != row.fingerprint:
            facts["stands_in"] = "its float export"
        costs = {name: found.get(name) for name in COSTS}
        speed = {} if is_reference else self._speed(found)
        return row.with_elsewhere({**facts, "costs": costs, "speed": speed, "runtime": found.get("runtime")})

    def _row(self, fingerprint: str | None) -> dict[str, Any] | None:
        return next((each for each in self.content["models"] if each["fingerprint"] == fingerprint), None)

    def _speed(self, found: dict[str, Any]) -> dict[str, Any]:
        """As `Candidate.speed`: over the base, and over the same model in float where that was timed."""
        base = next(each for each in self.content["models"] if each.get("base"))
        floats = next((each for each in self.content["models"] if _is_float_of(each, found)), None)
        speed = {
            **_ratio(*(found[name] for name in ("speedup", "speedup_low", "speedup_high"))),
            "reference": base["fingerprint"],
            **{f"reference{name.removeprefix('latency')}": base[name] for name in COSTS[:3]},
        }
        if floats is not None:
            times = found["speedup"] / floats["speedup"]
            low, high = found["speedup_low"] / floats["speedup_high"], found["speedup_high"] / floats["speedup_low"]
            speed["over_float"] = _ratio(times, low, high)
        return speed


def hashes(model: Model, folder: str = "") -> dict[str, str]:
    """The SHA-256 of each file of a model by its name, which begins with `folder`."""
    return {f"{folder}{model.name_of(file)}": hash_of(file) for file in model.files}


def hash_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_float_of(each: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a timed model is another one before `quantize`, and not the base for itself."""
    recipe, _, last = other["recipe"].rpartition(" > ")
    return last.startswith("quantize(") and each["recipe"] == recipe and "speedup" in each


def _ratio(times: float, low: float, high: float) -> dict[str, Any]:
    """As of `judge.timing`, whose verdict calls no difference below its resolution."""
    verdict = "faster" if low > 1 + RESOLUTION else "slower" if high < 1 / (1 + RESOLUTION) else "no difference shown"
    return {"speedup": times, "low": low, "high": high, "verdict": verdict, "busy": ""}


def _wrong(content: Any) -> str:
    """What makes it no timings; "" for timings. Raises KeyError, TypeError, AttributeError for what is missing."""
    if content["version"] != VERSION:
        return f"version {content['version']}, and this microbudget reads {VERSION}"
    kinds = {"run": dict, "machine": dict, "threads": int, "models": list}
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            return f"{name} is no {kind.__name__}"
    timed = [each for each in content["models"] if "failure" not in each]
    for each in content["models"]:
        if missing := [name for name in ROW if name not in each]:
            return f"a model without {missing[0]}"
    for each in timed:
        wanted = {name: each[name] for name in (*COSTS[:3], "speedup", "speedup_low", "speedup_high")}
        wanted |= {name: each[name] for name in ("examples", "same_top", "agrees")}
        for name, value in list(wanted.items())[:6]:
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                return f"{name} of {each.get('name')} is {value!r}"
    return "" if not timed or any(each.get("base") for each in timed) else "no model is the base"
