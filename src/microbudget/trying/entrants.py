"""Entrants: the models that can be tried, of a run or as given, by the names that the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, InvalidOption, MicrobudgetError
from ..model import Model
from ..progress import Progress
from ..report.rows import name
from ..runs.candidates import Candidate
from ..runtimes.loading import load
from ..search.result import Shrunk, read_run
from ..units import format_bytes
from .asking import called, part_of


@dataclass(frozen=True)
class Entrant:
    """A model under its name."""

    name: str
    model: Model


@dataclass(frozen=True)
class Entrants:
    """All models that can be opened. first: names of those that are compared where nobody chose."""

    title: str
    kind: str
    all: tuple[Entrant, ...]
    first: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def find(self, called: str) -> Entrant:
        """The one of a name. Raises InvalidOption."""
        for each in self.all:
            if each.name == called:
                return each
        raise InvalidOption(f"there is no model {called!r} here")


def entrants(given: Sequence[str], progress: Progress) -> Entrants:
    """Of a run, or of models of one kind. Raises BadInput, ModelNotFound, UnsupportedModel."""
    runs = [path for path in given if (Path(path) / "run.toml").is_file()]
    if runs and len(given) > 1:
        raise InvalidOption(f"{runs[0]} is a run: give one RUN, or MODELs (a run's is RUN/best)")
    return _of_run(Path(given[0]), progress) if runs else _of_models(given)


def _of_models(given: Sequence[str]) -> Entrants:
    models = [load(each) for each in given]
    kinds = sorted({model.task for model in models})
    if len(kinds) > 1:
        raise InvalidOption(f"the models are for {' and '.join(kinds)}: give models of one kind")
    part_of(kinds[0])
    found: list[Entrant] = []
    for text, model in zip(given, models, strict=True):
        same = sum(each.name.startswith(_last(text)) for each in found)
        found.append(Entrant(_last(text) + (f" ({same + 1})" if same else ""), model))
    names = tuple(each.name for each in found)
    return Entrants(" and ".join(names), kinds[0], tuple(found), names[:4], models[0].labels or ())


def _last(text: str) -> str:
    return Path(text.rstrip("/")).name or text


def _of_run(folder: Path, progress: Progress) -> Entrants:
    run = read_run(folder)
    found, missing = [], []
    for place, row in enumerate(run.numbered):
        ships = run.best is not None and row.fingerprint == run.best.fingerprint
        model = _model(run, row, ships)
        if model is not None:
            found.append((Entrant(_name(place, row, model, ships), model), place == 0, ships))
        elif row.measurement is not None:
            missing.append(name(place))
    if not found:
        raise BadInput(
            f"no model of the run {folder} is there any more ({folder / 'models'}): put them back, or give the run's"
            " command again to build them"
        )
    if missing:
        several = "models of rows" if len(missing) > 1 else "model of row"
        progress.warn(f"the {several} {', '.join(missing)} cannot be opened any more, and cannot be tried")
    part_of(found[0][0].model.task)
    first = [each.name for each, reference, ships in found if reference or ships]
    rest = [each.name for each, _, _ in found if each.name not in first]
    models = tuple(each for each, _, _ in found)
    labels = next((each.model.labels for each in models if each.model.labels), ())
    whole = folder.resolve()
    title = f"{whole.parent.name}/{whole.name}"
    return Entrants(title, models[0].model.task, models, tuple((first + rest)[: max(2, len(first))]), labels)


def _model(run: Shrunk, row: Candidate, ships: bool) -> Model | None:
    for each in (row, run.best if ships else None):
        with suppress(MicrobudgetError):
            if each is not None:
                return each.model
    return None


def _name(place: int, row: Candidate, model: Model, ships: bool) -> str:
    own = called(part_of(model.task), row.recipe)
    number = f"{place}: " if place else "reference: "
    return f"{number}{own or row.short}, {format_bytes(model.size_bytes)}" + (" (ships)" if ships else "")
