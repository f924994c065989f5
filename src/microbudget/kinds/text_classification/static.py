"""Static embeddings: one vector for each token, taken from an encoder and then trained with a linear layer.

    logits = W mean(v[ids]) + b        the mean over the tokens that are not special

The vectors are the encoder's features of each token alone, by principal components, weighted by rank. So begins
model2vec (Tulkens and van Dongen 2024, github.com/MinishLab/model2vec); trained on they gain five points on SST-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from ...methods import Context
from ...methods.distill import Distill, Learning
from ...methods.quantize.tables import round_tables
from ...model import Model
from ...runtimes.onnx.session import OnnxSession
from ...runtimes.text.encoding import IDS, INPUTS, TextEncoder, Tokens
from ...training import objectives
from ...training.deadline import Clock
from ...training.objective import Batch, Objective, Scores, Trained
from ...training.order import Rows
from ...training.settings import Settings
from ...training.train import train
from .backbone import Backbone
from .teacher import TEACHER, taught_loss
from .teaching import reading

Vectors = NDArray[np.float32]  # (tokens, width)
Bags = list[NDArray[np.int64]]  # of each text its tokens that are not special

DROPPED = 0.2  # of a text's tokens in each epoch: without it the vectors overfit after two
TOKENS, STARTS = "tokens", "starts"  # in a batch
AT_ONCE = 256  # tokens of the vocabulary in a call
OPSET, IR = 17, 8


@dataclass(frozen=True)
class Data:
    """What is learnt: texts as bags of tokens, their labels (-1: none), the teacher's logits; and what decides."""

    bags: Bags
    labels: NDArray[np.intp]
    teacher: NDArray[np.float32] | None  # (texts, classes); NaN where it was not asked
    held_out: Bags


def bags_of(encoder: TextEncoder, texts: Sequence[Sequence[str]]) -> Bags:
    """The tokens of texts without the special ones."""
    special = np.array(sorted(encoder.special), np.int64)
    ids = (np.array(encoder.tokens(text).ids, np.int64) for text in texts)
    return [each[~np.isin(each, special)] for each in ids]


def vectors_of(model: Model, width: int, context: Context) -> Vectors:
    """A vector for each id of the tokenizer, (ids, width): centred, of mean square 1. width: at most the encoder's.

    Raises OutOfTime.
    """
    encoder = TextEncoder.of(model)
    session = OnnxSession(Backbone.of(model).graph, context.threads)
    before, after = encoder.around
    clock = Clock(context.deadline, "a pass over the vocabulary")
    found = []
    for start in context.progress.track(range(0, encoder.ids, AT_ONCE), "distill, tokens"):
        alone = [(*before, token, *after) for token in range(start, min(start + AT_ONCE, encoder.ids))]
        batch = encoder.batch(Tokens(ids, (0,) * len(ids)) for ids in alone)
        found.append(session.answer(batch).reshape(len(alone), -1))
        clock.tick(math.ceil((encoder.ids - start) / AT_ONCE) - 1)
    session.close()
    return weighted(components(np.concatenate(found), width))


def components(features: Vectors, width: int) -> NDArray[np.float64]:
    """Coordinates (tokens, width) along the axes of largest variance (Pearson 1901). features: (tokens, wide)."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    return np.asarray(centred @ axes[:, ::-1][:, :width])


def weighted(vectors: NDArray[np.float64]) -> Vectors:
    """By log(1 + rank), then scaled to mean square 1. A vocabulary is ordered by frequency, so an id is a rank.

    By Zipf's law this is as good as the frequency itself: frequent words say least.
    """
    rank = np.arange(1, len(vectors) + 1)
    scaled = vectors * np.log1p(rank)[:, None]
    size = np.sqrt(np.mean(np.square(scaled)))
    return np.asarray(scaled / max(float(size), 1e-12), np.float32)


class BagClassifier(torch.nn.Module):
    """The mean of a text's vectors, and a linear layer that begins at zero."""

    def __init__(self, vectors: Vectors, classes: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.from_numpy(vectors.copy()))
        self.head = torch.nn.Linear(vectors.shape[1], classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, tokens: torch.Tensor, starts: torch.Tensor) -> Any:
        """tokens: (all of the batch,), starts: (batch,), where each text begins -> logits (batch, classes)."""
        mean = functional.embedding_bag(tokens, self.table, starts, mode="mean")
        return SimpleNamespace(logits=self.head(mean))


