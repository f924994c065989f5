"""distill of text classification: one vector for each token, taken from the encoder, that learns from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ...errors import InvalidOption, LabelsDisagree
from ...methods import Context
from ...methods.distill import STATIC, Distill
from ...model import ONNX_NAME, Model, Record
from ...runtimes import open_session
from ...runtimes.labels import for_labels, match_labels
from ...runtimes.loading import load
from ...runtimes.onnx.session import write_metadata
from ...runtimes.text.encoding import MAX_LENGTH, TextEncoder
from ...task import Example
from ...training.head_data import check_classes, check_validation
from . import static
from .network import has_head
from .teaching import answers_of, copy_tokenizer, reading, texts_of, validation_report

OPTIONS = (
    "student", "teacher", "temperature", "hard", "epochs", "patience", "learning_rate", "batch_size", "dimensions",
)  # fmt: skip
ASKED = 20_000  # texts that the teacher answers: some minutes. The vectors learn the others' labels
ADVICE = "a text classifier is distilled into one vector for each token, student='static'"


def extra_inputs(step: Distill, context: Context) -> dict[str, str]:
    """What decides the result in addition to the given model: the teacher."""
    teacher = _teacher(step, context)
    return {} if teacher is None else {"teacher": teacher.fingerprint}


def apply(step: Distill, model: Model, context: Context, out: Path) -> Record:
    """Train the vectors and a linear layer, and write them as a graph with the encoder's tokenizer."""
    if step.student != STATIC:
        raise InvalidOption(f"distill: a student of texts is student='static', not {step.student!r}")
    task = context.task
    check_classes(task)
    check_validation(task)
    train, unlabelled, validation = (task.examples(split) for split in ("train", "unlabelled", "validation"))
    teacher = _teacher(step, context) or (model if has_head(model) else None)
    learnt = (*train, *unlabelled) if teacher else tuple(train)
    answers = None if teacher is None else _answers(teacher, learnt, len(train), context)
    data = _data(model, learnt, context, answers)
    vectors = static.vectors_of(model, step.dimensions, context)
    network, table, trained = static.fit(step, vectors, data, context)
    proto = static.graph_of(table, network.head, TextEncoder.of(model).special)
    write_metadata(proto, task.labels, static.reading_of(model))
    onnx.save(proto, str(out / ONNX_NAME))
    copy_tokenizer(model, out)
    report = validation_report(out, static.reading_of(model), context)
    context.progress.say(
        f"distill   {table.shape[0]:,} tokens x {table.shape[1]} numbers, epoch {trained.kept} kept:"
        f" validation accuracy {report['accuracy']:.3f}"
    )
    history = {
        "teacher": None if teacher is None else teacher.record.recipe or teacher.record.source or str(teacher.path),
        "texts": len(learnt),
        "teacher_answers": 0 if answers is None else int(np.isfinite(answers).all(axis=1).sum()),
        "unlabelled": len(learnt) - len(train),
        "tokens": table.shape[0],
        "dimensions": table.shape[1],
        **trained.as_dict(),
        "validation": report,
    }
    seen = {example.key for example in (*learnt, *validation)} | set(teacher.record.seen if teacher else ())
    record = model.record.with_seen(seen).with_report("distill", history)
    return Record(
        task=task.kind,
        labels=task.labels,
        preprocessing=static.reading_of(model),
        source=record.source,
        seen=record.seen,
        history=record.history,
    )


def _teacher(step: Distill, context: Context) -> Model | None:
    """The named one, else the run's reference; None: the model that the step is given, where it has a head."""
    return for_labels(load(step.teacher), context.task.labels) if step.teacher else context.reference


def _data(
    model: Model, learnt: Sequence[Example], context: Context, teacher: NDArray[np.float32] | None
) -> static.Data:
    encoder, length = TextEncoder.of(model), int(reading(model)[MAX_LENGTH])
    labels = [static.UNLABELLED if example.label is None else example.label for example in learnt]
    bags, held_out = (
        static.bags_of(encoder, texts_of(context.task, examples, length))
        for examples in (learnt, context.task.examples("validation"))
    )
    return static.Data(bags, np.array(labels, np.intp), teacher, held_out)


def _answers(teacher: Model, examples: Sequence[Example], labelled: int, context: Context) -> NDArray[np.float32]:
    """The teacher's logits (examples, labels), in the order of the data's labels; NaN for what it was not asked.

    labelled: how many have labels and come first; the others are asked first. Raises LabelsDisagree.
    """
    try:
        columns = list(match_labels(teacher, context.task.labels))
    except LabelsDisagree as error:
        raise LabelsDisagree(f"the teacher cannot teach these classes: {error}") from error
    session = open_session(teacher, threads=context.threads)
    places = [*range(labelled, len(examples)), *range(labelled)][:ASKED]
    asked = [examples[place] for place in places]
    answers = answers_of(session, texts_of(context.task, asked, int(reading(teacher)[MAX_LENGTH])), context)
    session.close()
    found = np.full((len(examples), len(columns)), np.nan, np.float32)
    found[places] = answers[:, columns]
    return found
