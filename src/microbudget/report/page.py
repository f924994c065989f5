"""The page: gathers what the report shows and renders it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..kind import find_facet
from ..machine import files
from . import phrases
from .charts import charts
from .conditions import conditions
from .confusion import confusion
from .contributions import contributions
from .headline import headline
from .layers import layers, without_layers
from .outcome import Outcome, read_outcome
from .part import FACET, Part, Section, part_of, words_of
from .rows import table
from .side_by_side import side_by_side
from .steps import steps, words
from .training import STEP, advice, further, training
from .weights import weights

SCRIPT = "page.js"
TEMPLATE, STYLE = "page.html.jinja", "page.css"  # here, and of the same names in the folder of a kind


def write(folder: Path) -> Path:
    """Write report.html into the run's folder; an older one stays until the new one is whole."""
    outcome = read_outcome(folder)
    # A file name may hold bytes that are no text: they are shown as escapes.
    files.write_bytes(outcome.run.report, render(outcome).encode("utf-8", "backslashreplace"))
    return outcome.run.report


def render(outcome: Outcome) -> str:
    """The page's HTML."""
    outcome = outcome.there
    environment, part = _environment(), part_of(outcome)
    facet = find_facet(outcome.kind, FACET)
    package = None if facet is None else str(facet.__package__)
    sections = _sections(environment, package, part)
    return document(TEMPLATE, {**_facts(outcome, part), "sections": sections}, package)


def document(template: str, facts: dict[str, Any], package: str | None = None) -> str:
    """The HTML of a template of this folder, with the page's style and its script. package: of the kind."""
    script = _file(str(__package__), SCRIPT).read_text(encoding="utf-8")
    own = {"style": _style(package), "script": Markup(script), "script_hash": hash_of(script)}
    return _environment().get_template(f"{__package__}/{template}").render({**facts, **own})


def _facts(outcome: Outcome, part: Part) -> dict[str, Any]:
    shown = outcome.best or outcome.reference
    record, called = outcome.record(shown), words_of(outcome.kind, outcome.metric)
    trained = training(record)
    rows = table(outcome, part.columns)
    return {
        "outcome": outcome,
        "called": called,
        "part": part,
        "headline": headline(outcome, part.sentences),
        "rows": rows,
        "side_by_side": side_by_side(outcome, rows),
        "contributions": contributions(outcome),
        "charts": charts(outcome, part, trained, further(record)),
        "training": trained,
        "advice": advice(trained, called) if trained else "",
        "confusion": confusion(shown.measurement) if shown.measurement else None,
        "layers": layers(record),
        "steps": steps(without_layers(record), without=[STEP]) if record else (),
        "weights": weights(outcome),
        "conditions": conditions(outcome, part, record),
    }


def hash_of(script: str) -> str:
    """The source of the page's Content Security Policy that allows this script alone (W3C CSP Level 3, 2.3.1)."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def _sections(environment: Environment, package: str | None, part: Part) -> list[tuple[Section, Markup]]:
    """The kind's sections, each with what the macro of its name draws."""
    if package is None:
        return []
    macros = environment.get_template(f"{package}/{TEMPLATE}").module
    return [(section, getattr(macros, section.anchor)(section.content)) for section in part.sections]


def _style(package: str | None) -> Markup:
    """The page's rules, and those of the kind."""
    own = [] if package is None or not _file(package, STYLE).is_file() else [package]
    return Markup("\n".join(_file(where, STYLE).read_text(encoding="utf-8") for where in (str(__package__), *own)))


def _environment() -> Environment:
    """Everything is escaped but the plots, which are drawn from numbers and escape their texts themselves."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=FunctionLoader(_source)
    )
    environment.filters.update(svg=Markup, share=phrases.share, words=words)
    return environment


def _source(name: str) -> str:
    """A template's text by its package and file name: "microbudget.report/page.html.jinja"."""
    package, _, file = name.rpartition("/")
    return _file(package, file).read_text(encoding="utf-8")


def _file(package: str, name: str) -> Traversable:
    return resources.files(package).joinpath(name)
