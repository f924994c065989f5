"""export of a text classifier: a Hugging Face folder to ONNX with any number of tokens, compared on texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ...errors import Failed
from ...methods import Context
from ...methods.export import Export
from ...model import ONNX_NAME, Model, Record
from ...runtimes.hf.text_classifier import load_network, onnx_bytes
from ...runtimes.onnx.session import OnnxSession, write_metadata
from ...runtimes.text.encoding import INPUTS
from .teaching import TokenTask, copy_tokenizer, in_tokens, reading

FORMAT, WHAT = "onnx", "a text classifier"
CHECKED = 16  # texts that both models answer
TOLERANCE = 1e-3  # of the spread of the logits


def apply(step: Export, model: Model, context: Context, out: Path) -> Record:
    """Any batch, any number of tokens; labels and how texts are read inside, the tokenizer beside it."""
    del step
    network = load_network(model.path)
    proto = onnx.load_from_string(onnx_bytes(network, tuple(reading(model)[INPUTS])))
    write_metadata(proto, model.labels, reading(model))
    onnx.save(proto, str(out / ONNX_NAME))
    copy_tokenizer(model, out)
    report = _compare(network, OnnxSession(out / ONNX_NAME, context.threads), in_tokens(model, context))
    context.progress.detail(
        f"export    {report['examples']} texts: same answers {report['same_top1']:.0%},"
        f" logits differ by {report['difference']:.1e} at most"
    )
    return model.record.with_report("export", report)


def _compare(network: Any, session: Any, context: Context) -> dict[str, float]:
    """Answers of both, to texts alone and in a padded batch. Raises Failed when they disagree."""
    examples, task = context.compared[:CHECKED], context.task
    assert isinstance(task, TokenTask)
    batches = [task.collate([example], {}) for example in examples] + [task.collate(examples, {})]
    with torch.inference_mode():
        expected = np.concatenate([_logits(network, batch) for batch in batches])
    answered = np.concatenate([session.answer(batch) for batch in batches])
    difference = float(np.abs(answered - expected).max())
    same = float((answered.argmax(1) == expected.argmax(1)).mean())
    if not difference <= TOLERANCE * max(float(np.abs(expected).max()), 1.0):
        raise Failed(
            f"the exported model answers differently: logits differ by up to {difference:.3g}, the same class for"
            f" {same:.0%} of {len(examples)} texts. The architecture cannot be exported by tracing"
        )
    return {"examples": len(examples), "difference": difference, "same_top1": same}


def _logits(network: Any, batch: dict[str, Any]) -> Any:
    return network(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()