def fit(
    step: Distill, vectors: Vectors, data: Data, context: Context, name: str = "distill"
) -> tuple[BagClassifier, Vectors, Trained]:
    """The trained classifier, and all vectors with those of its tokens replaced.

    It holds the tokens of the data alone: the others have no gradient, and stay as the encoder gave them. name: of the
    training's checkpoint.
    """
    known = np.unique(np.concatenate([*data.bags, *data.held_out, np.zeros(1, np.int64)]))
    network = BagClassifier(vectors[known], len(context.task.labels))
    places = Data(
        [np.searchsorted(known, bag) for bag in data.bags],
        data.labels,
        data.teacher,
        [np.searchsorted(known, bag) for bag in data.held_out],
    )
    learning = step.learning()
    settings = Settings(
        learning.epochs,
        learning.learning_rate,
        step.batch_size,
        weight_decay=0.0,
        patience=learning.patience,
        clip=0.0,
    )
    trained = train(network, objective(learning, places, context), settings, context.execution(name))
    table = vectors.copy()
    table[known] = network.table.detach().numpy()
    return network, table, trained


def objective(learning: Learning, data: Data, context: Context) -> Objective:
    """The teacher's answers where there is one, else the labels; each epoch leaves out other tokens."""
    labels = torch.from_numpy(data.labels.astype(np.int64))
    teacher = None if data.teacher is None else torch.from_numpy(data.teacher)
    examples = context.task.examples("validation")
    held_out = _tensors(data.held_out)

    def batch(rows: Rows, epoch: int) -> Batch:
        random = np.random.default_rng([context.seed, epoch, int(rows[0])])
        shown = [_thinned(data.bags[row], random) for row in rows]
        tensors = {**_tensors(shown), objectives.LABEL: labels[rows]}
        return tensors if teacher is None else {**tensors, TEACHER: teacher[rows]}

    def loss(network: Any, batch: Batch) -> torch.Tensor:
        return taught_loss(learning, network(batch[TOKENS], batch[STARTS]).logits, batch)

    def validate(network: Any) -> Scores:
        device = next(network.parameters()).device
        logits = network(*(held_out[name].to(device) for name in (TOKENS, STARTS))).logits.float().cpu().numpy()
        return {
            "loss": float(context.task.loss(logits, examples).mean()),
            objectives.CALIBRATED: objectives.calibrated_loss(context.task, logits, examples),
            "accuracy": context.task.score(logits, examples).value,
        }

    return Objective(len(data.bags), batch, loss, validate, decides=objectives.CALIBRATED)


def _thinned(bag: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    kept = bag[random.random(len(bag)) >= DROPPED]
    return kept if len(kept) else bag


def _tensors(bags: Bags) -> dict[str, torch.Tensor]:
    starts = np.cumsum([0, *map(len, bags)])[:-1]
    tokens = np.concatenate([*bags, np.zeros(0, np.int64)])
    return {TOKENS: torch.from_numpy(tokens.astype(np.int64)), STARTS: torch.from_numpy(starts.astype(np.int64))}


def reading_of(model: Model) -> dict[str, Any]:
    """How the static student reads texts: as the model, but by the ids alone."""
    return {**reading(model), INPUTS: [IDS]}


def graph_of(table: Vectors, head: torch.nn.Linear, special: frozenset[int]) -> Any:
    """The ModelProto: input_ids (batch, tokens) int64 -> logits (batch, classes); the table in 8 bits, row by row.

    special: ids that count for nothing, with the one that fills up.
    """
    counted = np.ones(len(table), np.int8)
    counted[[each for each in special if each < len(table)]] = 0
    stored = {
        "table": table,
        "counted": counted,
        "last": np.array([-1], np.int64),
        "tokens": np.array([1], np.int64),
        "one": np.array([1], np.float32),
        "weight": head.weight.detach().numpy().copy(),
        "bias": head.bias.detach().numpy().copy(),
    }
    nodes = [
        helper.make_node("Gather", ["table", IDS], ["vectors"], "vectors", axis=0),
        helper.make_node("Gather", ["counted", IDS], ["counts"], axis=0),
        helper.make_node("Cast", ["counts"], ["shares"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["shares", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["shares", "tokens"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["at_least_one"]),
        helper.make_node("Div", ["sum", "at_least_one"], ["mean"]),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "static",
        [helper.make_tensor_value_info(IDS, TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", head.out_features])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="microbudget"
    )
    round_tables(proto)
    return proto
