"""The model card: how to run the model, how it was made, what it costs and how good it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from ..model import Model
from ..report import phrases
from ..report.part import usage_of, words_of
from ..units import format_bytes, format_change, format_seconds, format_times
from .shipment import Shipment
from .shipping import shipping_of


def card(folder: Path, shipment: Shipment) -> str:
    """The card's Markdown. folder: with the model's files."""
    import jinja2

    model, candidate, budget = shipment.model, shipment.candidate.there, shipment.budget
    reference = None if shipment.reference is None else shipment.reference.there

    source = resources.files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters.update(
        bytes=_known(format_bytes),
        seconds=_known(format_seconds),
        change=format_change,
        times=format_times,
        decision=phrases.decision,
        readings=phrases.readings,
    )
    measurement = candidate.measurement
    assert measurement is not None
    shipping, reference_test = shipping_of(measurement.task), None if reference is None else reference.test
    facts: dict[str, Any] = {
        "settings": shipment.settings,
        "record": model.record,
        "labels": model.labels or (),
        "candidate": candidate,
        "reference": reference,
        "readings": shipment.readings,
        "limits": {key: value for key, value in budget.as_dict().items() if value not in (None, False)},
        "unmet": [*candidate.broken_limits(budget), *candidate.broken_on_test(budget)],
        "usage": usage_of(measurement.task, folder, measurement.format),
        "called": words_of(measurement.task, measurement.metric),
        "pipeline_tag": shipping.pipeline_tag,
        "further_rows": () if candidate.test is None else shipping.card_rows(candidate.test, reference_test),
        "timed_on": phrases.timed_on(reference or candidate),
        "runtime_notes": list(_runtime_notes(model)),
    }
    return environment.from_string(source).render(facts)


def _known(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """The filter for a number that may not have been measured."""
    return lambda value: phrases.MISSING if value is None else show(value)


def _runtime_notes(model: Model) -> Iterator[str]:
    """Notes of the recipe's steps on the runtimes that take their result as it is."""
    for report in model.record.history.values():
        notes = report.get("runtimes", ()) if isinstance(report, dict) else ()
        yield from ((notes,) if isinstance(notes, str) else map(str, notes))
