"""The ledger: where every byte of a model's files is. The rows and parts add up to `size_bytes` exactly.

A format's ledger is the function `read` of the module of its name in this package.
"""

from __future__ import annotations

import importlib
import pkgutil

from ...errors import UnsupportedModel
from ...model import Model
from .rows import Ledger

NOT_FORMATS = ("rows",)


def ledger(model: Model) -> Ledger:
    """The ledger of a model's files. Raises UnsupportedModel for a format without one."""
    formats = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name not in NOT_FORMATS)
    if model.format not in formats:
        raise UnsupportedModel(f"there is no ledger for format {model.format!r}; there is for {', '.join(formats)}")
    found: Ledger = importlib.import_module(f".{model.format}", __name__).read(model)
    return found
