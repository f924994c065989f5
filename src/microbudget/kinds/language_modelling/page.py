"""The page of language models: plots of the levels, predictions next to measurements, answers side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...report.outcome import Outcome
from ...report.part import ONNX_LINES, Column, Part, Section, Usage, Words
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
        columns=(Column("KL", _divergences(outcome)),),
    )


def _divergences(outcome: Outcome) -> dict[str, str]:
    """Nats a token from the reference, by fingerprint."""
    measured = {row.fingerprint: row.measurement for row in outcome.rows}
    return {
        fingerprint: f"{measurement.extra['kl']:.2g}"
        for fingerprint, measurement in measured.items()
        if measurement is not None and "kl" in measurement.extra
    }
