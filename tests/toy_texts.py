"""Tiny random text encoders with tokenizers of their own, and labelled texts that a few words decide."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from microbudget.kinds.text_classification.data import TextTask
from microbudget.methods import Context
from microbudget.model import Model
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GOOD, BAD = ("good", "fine", "lovely", "great"), ("bad", "poor", "dull", "awful")
FILL = ("the", "a", "film", "story", "plot", "it", "was", "is", "and", "very", "so", "actor", "scene", "of", "here")
PIECES = ("##ly", "##s", "##ed", "un", "re", "##ing")
HIDDEN, ROWS = 16, 1100


def write_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer as transformers saves BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = (*SPECIAL, *GOOD, *BAD, *FILL, *PIECES, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghij"))
    rare = (f"seldom{number}" for number in range(ROWS))
    vocabulary = {word: place for place, word in enumerate([*dict.fromkeys((*words, *rare))][:ROWS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"pad_token": "[PAD]", "model_max_length": 32, "tokenizer_class": "BertTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def bert_config(**changes: Any) -> Any:
    """Of a network with two layers; its vocabulary is large enough for `quantize` to round the table."""
    from transformers import BertConfig

    shape: dict[str, Any] = {
        "vocab_size": ROWS, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    return BertConfig(**{**shape, **changes})


def write_encoder(folder: Path, **changes: Any) -> Path:
    """An encoder without a head: a BertModel."""
    import torch
    from transformers import BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(bert_config(**changes)).save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder


def write_classifier(folder: Path, labels: tuple[str, ...] = ("neg", "pos"), **changes: Any) -> Path:
    """A classifier of transformers, its head random."""
    import torch
    from transformers import BertForSequenceClassification

    config = bert_config(
        id2label=dict(enumerate(labels)), label2id={name: at for at, name in enumerate(labels)}, **changes
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(config).save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder


def rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of 3 to 12 words, no two alike, each with one word of its class among them: (text, label)."""
    dice = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label, words = dice.choice([("pos", GOOD), ("neg", BAD)])
        text = [dice.choice(FILL) for _ in range(dice.randint(2, 11))]
        text.insert(dice.randint(0, len(text)), dice.choice(words))
        found[" ".join(text)] = label
    return list(found.items())


def write_table(path: Path, count: int = 120, seed: int = 0) -> Path:
    """A CSV file of such rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["text,label", *(f"{text},{label}" for text, label in rows(count, seed))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def context(table: Path, folder: Path) -> Context:
    """What a method sees of a table, in splits."""
    return Context(TextTask.open(table), folder / "cache", threads=1)


def built(step: Any, model: Model, given: Context, out: Path) -> Model:
    """The model that a step writes into a new folder."""
    out.mkdir()
    step.apply(model, given, out).save(out)
    return load(out)


def answers(model: Model, texts: list[Any]) -> np.ndarray:
    """Logits (texts, labels)."""
    session = open_session(model, threads=1)
    try:
        return session.answer({"text": np.array(texts)})
    finally:
        session.close()
