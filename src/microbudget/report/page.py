"""The page: gathers what the report tells and renders it."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..kinds.image_classification.confusion import confusion
from ..kinds.image_classification.gallery import Gallery, gallery
from ..kinds.language_modelling.report_writing import exchanges
from ..kinds.transcription.players import players
from ..machine import files
from ..model import LANGUAGE_MODELLING, TRANSCRIPTION
from . import phrases
from .charts import charts
from .conditions import conditions
from .headline import headline
from .ladder import foretold
from .layers import layers, without_layers
from .outcome import Outcome, read_outcome
from .rows import table
from .steps import steps, words
from .training import STEP, advice, further, training
from .weights import weights


def write(folder: Path) -> Path:
    """Write report.html into the run's folder; the one that stood there stays until the new one is whole."""
    outcome = read_outcome(folder)
    # A file name may hold bytes that are no text: they are shown as escapes.
    files.write_bytes(outcome.run.report, render(outcome).encode("utf-8", "backslashreplace"))
    return outcome.run.report


def render(outcome: Outcome) -> str:
    """The page's HTML."""
    return _environment().get_template("page.html.jinja").render(_facts(outcome))


def _facts(outcome: Outcome) -> dict[str, Any]:
    shown = outcome.best or outcome.reference
    record = outcome.record(shown)
    trained = training(record)
    kind = None if shown.measurement is None else shown.measurement.task
    heard = players(outcome) if kind == TRANSCRIPTION else None
    photos = Gallery("the data are no photos") if heard else gallery(outcome)
    if heard is not None:
        photos = replace(photos, warnings=heard.warnings, split_sizes=heard.split_sizes)
    return {
        "outcome": outcome,
        "language": kind == LANGUAGE_MODELLING,
        "players": heard,
        "headline": headline(outcome),
        "rows": table(outcome),
        "charts": charts(outcome, trained, further(record)),
        "photos": photos,
        "foretold": tuple(foretold(outcome)),
        "exchanges": exchanges(outcome),
        "training": trained,
        "advice": advice(trained) if trained else "",
        "confusion": confusion(shown.measurement) if shown.measurement else None,
        "layers": layers(record),
        "steps": steps(without_layers(record), without=[STEP]) if record else (),
        "weights": weights(outcome),
        "conditions": conditions(outcome, photos, record),
    }


def _environment() -> Environment:
    """Everything is escaped but the plots, which are drawn from numbers and escape their texts themselves."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=FunctionLoader(_source)
    )
    environment.filters.update(svg=Markup, share=phrases.share, words=words)
    return environment


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
