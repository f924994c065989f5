"""The judge: measures models in fresh processes and compares them in pairs. The only reader of the test split.

The public names are loaded on first use, since a worker process imports this package too and must stay small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Comparison": "comparing",
    "Timing": "timing",
    "PairTiming": "timing",
    "Worker": "worker",
    "compare": "comparing",
    "measure": "measuring",
    "time_one": "timing",
    "time_pair": "timing",
}
__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    from .comparing import Comparison as Comparison
    from .comparing import compare as compare
    from .measuring import measure as measure
    from .timing import PairTiming as PairTiming
    from .timing import Timing as Timing
    from .timing import time_one as time_one
    from .timing import time_pair as time_pair
    from .worker import Worker as Worker


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microbudget.judge' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
