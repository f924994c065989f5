"""Shipment: a model with all that its card says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..judge.budget import Budget
from ..model import Model
from ..runs.candidates import Candidate
from ..task import Task


@dataclass(frozen=True)
class Shipment:
    """A model with what its card says. task: whose kind adds files, such as a script that needs no microbudget.

    settings: of run.toml. reference: its row, for the card's table; None where there is none yet.
    """

    model: Model
    candidate: Candidate
    budget: Budget
    task: Task
    settings: dict[str, Any]
    reference: Candidate | None = None
    readings: int = 1  # models of the run that have read the test split, besides the reference
