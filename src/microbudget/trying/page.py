"""The page: what is put in, the answers side by side, a vote without names, and what is kept."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import MicrobudgetError
from .asking import Answer, Part
from .cards import html_of, problem
from .inputs import photo, recording
from .opened import Opened
from .votes import Vote, Votes

HERE = Path(__file__).parent
# System fonts: a theme's own would be fetched from elsewhere.
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]


@dataclass(frozen=True)
class Shown:
    """What one visitor sees: the input, the models in the order in which they are shown, and their answers."""

    given: str = ""
    names: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    blind: bool = False

    @property
    def can_vote(self) -> bool:
        """Whether both answers are there, without names."""
        return self.blind and len(self.names) == len(self.answers) == 2 and not any(a.failure for a in self.answers)


@dataclass
class Visit:
    """What the page does, for all visitors. kept: the folder that becomes DATA."""

    opened: Opened
    part: Part
    kept: Path
    votes: Votes = field(default_factory=Votes)

    def ask(self, given: str | None, chosen: Sequence[str], blind: bool) -> Iterator[Shown | str]:
        """What is shown while the models answer, one after the other; a text: why nothing can be answered."""
        known = [each.name for each in self.opened.entrants.all]
        names = [name for name in known if name in chosen]
        if not given or not given.strip():
            yield Shown()
        elif not names or (blind and len(names) != 2):
            yield "choose two models for a vote without names" if blind else "choose a model"
        else:
            try:
                self.part.check(given)
            except MicrobudgetError as error:
                yield str(error)
                return
            if blind:
                random.shuffle(names)
            yield from self._answered(Shown(given, tuple(names), (), blind))

    def _answered(self, shown: Shown) -> Iterator[Shown]:
        done: list[Answer] = []
        for name in shown.names:
            answer = Answer()
            for answer in self.opened.answers(name, shown.given):
                if not shown.blind:
                    yield replace(shown, answers=(*done, answer))
            done.append(answer)
        yield replace(shown, answers=tuple(done))  # without names both at once: who writes faster would show

    def vote(self, shown: Shown, vote: Vote) -> tuple[str, Shown]:
        """The verdict so far, and the answers with their names. A pair of answers is voted on once."""
        if not shown.can_vote:
            return "", shown
        left, right = shown.names
        verdict = self.votes.add((left, right), vote)
        return f"Left was {left}, right was {right}. {verdict}", replace(shown, blind=False)

    def keep(self, shown: Shown, right: str | None) -> str:
        """Keep what was put in; what to say of it."""
        if not shown.given:
            return "there is nothing to keep yet"
        try:
            path = self.part.keep(self.kept, shown.given, right or "")
        except (MicrobudgetError, OSError) as error:
            return f"not kept: {error}"
        return f"kept in {path}; measure with it: microbudget measure MODEL --data {self.kept}"

    def html(self, shown: Shown | str) -> str:
        """The answers as they are shown."""
        if isinstance(shown, str):
            return problem(shown)
        alike = getattr(self.part, "alike", str)
        return html_of(shown.names, shown.answers, shown.blind, alike) if shown.names else ""


def build(visit: Visit) -> gr.Blocks:
    """The page as Gradio has it."""
    entrants, medium = visit.opened.entrants, visit.part.MEDIUM
    with gr.Blocks(title=f"microbudget try {entrants.title}", analytics_enabled=False) as page:
        gr.HTML(f"<h1>Try {escape(entrants.title)}</h1>", elem_id="title", padding=False)
        state = gr.State(Shown())
        names = [each.name for each in entrants.all]
        chosen = gr.Dropdown(names, value=list(entrants.first), multiselect=True, label="Models")
        about = "two answers in random order; vote, then see whose they are"
        blind = gr.Checkbox(label="Without names", info=about)
        gr.HTML("", elem_id="refused", padding=False)  # the script says here that there is no microphone or camera
        given, asked = _input(visit.part)
        answers = gr.HTML(elem_id="answers", padding=False)
        with gr.Row(visible=False) as ballot:
            buttons = [
                (each, gr.Button(each.capitalize(), elem_id=f"vote-{each}")) for each in ("left", "same", "right")
            ]
        verdict = gr.HTML(elem_id="verdict", padding=False)
        with gr.Accordion("Keep it as data", open=True), gr.Row():
            if medium.right == "label":
                right: Any = gr.Dropdown(
                    list(entrants.labels), value=None, allow_custom_value=True, label="Right label", scale=3
                )
            else:
                right = gr.Textbox(label=medium.right.capitalize(), lines=2, scale=3, max_length=medium.largest_bytes)
            keep = gr.Button("Keep", scale=1, elem_id="keep")
        kept = gr.HTML(elem_id="kept", padding=False)

        def shown_as(found: Shown | str) -> tuple[Any, ...]:
            shown = Shown() if isinstance(found, str) else found
            return visit.html(found), shown, gr.update(visible=shown.can_vote), "", ""

        def ask(given: str | None, chosen: list[str], blind: bool) -> Iterator[tuple[Any, ...]]:
            yield from map(shown_as, visit.ask(given, chosen, blind))

        def ask_at_once(given: str | None, chosen: list[str], blind: bool) -> tuple[Any, ...]:
            return shown_as(list(visit.ask(given, chosen, blind))[-1])

        outputs = [answers, state, ballot, verdict, kept]
        gr.on(
            [*asked, chosen.change, blind.change],
            ask if medium.writes else ask_at_once,
            [given, chosen, blind],
            outputs,
            queue=medium.writes,  # without a queue an answer comes with the request that asks for it
            show_progress="minimal",
            concurrency_limit=4,
            trigger_mode="always_last",
        )
        voted = [verdict, state, answers, ballot]
        for each, button in buttons:
            button.click(lambda shown, vote=each: _voted(visit, shown, vote), state, voted, queue=False)
        keep.click(lambda shown, text: _line(visit.keep(shown, text)), [state, right], kept, queue=False)
    return page  # type: ignore[no-any-return]


def _input(part: Part) -> tuple[Any, list[Any]]:
    """The component that takes the input, and the events that ask for an answer."""
    medium = part.MEDIUM
    if medium.component == "photo":
        taken: Any = photo()
        return taken, [taken.change]
    if medium.component == "recording":
        taken = recording()
        return taken, [taken.change]
    text = gr.Textbox(
        label=medium.noun.capitalize(),
        placeholder=medium.placeholder,
        lines=3,
        max_length=medium.largest_bytes,
        elem_id="given",
    )
    button = gr.Button("Ask", variant="primary", elem_id="ask")
    return text, [button.click, text.submit]


def _voted(visit: Visit, shown: Shown, vote: Any) -> tuple[Any, ...]:
    said, shown = visit.vote(shown, vote)
    return _line(said), shown, visit.html(shown), gr.update(visible=False)


def _line(text: str) -> str:
    return problem(text, "summary")


def theme() -> Any:
    """System fonts, and Gradio's plainest colours, light and dark."""
    return gr.themes.Base(font=FONT, font_mono=MONO)


def head() -> str:
    """The script that says where a microphone or a camera is not allowed."""
    return f"<script>{(HERE / 'refused.js').read_text(encoding='utf-8')}</script>"
