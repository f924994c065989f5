"""The headline: what ships, in one sentence, whether the budget is met, and how to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..judge.budget import Budget, Measurement
from ..judge.verdict import Verdict
from ..model import LANGUAGE_MODELLING, TRANSCRIPTION
from ..runs.candidates import Candidate
from ..units import format_bytes, format_joules, format_seconds
from . import phrases
from .outcome import Outcome

ONNX_LINES = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
inputs = session.get_inputs()[0]
prepared = np.zeros([side if isinstance(side, int) else 1 for side in inputs.shape], np.float32)
logits = session.run(None, {inputs.name: prepared})[0]"""
PREDICT_LINES = """\
from predict import load, prepare, upright_rgb  # predict.py needs onnxruntime, NumPy and Pillow
session, labels, plan = load("model.onnx")
pixels = prepare(upright_rgb("photo.jpg"), plan)
logits = session.run(None, {session.get_inputs()[0].name: pixels})[0][0]
print(labels[logits.argmax()])"""
GGUF_LINES = """\
# or `ollama create NAME -f Modelfile`, or model.gguf in anything made of llama.cpp
from microbudget import load
from microbudget.runtimes import open_session
session = open_session(load("."))
print(session.generate("Once upon a time", tokens=64, temperature=0.7).text)"""
CT2_LINES = """\
# or from a shell: microbudget transcribe RECORDING --model .
from faster_whisper import WhisperModel  # it wants the full path of a folder
model = WhisperModel("/path/to/best", device="cpu", compute_type="default")
segments, _ = model.transcribe("recording.flac", beam_size=1)
print(" ".join(segment.text for segment in segments))"""
HF_LINES = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
from PIL import Image
model, processor = AutoModelForImageClassification.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
logits = model(**processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")).logits[0]
print(model.config.id2label[int(logits.argmax())])"""


@dataclass(frozen=True)
class Bar:
    """One cost of both models, for a pair of bars; the widths are shares of the larger."""

    name: str
    reference: str
    small: str
    reference_width: float
    small_width: float
    gain: str


@dataclass(frozen=True)
class Headline:
    """The first thing on the page."""

    sentence: str
    loss: str  # the verdict with its reason, "" where nothing is compared
    speed: str  # the speedup's interval, "" likewise
    budget: str
    budget_state: str  # "met", "broken", "none" or "open"
    broken: tuple[str, ...]
    recipe: str
    bars: tuple[Bar, ...]
    lines: str  # of Python
    has_predict: bool


def headline(outcome: Outcome) -> Headline:
    """What ships, from the test split's numbers where they were read, else from validation's."""
    best = outcome.best
    state, budget = _budget(outcome)
    has_predict = (outcome.run.best / "predict.py").is_file()
    return Headline(
        sentence=_sentence(outcome),
        loss="" if outcome.smaller is None else " ".join(filter(None, (_loss(outcome.smaller), _long_form(outcome)))),
        speed="" if outcome.smaller is None else _speed_interval(outcome.smaller),
        budget=budget,
        budget_state=state,
        broken=outcome.unmet,
        recipe="" if best is None else best.recipe,
        bars=_bars(outcome),
        lines="" if best is None or not outcome.run.best.is_dir() else _lines(best, has_predict),
        has_predict=has_predict,
    )


def _lines(best: Candidate, has_predict: bool) -> str:
    if has_predict:
        return PREDICT_LINES
    written_for = "onnx" if best.measurement is None else best.measurement.format
    return {"onnx": ONNX_LINES, "gguf": GGUF_LINES, "ct2": CT2_LINES}.get(written_for, HF_LINES)


def _sentence(outcome: Outcome) -> str:
    best, reference = outcome.best, outcome.reference
    if best is None or best.measurement is None:
        return "Nothing ships: no candidate could be built and measured."
    if outcome.smaller is None or reference.measurement is None:
        return f"{_alone(best, best.measurement)}; no smaller model is better within the limits."
    parts = [
        _size(reference.measurement, best.measurement),
        _speed(reference.measurement, best.measurement, best),
        _quality(reference, best),
    ]
    return ", ".join(part for part in parts if part) + "."


def _alone(best: Candidate, measurement: Measurement) -> str:
    judged = best.test or measurement
    text = f"The reference itself ships: {phrases.size(measurement)}"
    if measurement.latency_s is not None:
        text += f", {phrases.latency(measurement)} {one(measurement.task)}"
    return f"{text}, {judged.metric} {phrases.quality(judged)}"


def one(kind: str) -> str:
    """What the latency is of."""
    return {LANGUAGE_MODELLING: "a token", TRANSCRIPTION: "a recording"}.get(kind, "a photo")


def _size(reference: Measurement, best: Measurement) -> str:
    text = f"{phrases.size(best)} instead of {phrases.size(reference)}"
    if best.size_bytes <= reference.size_bytes:
        return f"{text} ({phrases.ratio(reference.size_bytes, best.size_bytes)} times smaller)"
    return f"{text} ({phrases.ratio(best.size_bytes, reference.size_bytes)} times larger)"


def _speed(reference: Measurement, best: Measurement, candidate: Candidate) -> str:
    speed = candidate.speed
    if not speed.get("speedup") or best.latency_s is None or reference.latency_s is None:
        return ""
    times = f"{phrases.latency(best)} instead of {phrases.latency(reference)}"
    if speed.get("verdict") == "no difference shown":
        return f"no difference in speed shown ({times})"
    return f"{phrases.speedup(speed).removesuffix('×')} times as fast ({times})"


def _quality(reference: Candidate, best: Candidate) -> str:
    ours, theirs = best.test or best.measurement, reference.test or reference.measurement
    if ours is None or theirs is None:
        return ""
    split = f"on {ours.examples} test examples" if best.test else f"on {ours.examples} validation examples"
    return f"{ours.metric} {phrases.quality(ours)} against {phrases.quality(theirs)} {split}"


def _speed_interval(best: Candidate) -> str:
    interval = phrases.speedup_interval(best.speed)
    return (
        f"Timed in turns with the reference, it is {interval.removesuffix('×')} times as fast (95 %)."
        if interval
        else ""
    )


def _loss(best: Candidate) -> str:
    verdict = best.test_verdict or best.verdict
    if verdict is None:
        return ""
    split = "On the test split, read once" if best.test_verdict else "On validation"
    text = f"{split}, quality changes by {phrases.change(verdict)} (95 %: {phrases.change_interval(verdict)})."
    if not verdict.limit:
        return text
    return f"{text} {decision(verdict)}: {verdict.reason}."


def _long_form(outcome: Outcome) -> str:
    """What speech models make of long audio, on test; "" where it was not measured."""
    rows = [None if row is None else row.test for row in (outcome.smaller, outcome.reference)]
    ours, theirs = ({} if test is None else test.extra.get("long_form") or {} for test in rows)
    if not ours:
        return ""
    against = f" against {theirs['wer'] * 100:.1f} % of the reference" if theirs else ""
    what = f"{ours['joined']} utterances joined to" if ours["joined"] else f"{ours['recordings']} recordings of"
    return f"On long audio, {what} {format_seconds(ours['seconds'])}, the wer is {ours['wer'] * 100:.1f} %{against}."


def decision(verdict: Verdict) -> str:
    """The verdict with its limit: "Loss within 1pt"."""
    return {
        "within": f"A loss within {verdict.limit} is shown",
        "exceeds": f"A loss beyond {verdict.limit} is shown",
        "not shown": f"A loss within {verdict.limit} is not shown",
    }[verdict.decision]


def _budget(outcome: Outcome) -> tuple[str, str]:
    """State and sentence."""
    limits = "" if outcome.budget is None else limits_text(outcome.budget)
    if not outcome.ended or outcome.budget is None:
        asked = f" for the budget ({limits})" if limits else ""
        return "open", f"This run has not ended (it is going on, or was killed): this is the best so far{asked}."
    if not limits:
        return "none", "No limits were given."
    if outcome.best is None or outcome.unmet:
        return "broken", f"The budget ({limits}) is not met."
    where = "" if outcome.budget.max_drop is None else ", the loss judged on validation"
    return "met", f"The budget ({limits}) is met{where}."


def limits_text(budget: Budget) -> str:
    """The limits of a budget in words."""
    limits = [
        (budget.max_size_bytes, "size at most", format_bytes),
        (budget.max_latency_s, "latency at most", format_seconds),
        (budget.max_memory_bytes, "memory at most", format_bytes),
        (budget.max_energy_j, "energy at most", format_joules),
    ]
    told = [f"{name} {show(value)}" for value, name, show in limits if value is not None]
    if budget.max_drop is not None:
        told.append(f"{'proven ' if budget.prove else ''}loss at most {budget.max_drop}")
    return ", ".join(told)


def _bars(outcome: Outcome) -> tuple[Bar, ...]:
    if outcome.smaller is None or outcome.smaller.measurement is None or outcome.reference.measurement is None:
        return ()
    ours, theirs, speed = outcome.smaller.measurement, outcome.reference.measurement, outcome.smaller.speed
    bars = [
        _bar("size", theirs.size_bytes, ours.size_bytes, format_bytes),
        _bar("latency", theirs.latency_s, ours.latency_s, format_seconds, speed.get("speedup")),
        _bar("memory", theirs.memory_bytes, ours.memory_bytes, format_bytes),
    ]
    return tuple(bar for bar in bars if bar is not None)


def _bar(
    name: str, before: float | None, after: float | None, show: Callable[[float], str], times: float | None = None
) -> Bar | None:
    """times: how many times less, where it was measured in a better way than as the ratio of the two."""
    if not before or not after:
        return None
    times = times or before / after
    gain = f"÷ {phrases.ratio(times, 1)}" if times >= 1 else f"× {phrases.ratio(1, times)}"
    larger = max(before, after)
    return Bar(name, show(before), show(after), before / larger, after / larger, gain)
