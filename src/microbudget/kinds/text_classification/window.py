"""window of a text classifier: fewer tokens of each text at most; how many the texts need is measured.

A text is cut by its tokenizer, so that the weights stay as they are: the length is in what is recorded of how the model
reads, and in the tokenizer's own settings, which other libraries follow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import BadData, InvalidOption
from ...methods import Context
from ...methods.window import AUTO, FEWEST_TOKENS, Window
from ...model import ONNX_NAME, Model, Record
from ...runtimes import open_session
from ...runtimes.labels import match_labels
from ...runtimes.onnx.session import write_metadata
from ...runtimes.text.encoding import MAX_LENGTH, TextEncoder, Texts
from ...task import Example
from .network import has_head
from .teaching import answers_of, reading, texts_of

OPTIONS = ("tokens",)
ADVICE = "a text is as long as its tokens say: give tokens=, a number or 'auto'"
TOKENIZER_CONFIG = "tokenizer_config.json"
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)  # that are tried
READ = 2_000  # texts by which the length is chosen, those of validation first
LOSS = 0.002  # of the accuracy at full length, at most
CHANGED = 0.01  # of the answers, at most; where there are no answers, of the texts that are cut


@dataclass(frozen=True)
class Point:
    """What a length does to the texts that were read. accuracy, same_top1: None for a model without a head.

    accuracy: on validation, as the model may have learnt the others.
    """

    tokens: int
    cut_share: float
    accuracy: float | None = None
    same_top1: float | None = None

    def suffices(self, whole: Point) -> bool:
        """Whether it changes as good as nothing, compared with the full length."""
        if self.same_top1 is None:
            return self.cut_share <= CHANGED
        worse = self.accuracy is not None and whole.accuracy is not None and self.accuracy < whole.accuracy - LOSS
        return self.same_top1 >= 1 - CHANGED and not worse


def apply(step: Window, model: Model, context: Context, out: Path) -> Record:
    """Write the model with the shorter length. Raises InvalidOption for a longer one than it has, OutOfTime."""
    if step.tokens is None:
        raise InvalidOption("window: of texts give tokens=, a number or 'auto'")
    before = int(reading(model)[MAX_LENGTH])
    texts, examples = _texts(model, context)
    if step.tokens == AUTO:
        curve = _curve(model, texts, examples, context)
        tokens = next((point.tokens for point in curve if point.suffices(curve[-1])), before)
    else:
        curve, tokens = (), int(step.tokens)
        if tokens > before:
            raise InvalidOption(f"window: tokens={tokens} is longer than the model's {before}; it only makes shorter")
    counts = _counts(model, texts)
    cut = float((counts > tokens).mean()) if len(counts) else 0.0
    context.progress.detail(f"window    {before} tokens to {tokens}; {cut:.1%} of {len(counts):,} texts are longer")
    read = {**reading(model), MAX_LENGTH: tokens}
    _write(model, read, out)
    report: dict[str, Any] = {"before": before, "after": tokens, "texts": len(texts), "cut_share": cut}
    record = model.record
    if curve:
        report["curve"] = [asdict(point) for point in curve]
        record = record.with_seen(example.key for example in examples)
    return replace(record.with_report("window", report), preprocessing=read)


def _texts(model: Model, context: Context) -> tuple[list[Texts], list[Example]]:
    """Those by which a length is judged, with their examples."""
    task = context.task
    examples = [each for split in ("validation", "train") for each in task.examples(split)][:READ]
    return texts_of(task, examples, int(reading(model)[MAX_LENGTH])), examples


def _counts(model: Model, texts: Sequence[Texts]) -> NDArray[np.intp]:
    """Tokens of each text, as many as the model reads at most."""
    encoder = TextEncoder.of(model)
    return np.array([len(encoder.tokens(text)) for text in texts], np.intp)


def _curve(model: Model, texts: list[Texts], examples: list[Example], context: Context) -> tuple[Point, ...]:
    """Each length below the longest text's, and last that. Only texts that a length cuts are answered again."""
    if not texts:
        raise BadData("window(tokens='auto') needs texts: give data, or a number of tokens")
    counts = _counts(model, texts)
    longest = max(int(counts.max()), FEWEST_TOKENS)
    lengths = [*(length for length in LENGTHS if length < longest), longest]
    shares = [float((counts > length).mean()) for length in lengths]
    if not has_head(model):
        return tuple(Point(length, share) for length, share in zip(lengths, shares, strict=True))
    columns = list(match_labels(model, context.task.labels))
    held_out = set(context.task.examples("validation")) or set(examples)
    labels = np.array([-1 if each.label is None or each not in held_out else each.label for each in examples])
    whole = _answers(model, longest, texts, columns, context)
    points = []
    for length, share in zip(lengths, shares, strict=True):
        cut = np.flatnonzero(counts > length)
        found = whole.copy()
        if len(cut):
            found[cut] = _answers(model, length, [texts[place] for place in cut], columns, context)
        known = labels >= 0
        accuracy = float((found == labels)[known].mean()) if known.any() else None
        points.append(Point(length, share, accuracy, float((found == whole).mean())))
        context.progress.detail(
            f"window    {length} tokens: {share:.1%} of the texts are cut, same answers {points[-1].same_top1:.1%}"
            + (f", validation accuracy {accuracy:.3f}" if accuracy is not None else "")
        )
    return tuple(points)


def _answers(
    model: Model, length: int, texts: Sequence[Texts], columns: list[int], context: Context
) -> NDArray[np.intp]:
    """The class of each text, (texts,), cut to a length."""
    shorter = model.with_record(preprocessing={**reading(model), MAX_LENGTH: length})
    session = open_session(shorter, threads=context.threads)
    try:
        found = answers_of(session, texts, context, f"answering with {length} tokens")
    finally:
        session.close()
    return np.asarray(found[:, columns].argmax(1))


def _write(model: Model, read: dict[str, Any], out: Path) -> None:
    """The model's files with the new length in them."""
    if model.format == "onnx":
        proto = onnx.load(str(model.weights))
        write_metadata(proto, model.labels, read)
        onnx.save(proto, str(out / ONNX_NAME))
        model.copy_beside(out)
        return
    for file in model.files:
        target = out / model.name_of(file)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    path = out / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config["model_max_length"] = read[MAX_LENGTH]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
