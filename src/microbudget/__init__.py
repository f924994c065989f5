"""microbudget: give it a model, your data and a budget; it hands back the smallest model that keeps the quality.

The public names are loaded on first use: `import torch` takes seconds, and `--help` must not.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Threads of torch that wait for each other keep their core busy for up to a millisecond, a thousand times in a step.
# Where other programs want the cores too, a step of MiniLM on two cores took 6.5 s so, and 1.1 s with threads that
# sleep sooner; on a quiet machine both take 0.73 s. libgomp reads this when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_PUBLIC = {
    "Budget": "judge.budget",
    "Candidate": "runs.candidates",
    "Measurement": "judge.budget",
    "Model": "model",
    "Recipe": "recipes.recipe",
    "Task": "task",
    "choose": "search.choosing",
    "compare": "judge",
    "estimate_inference": "footprint",
    "estimate_training": "footprint",
    "load": "runtimes.loading",
    "measure": "judge",
    "read_run": "search.result",
    "run_recipe": "search.shrink",
    "shrink": "search.shrink",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:
    from .footprint import estimate_inference, estimate_training
    from .judge import compare, measure
    from .judge.budget import Budget, Measurement
    from .model import Model
    from .recipes.recipe import Recipe
    from .runs.candidates import Candidate
    from .runtimes.loading import load
    from .search.choosing import choose
    from .search.result import read_run
    from .search.shrink import run_recipe, shrink
    from .task import Task


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microbudget' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
