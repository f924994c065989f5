"""Kinds of models: a folder in `kinds` for each, whose facets are found by name. Generic code knows none of them.

A kind's name in files and messages is `image-classification`, its folder `kinds/image_classification`. Inside, the same
facets have the same file names (`data`, `network`, `judging`, `search_space`, `page`, ...), next to its parts of the
methods (`distill`, `finetune`, ...).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from .errors import UnsupportedModel

PACKAGE = f"{__package__}.kinds"


def names() -> tuple[str, ...]:
    """The kinds there are, alphabetically, as files and messages write them."""
    folders = importlib.import_module(PACKAGE).__path__
    return tuple(sorted(info.name.replace("_", "-") for info in pkgutil.iter_modules(folders) if info.ispkg))


def exists(name: str) -> bool:
    """Whether there is such a kind; a task of the user's own may name another."""
    return name in names()


def find_facet(kind: str, name: str) -> ModuleType | None:
    """A module of a kind's folder, imported when it is first needed; None where the kind has no such module."""
    return importlib.import_module(_path(kind, name)) if _has(kind, name) else None


def facet(kind: str, name: str) -> ModuleType:
    """As `find_facet`. Raises UnsupportedModel with the kinds that have such a module."""
    found = find_facet(kind, name)
    if found is None:
        raise UnsupportedModel(f"{name} does not support {kind}; it supports {', '.join(having(name)) or 'nothing'}")
    return found


def having(name: str) -> tuple[str, ...]:
    """The kinds with a module of that name; none is imported."""
    return tuple(kind for kind in names() if _has(kind, name))


def _path(kind: str, name: str) -> str:
    return f"{PACKAGE}.{kind.replace('-', '_')}.{name}"


def _has(kind: str, name: str) -> bool:
    path = _path(kind, name)
    folder = path.rpartition(".")[0]
    if not kind.replace("-", "_").isidentifier():  # of a task of the user's own
        return False
    return importlib.util.find_spec(folder) is not None and importlib.util.find_spec(path) is not None


def facets(name: str) -> list[ModuleType]:
    """The modules of that name of all kinds that have one."""
    return [module for kind in names() if (module := find_facet(kind, name)) is not None]


def of_format(model_format: str) -> str | None:
    """The kind of the models in a format where no record says it."""
    return next((each.KIND for each in facets("network") if model_format in each.FORMATS), None)
