"""The page of language models: plots of the levels, predictions next to measurements, answers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...judge.secondary import SECONDARY
from ...report import phrases
from ...report.outcome import Outcome
from ...report.part import ONNX_LINES, Column, Part, Section, Usage, Words, words_of
from ...units import format_change
from .level_plots import level_plots
from .levels import predicted
from .questions.flipped import flipped
from .questions.task import METRIC
from .replies import exchanges

WORDS = Words(
    example="passage",
    examples="passages",
    timed="a token",
    timing="one token, generated after 128 others",
    interval="a bootstrap 95 % interval over passages",
)
WORDS_BY_METRIC = {
    METRIC: replace(WORDS, example="question", examples="questions", interval="Wilson's 95 % interval"),
}
GGUF_LINES = """\
from microbudget import load
from microbudget.runtimes import open_session
session = open_session(load("."))
print(session.generate("Once upon a time", tokens=64, temperature=0.7).text)"""
HF_LINES = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
tokens = model.generate(**tokenizer("Once upon a time", return_tensors="pt"), max_new_tokens=64)
print(tokenizer.decode(tokens[0]))"""


def usage(_folder: Path, model_format: str) -> Usage:
    """By Ollama or llama.cpp for a GGUF file."""
    if model_format == "gguf":
        shell = "ollama create NAME -f Modelfile && ollama run NAME"
        return Usage(shell, "or open model.gguf in anything built on llama.cpp", GGUF_LINES)
    return Usage(lines={"onnx": ONNX_LINES, "hf": HF_LINES}.get(model_format, ""))


def part(outcome: Outcome) -> Part:
    """Plots of the levels in place of the usual ones, predictions and answers where there are any."""
    rows, answers, asked = tuple(predicted(outcome)), exchanges(outcome), flipped(outcome)
    sections = (
        Section("predicted", "Predictions", "Predicted and measured", rows),
        Section("answers", "Answers", "Answers side by side", answers),
        Section("flipped", "Questions", "Questions whose answer changed", asked),
    )
    return Part(
        sections=tuple(section for section in sections if section.content),
        plots=level_plots(outcome),
        columns=(Column("KL", _divergences(outcome)), *_secondary(outcome)),
        sentences=(*_about_secondary(outcome), *_chance(outcome)),
    )


def _secondary(outcome: Outcome) -> Iterator[Column]:
    """The other metric where a text comes with questions: its value and paired change."""
    found = {
        row.fingerprint: row.measurement.extra.get(SECONDARY) for row in outcome.rows if row.measurement is not None
    }
    known = {fingerprint: secondary for fingerprint, secondary in found.items() if secondary}
    if not known:
        return
    metric = next(iter(known.values()))["metric"]
    yield Column(metric.capitalize(), {each: phrases.secondary(secondary) for each, secondary in known.items()})
    changes = {each: _change(secondary) for each, secondary in known.items() if "change" in secondary}
    yield Column(f"Change of {metric}", changes)


def _change(secondary: dict[str, Any]) -> str:
    change, low, high = (format_change(secondary[f"change{end}"], secondary["metric"]) for end in ("", "_low", "_high"))
    return f"{change} ({low} to {high}), {secondary['verdict']}"


def _chance(outcome: Outcome) -> Iterator[str]:
    """What guessing would have right, where questions are asked."""
    measured = outcome.reference.measurement
    extra = {} if measured is None else measured.extra
    chance = extra.get("chance", (extra.get(SECONDARY) or {}).get("chance"))
    if chance is not None:
        yield f"Guessing has {100 * chance:.0f} % of the questions right."


def _about_secondary(outcome: Outcome) -> tuple[str, ...]:
    """What ships, on the other data."""
    measured = None if outcome.smaller is None else outcome.smaller.measurement
    found = {} if measured is None else measured.extra.get(SECONDARY) or {}
    if measured is None or "change" not in found:
        return ()
    called = words_of(measured.task, found["metric"]).examples
    return (f"On {found['examples']} validation {called}, {phrases.secondary_change(found)}.",)


def _divergences(outcome: Outcome) -> dict[str, str]:
    """Nats a token from the reference, by fingerprint."""
    measured = {row.fingerprint: row.measurement for row in outcome.rows}
    return {
        fingerprint: f"{measurement.extra['kl']:.2g}"
        for fingerprint, measurement in measured.items()
        if measurement is not None and "kl" in measurement.extra
    }
