"""What the methods that teach a Whisper share: on which recordings, and how the network is trained on pseudo-labels."""

from __future__ import annotations

from typing import Any

from ...audio.log_mel import LogMel
from ...errors import BadData
from ...methods import Context
from ...model import Model
from ...task import Example
from ...training.objective import Trained
from ...training.settings import Execution, Settings
from .amount import Amount
from .objective import TrainingData, objective
from .pseudo_labels import PseudoLabels, pseudo_labels
from .transcripts import count

INSTEAD = "a Whisper is made smaller with distill(decoder_layers=…) or distill(encoder_layers=…)"
FROZEN = ("embed_tokens", "embed_positions", "proj_out")  # few recordings would bend what they do not contain


def training_data(teacher: Model, context: Context, *, max_wer: float, longest_s: float) -> TrainingData:
    """The train, unlabelled and validation recordings with the teacher's transcripts, where these can be learnt from.

    Left out: what is longer than `longest_s`, where the teacher's transcript is empty, and, where there is a transcript
    by a person, what differs from that by a word error rate above `max_wer`. Raises BadData when nothing is left,
    OutOfTime.
    """
    task: Any = context.task
    if not (amount := Amount.of(task)).teaches:
        context.progress.warn(amount.lack())
    splits = [
        [*task.examples("train"), *task.examples("unlabelled")],
        [*task.examples("validation")],
    ]
    short = [[example for example in split if task.seconds(example) <= longest_s] for split in splits]
    left_out = {"longer than the window": sum(map(len, splits)) - sum(map(len, short))}
    found = pseudo_labels(teacher, [*short[0], *short[1]], context)
    kept: list[tuple[Example, ...]] = []
    for split in short:
        reasons = {example.key: _reason(example, found, task, max_wer) for example in split}
        kept.append(tuple(example for example in split if reasons[example.key] is None))
        for reason in filter(None, reasons.values()):
            left_out[reason] = left_out.get(reason, 0) + 1
    left_out = {reason: number for reason, number in left_out.items() if number}
    if not kept[0]:
        raise BadData(
            f"there is nothing to learn from: of {sum(map(len, splits))} recordings were left out"
            f" {', '.join(f'{number} ({reason})' for reason, number in left_out.items())}. Is the teacher"
            f" made for this audio? Raise max_wer above {max_wer} if its transcripts are good enough"
        )
    return TrainingData(task, found, kept[0], kept[1], left_out)


def _reason(example: Example, labels: PseudoLabels, task: Any, max_wer: float) -> str | None:
    """Why a recording is not learnt from, or None."""
    transcript, reference = labels.text(example), task.text(example)
    if not transcript.strip():
        return "the teacher wrote nothing"
    if reference is None or not reference.strip():
        return None
    errors = count(task.normalize(reference), task.normalize(transcript))
    return "the teacher differs from the transcript" if errors.word_errors > max_wer * max(errors.words, 1) else None


def teach(
    network: Any, data: TrainingData, settings: Settings, execution: Execution, *, front: LogMel | None
) -> Trained:
    """Train the network in place. front: the student's, where its encoder is trained; else it reads the teacher's.

    Embeddings stay as they are; so does the encoder of a student that reads the teacher's states.
    """
    from ...training.train import train

    for name, parameter in network.named_parameters():
        frozen = any(part in name for part in FROZEN) or (front is None and ".encoder." in name)
        parameter.requires_grad_(not frozen)
    trained = train(network, objective(data, front=front), settings, execution)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return trained
