"""Words or characters with logistic regression as an ONNX graph with a tokenizer, like any other text classifier.

    x = TF(ids) * IDF,    logits = W x / |x| + b        TF: counts of the n-grams that are in the pool

A token that no n-gram has is [UNK], and no n-gram has [PAD], so that padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import MissingExtra
from ...runtimes.text.encoding import IDS, INPUTS, MAX_LENGTH, PAD

NGram = tuple[str, ...]
Vectors = NDArray[np.float32]

SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2}  # no text has them: its letters are lower case
LONGEST = {"word": 4096, "char": 16_384}  # tokens of a text that are read
OPSET, IR = 17, 8
SMALLEST = 1e-12  # a text without a known n-gram has the length 0


@dataclass(frozen=True)
class LinearModel:
    """Logistic regression on n-grams. idf: (n-grams,), weights: (n-grams, outputs), bias: (outputs,).

    outputs: the classes, or of two classes one: the logit of the second.
    """

    ngrams: Sequence[NGram]
    idf: Vectors
    weights: Vectors
    bias: Vectors


def reading(unit: str) -> dict[str, Any]:
    """How such a model reads texts, for its record."""
    return {MAX_LENGTH: LONGEST[unit], INPUTS: [IDS], PAD: SPECIAL["[PAD]"]}


def make_tokenizer(unit: str, tokens: Sequence[str] = ()) -> Any:
    """A `tokenizers.Tokenizer`: in lower case, words and runs of punctuation, or single characters.

    tokens: those that it knows. Raises MissingExtra.
    """
    try:
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    except ImportError as error:
        raise MissingExtra("tfidf needs tokenizers: pip install 'microbudget[text]'") from error
    vocabulary = {**SPECIAL, **{token: len(SPECIAL) + place for place, token in enumerate(tokens)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaces])
    made.pre_tokenizer = pre_tokenizers.Whitespace() if unit == "word" else pre_tokenizers.Split(Regex("."), "isolated")
    separator = ("[SEP]", SPECIAL["[SEP]"])
    made.post_processor = processors.TemplateProcessing(single="$A", pair="$A [SEP] $B:1", special_tokens=[separator])
    return made


def tokens_of(tokenizer: Any, text: str) -> list[str]:
    """The words or characters of a text, also those that the tokenizer does not know."""
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
    return [piece for piece, _ in pieces]


def ngrams_of(tokens: Sequence[str], shortest: int, longest: int) -> list[NGram]:
    """All runs of `shortest` to `longest` tokens."""
    return [
        tuple(tokens[start : start + length])
        for length in range(shortest, longest + 1)
        for start in range(len(tokens) - length + 1)
    ]


def vocabulary_of(ngrams: Sequence[NGram]) -> list[str]:
    """The tokens of n-grams, sorted."""
    return sorted({token for ngram in ngrams for token in ngram})


def graph_of(model: LinearModel) -> Any:
    """The ModelProto: input_ids (batch, tokens) int64 -> logits (batch, classes)."""
    order = sorted(range(len(model.ngrams)), key=lambda place: len(model.ngrams[place]))  # stable
    ngrams = [model.ngrams[place] for place in order]
    ids = {token: len(SPECIAL) + place for place, token in enumerate(vocabulary_of(ngrams))}
    single = model.weights.shape[1] == 1
    classes = 2 if single else model.weights.shape[1]
    nodes = [
        _counts(ngrams, ids),
        helper.make_node("Mul", ["counts", "idf"], ["weighted"]),
        helper.make_node("ReduceL2", ["weighted"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "smallest"], ["above_zero"]),
        helper.make_node("MatMul", ["weighted", "weight"], ["product"]),
        helper.make_node("Div", ["product", "above_zero"], ["normalized"]),
        helper.make_node("Add", ["normalized", "bias"], ["logit" if single else "logits"]),
    ]
    stored = {
        "idf": model.idf[order],
        "smallest": np.array([SMALLEST], np.float32),
        "weight": model.weights[order],
        "bias": model.bias,
    }
    if single:
        nodes.append(helper.make_node("Mul", ["logit", "halves"], ["logits"]))
        stored["halves"] = np.array([[-0.5, 0.5]], np.float32)
    graph = helper.make_graph(
        nodes,
        "tfidf",
        [helper.make_tensor_value_info(IDS, TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name) for name, array in stored.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="microbudget"
    )


def _counts(ngrams: Sequence[NGram], ids: dict[str, int]) -> Any:
    """The node that counts n-grams, which are sorted by their length: input_ids -> counts (batch, n-grams)."""
    lengths = [len(ngram) for ngram in ngrams]
    numbers = [[ids[token] for token in ngram] for ngram in ngrams]
    sizes = [length * lengths.count(length) for length in range(1, lengths[-1] + 1)]
    return helper.make_node(
        "TfIdfVectorizer",
        [IDS],
        ["counts"],
        mode="TF",
        min_gram_length=lengths[0],
        max_gram_length=lengths[-1],
        max_skip_count=0,
        ngram_counts=[sum(sizes[:place]) for place in range(len(sizes))],  # where the pool of each length begins
        ngram_indexes=list(range(len(ngrams))),
        pool_int64s=[number for ngram in numbers for number in ngram],
    )
