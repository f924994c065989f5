"""prompt of text classification: a language model's files, and in their record the prompt that it reads."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...errors import BadData, InvalidOption
from ...machine.files import whole_folder
from ...methods import Context
from ...methods import prompt as method
from ...model import GGUF_NAME, Model, Record
from ...runtimes import open_session
from ...runtimes.loading import load
from ...runtimes.text.encoding import MAX_LENGTH, PROMPT
from ...runtimes.text.prompt import Prompt
from ...runtimes.text.prompted import PromptedSession
from ...task import SPLITS, DataOptions, Example, Task
from .data import open_task
from .network import KIND
from .teaching import texts_of

SHOWN = 600  # characters of an example in a prompt
FORMATS = ("hf", "gguf")


def apply(step: method.Prompt, model: Model, context: Context, out: Path) -> Record:
    """Copy the language model's files; of the given model nothing is used."""
    found = with_prompt(step, context)
    report = _report(found, context)
    for file in found.files:
        target = out / (GGUF_NAME if found.format == "gguf" else found.name_of(file))
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    prior = ", ".join(f"{word} {share:.0%}" for word, share in list(report["prior"].items())[:4])
    context.progress.detail(
        f"prompt    {report['tokens']} tokens with {report['shots']} examples"
        + (f"; without a text the model answers {prior}, which is taken out" if prior else "")
    )
    return found.record.with_report("prompt", report)


def with_prompt(step: method.Prompt, context: Context) -> Model:
    """The language model where it lies, as a text classifier: its record has the prompt. Raises InvalidOption, BadData.

    Whether the prompt fits into its context is known when it is opened.
    """
    given, task = load(step.named()), context.task
    if given.task == KIND or given.format not in FORMATS:
        raise InvalidOption(f"prompt: {step.model} is no language model but one for {given.task}")
    shown = _shown(step.shots, task, context.seed)
    words = words_of(step.words, task.labels)
    if not step.words and all(label.strip().lstrip("+-").isdigit() for label in task.labels):
        first = ", ".join(f"{label}=..." for label in task.labels[:2])
        context.progress.warn(f"the labels are numbers, which say nothing to a language model: words='{first}'")
    parts = len(texts_of(task, _some(task)[:1], step.length)[0])
    texts = [tuple(part[:SHOWN] for part in texts) for texts in texts_of(task, shown, step.length)]
    labelled = [(text, int(example.label or 0)) for text, example in zip(texts, shown, strict=True)]
    prompt = Prompt.of(step.text, words, labelled, calibrated=step.calibrate, parts=parts)
    record = Record(
        task.kind,
        task.labels,
        {MAX_LENGTH: step.length, PROMPT: prompt.as_dict()},
        source=given.record.source or str(given.path),
        state=given.record.state,
    )
    seen = {*given.record.seen, *(example.key for example in shown)}
    return replace(given, record=record.with_seen(seen).with_report("prompt", {"shots": len(shown)}))


def words_of(given: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """What stands for each label: as given, "0=negative, 1=positive", else the label, with spaces for underscores.

    Raises InvalidOption for a label that is not among the data's, and for two labels with the same word.
    """
    named: dict[str, str] = {}
    for part in filter(None, map(str.strip, given.split(","))):
        label, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals or not word:
            raise InvalidOption(f"prompt: words={given!r}: write label=word, with commas between, not {part!r}")
        if label not in labels:
            known = ", ".join(map(repr, labels[:10]))
            raise InvalidOption(f"prompt: words={given!r}: {label!r} is no label of the data, which are {known}")
        named[label] = word
    words = tuple(named.get(label, label.replace("_", " ").strip()) for label in labels)
    doubled = next((word for word in words if words.count(word) > 1), None)
    if doubled is not None:
        raise InvalidOption(f"prompt: the word {doubled!r} stands for two labels: give each a word of its own")
    return words


def _some(task: Task) -> tuple[Example, ...]:
    """Examples of the task, whatever their split. Raises BadData where there are none."""
    found = next((tuple(part) for split in SPLITS if (part := task.examples(split))), ())
    if not found:
        raise BadData("there is no text to make a prompt for")
    return found


def _shown(shots: int, task: Task, seed: int) -> list[Example]:
    """So many labelled examples of the train split, of all classes equally many, in random order. Raises BadData."""
    by_label: dict[int, list[Example]] = defaultdict(list)
    for example in task.examples("train") if shots else ():
        if example.label is not None:
            by_label[example.label].append(example)
    available = sum(map(len, by_label.values()))
    if shots > available:
        raise BadData(f"prompt: shots={shots}, and the train split has {available} labelled texts: take fewer")
    order = random.Random(seed)
    labels = sorted(by_label)
    order.shuffle(labels)  # of fewer examples than classes no class is always left out
    for examples in by_label.values():
        order.shuffle(examples)
    turns = max(map(len, by_label.values()), default=0)
    dealt = [by_label[label][turn] for turn in range(turns) for label in labels if turn < len(by_label[label])]
    chosen = dealt[:shots]
    order.shuffle(chosen)
    return chosen


def _report(model: Model, context: Context) -> dict[str, Any]:
    """What the prompt costs and what the model answers without a text.

    Raises UnsupportedModel where the prompt does not fit into the model's context.
    """
    prompt = Prompt.read((model.record.preprocessing or {})[PROMPT])
    session = open_session(model, threads=context.threads)
    assert isinstance(session, PromptedSession)
    try:
        prior, tokens = np.exp(session.prior), session.tokens
    finally:
        session.close()
    return {
        **model.record.history["prompt"],
        "model": model.record.source,
        "template": prompt.template,
        "words": list(prompt.words),
        "tokens": tokens,
        "prior": dict(zip(prompt.words, map(float, prior), strict=True)) if prompt.calibrated else {},
    }


def write_classifier(step: method.Prompt, data: str | Path, how: DataOptions, out: Path) -> Record:
    """Write the language model with its prompt into the folder `out`; its record.

    Raises InvalidOption for a folder that holds something else, and what the data, the model and the prompt raise.
    """
    before = Record.read(out) if out.is_dir() else None
    if out.exists() and (before is None or "prompt" not in before.history):
        raise InvalidOption(f"--out {out} exists and holds something else: name a new folder")
    task, given = open_task(data, how), load(step.named())
    with TemporaryDirectory() as cache, whole_folder(out) as folder:
        record = apply(step, given, Context(task, Path(cache), how.seed, how.threads, progress=how.progress), folder)
        record.save(folder)
    return record
