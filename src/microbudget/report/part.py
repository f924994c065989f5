"""Part: what a kind of model adds to the page, and the words that the page uses for its examples.

The page knows no kind. It asks the facet `page` of the kind (`kinds/<kind>/page.py`) for

* `WORDS`, a `Words`, and where other data have another metric, `WORDS_BY_METRIC` for those,
* `usage(folder, model_format)`, a `Usage`: how the model in RUN/best is run,
* `part(outcome)`, a `Part`: its sections, plots, columns and sentences,
* `opening(outcome)`, if it has one: the sentence that the page and the terminal begin with; "" for none.

A section is drawn by the macro of its anchor's name in `page.html.jinja` in the kind's folder, which gets the section's
content as its only argument; `page.css` next to it, if there is one, goes into the page's style. A kind without the
facet, such as a task of the user's own, gets a page without additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..kind import find_facet

if TYPE_CHECKING:
    from .outcome import Outcome

FACET = "page"

ONNX_LINES = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
inputs = session.get_inputs()[0]
prepared = np.zeros([side if isinstance(side, int) else 1 for side in inputs.shape], np.float32)
logits = session.run(None, {inputs.name: prepared})[0]"""


@dataclass(frozen=True)
class Words:
    """What the page and the card call a kind's examples, and what is measured."""

    example: str = "example"
    examples: str = "examples"
    timed: str = "an example"  # what a latency is the time of
    timing: str = "one example (batch 1), from the prepared input to the model's output"  # the same, in full
    interval: str = "a 95 % interval"  # of the quality


@dataclass(frozen=True)
class Usage:
    """How a delivered model is run: a command, what else is to know, and lines of Python; each may be empty."""

    shell: str = ""
    hint: str = ""
    lines: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page. `anchor` is its id and names the macro that draws `content`."""

    anchor: str
    title: str  # in the list of sections
    heading: str
    content: Any


@dataclass(frozen=True)
class Plots:
    """Plots that a kind has in place of size and latency against quality: SVG texts with their captions."""

    heading: str
    figures: tuple[tuple[str, str], ...]
    note: str


@dataclass(frozen=True)
class Column:
    """A further column of the table of candidates: its cells by the candidates' fingerprints."""

    heading: str
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """What a kind adds to a page."""

    sections: tuple[Section, ...] = ()
    plots: Plots | None = None
    columns: tuple[Column, ...] = ()
    sentences: tuple[str, ...] = ()  # under the headline
    warnings: tuple[str, ...] = ()  # about the data
    split_sizes: Mapping[str, int] = field(default_factory=dict)  # examples in each split, where the data were opened


class _Facet(Protocol):
    """The module `page` of a kind."""

    WORDS: Words

    def usage(self, folder: Path, model_format: str) -> Usage: ...

    def part(self, outcome: Outcome) -> Part: ...


def words_of(kind: str, metric: str = "") -> Words:
    """The words for a kind's examples; of a kind that is judged by several metrics, for those of this one."""
    found = _facet(kind)
    if found is None:
        return Words()
    others: Mapping[str, Words] = getattr(found, "WORDS_BY_METRIC", {})
    return others.get(metric, found.WORDS)


def usage_of(kind: str, folder: Path, model_format: str) -> Usage:
    """How the model in a folder is run."""
    found = _facet(kind)
    if found is None:
        return Usage(lines=ONNX_LINES if model_format == "onnx" else "")
    return found.usage(folder, model_format)


def part_of(outcome: Outcome) -> Part:
    """What the run's kind adds to its page."""
    found = _facet(outcome.kind)
    return Part() if found is None else found.part(outcome)


def opening_of(outcome: Outcome) -> str:
    """The sentence that the run's kind begins with; "" for none."""
    opening = getattr(_facet(outcome.kind), "opening", None)
    return "" if opening is None else str(opening(outcome))


def _facet(kind: str) -> _Facet | None:
    return cast("_Facet | None", find_facet(kind, FACET))
