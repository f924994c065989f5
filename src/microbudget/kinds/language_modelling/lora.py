"""lora of a language model: next tokens of texts, or the assistant's part of conversations."""

from __future__ import annotations

from pathlib import Path

from torch.nn import Module

from ...methods import Context
from ...methods.lora import Lora
from ...methods.lora.training import Learner, adapted_record, has_validation, train_adapters
from ...model import Model, Record
from ...runtimes.hf.causal import load_network, load_tokenizer
from ...training.next_tokens import next_tokens
from .token_rows import token_rows

RATE = 2e-3


def apply(step: Lora, model: Model, context: Context, out: Path) -> Record:
    """Train the adapters on rows of `length` tokens."""
    network, tokenizer = load_network(model.path), load_tokenizer(model.path)
    longest = getattr(network.config, "max_position_embeddings", None) or step.length
    length = min(step.length, int(longest))
    rows = token_rows(context.task, "train", tokenizer, length)
    held_out = token_rows(context.task, "validation", tokenizer, length) if has_validation(context) else None
    learner = Learner(network, head=None, head_factor=1.0, alpha=2.0 * step.rank, rate=RATE, mode=Module.train)
    if rows.cut:
        context.progress.warn(
            f"lora: {rows.cut:.0%} of the assistant's answers lie after token {length} of their conversation and are"
            " not learnt: a larger length includes them"
        )
    report = train_adapters(step, learner, next_tokens(rows, held_out), model, context, out)
    return adapted_record(model, context, {**report, "rows": len(rows), "length": length, "cut": rows.cut})
