"""Which networks classify texts, what their files say, and how they are opened."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from ...errors import UnsupportedModel
from ...model import Model, Record, backbone_of, external_data
from ...runtimes.signature import Signature, listed
from ...runtimes.text.encoding import IDS, INPUTS, MASK, MAX_LENGTH, PAD, TOKENIZER, TYPES
from ...runtimes.text.prompt import is_prompted

KIND = "text-classification"
ENCODERS = (
    "Bert", "Roberta", "XLMRoberta", "DistilBert", "Albert", "Deberta", "DebertaV2", "Electra", "MPNet", "ModernBert",
    "Camembert", "NomicBert",
)  # fmt: skip
CLASSIFIER = "ForSequenceClassification"
ARCHITECTURES = (
    f"*{CLASSIFIER}",
    *(f"{name}Model" for name in ENCODERS),
    *(f"{name}ForMaskedLM" for name in ENCODERS),
    "ElectraForPreTraining",
)
MODEL_TYPES = (  # of a config.json that names no architecture, as DeBERTa-v3 is published: encoders and nothing else
    "bert", "roberta", "xlm-roberta", "distilbert", "albert", "deberta", "deberta-v2", "electra", "mpnet", "modernbert",
    "camembert", "nomic_bert",
)  # fmt: skip
FORMATS = ("onnx",)  # a graph with tokens for inputs; of a record that names no kind it is an image classifier's
RUNTIMES = {"onnx": "text.onnx", "openvino": "text.openvino", "torch": "text.torch", "gguf": "text.gguf"}
USUAL_LENGTH = 512
OFFSETS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}  # positions that no token takes
DENSE = "2_Dense"
MADE_UP = "LABEL_{}"  # transformers' name of an output that nobody has named


def hf_record(folder: Path, config: dict[str, Any]) -> Record:
    """Of a Hugging Face or sentence-transformers folder. Raises UnsupportedModel."""
    names = [str(name) for name in config.get("architectures") or ()]
    headed = any(name.endswith(CLASSIFIER) for name in names) or is_our_head(folder, config)
    labels = labels_of(config, folder / "config.json") if headed else None
    return Record(task=KIND, labels=labels, preprocessing=reading_of(folder, config), source=str(folder))


def labels_of(config: dict[str, Any], path: Path) -> tuple[str, ...] | None:
    """The labels of a classifier's config, in the outputs' order; None where transformers made them up.

    Raises UnsupportedModel for a regression or several labels a text, and where an output has no name.
    """
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise UnsupportedModel(f"{path}: problem_type is {config['problem_type']}; one label for a text is supported")
    names = {int(key): str(value) for key, value in (config.get("id2label") or {}).items()}
    if len(names) == 1 or config.get("num_labels") == 1:
        raise UnsupportedModel(f"{path}: the model has one output, a score; a classifier has one for each label")
    if sorted(names) != list(range(len(names))):
        raise UnsupportedModel(f"{path}: id2label does not name each output from 0 to {len(names) - 1}: {names}")
    ordered = tuple(names[place] for place in range(len(names)))
    made_up = all(label == MADE_UP.format(place) for place, label in enumerate(ordered))
    return None if made_up else ordered


def is_our_head(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a sentence-transformers folder ends in a head of classes. Raises UnsupportedModel for another Dense."""
    path = folder / DENSE / "config.json"
    if not path.is_file():
        return False
    try:
        dense = json.loads(path.read_text(encoding="utf-8"))
        outputs, activation = int(dense["out_features"]), str(dense["activation_function"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    if activation.endswith("Identity") and outputs == len(config.get("id2label") or ()):
        return True
    raise UnsupportedModel(
        f"{path}: a layer between the pooling and the head is not supported ({outputs} outputs, {activation})"
    )


def has_head(model: Model) -> bool:
    """Whether a model answers with classes; an encoder answers with features."""
    if model.format != "hf" or is_prompted(model):
        return True
    folder = backbone_of(model.folder) or model.folder
    config = _json(folder / "config.json")
    names = [str(name) for name in config.get("architectures") or ()]
    return any(name.endswith(CLASSIFIER) for name in names) or is_our_head(folder, config)


def reading_of(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """How the model reads texts; None where the folder has no tokenizer.json.

    The length is the smallest of those that the files name.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    stored, tokenizer = _json(folder / TOKENIZER), _json(folder / "tokenizer_config.json")
    model_type = str(config.get("model_type", ""))
    positions = config.get("max_position_embeddings")
    lengths = [
        tokenizer.get("model_max_length"),
        (stored.get("truncation") or {}).get("max_length"),
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        positions - OFFSETS.get(model_type, 0) if isinstance(positions, int) else None,
    ]
    known = [int(length) for length in lengths if isinstance(length, (int, float)) and 1 < length < 1 << 20]
    types = int(config.get("type_vocab_size") or 0) > 1
    return {
        MAX_LENGTH: min(known, default=USUAL_LENGTH),
        INPUTS: [IDS, MASK, *([TYPES] if types else [])],
        PAD: _pad(folder, config, stored, tokenizer),
    }


def _pad(folder: Path, config: dict[str, Any], stored: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    """The id that fills up shorter texts. Raises UnsupportedModel for a decoder that finds its last token by it."""
    if isinstance(config.get("pad_token_id"), int):
        return int(config["pad_token_id"])
    if isinstance(stored.get("padding"), dict):
        return int(stored["padding"]["pad_id"])
    token = tokenizer.get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    for added in stored.get("added_tokens", ()):
        if name is not None and added.get("content") == name:
            return int(added["id"])
    raise UnsupportedModel(
        f"{folder}: the tokenizer has no padding token: name one (tokenizer.pad_token, config.pad_token_id) and save"
        " the model again"
    )


def foreign_record(path: Path, model_format: str) -> Record | None:
    """Of an `.onnx` file that takes token ids; None for one that takes anything else. Raises UnsupportedModel."""
    from ...runtimes.onnx.graph import load_structure
    from ...runtimes.onnx.interface import read_signature
    from ...runtimes.onnx.session import read_metadata

    external_data(path)
    signature = read_signature(path)
    if not takes_tokens(signature):
        return None
    labels, reading = read_metadata(load_structure(path))
    config = _json(path.parent / "config.json")
    reading = reading or reading_of(path.parent, config)
    if reading is None:
        raise UnsupportedModel(
            f"{path} takes tokens ({listed(signature.inputs)}), and there is no {TOKENIZER} beside it: copy it from the"
            " model that it was made from"
        )
    wide = [port for port in signature.outputs if port.shape is not None and len(port.shape) == 3]
    if wide and len(signature.outputs) == len(wide):
        raise UnsupportedModel(
            f"{path} answers with {listed(wide)}, one vector for each token: it is an encoder without a head of"
            " classes. Give the Hugging Face folder that it was made from"
        )
    reading = {**reading, INPUTS: [port.name for port in signature.inputs]}
    fixed = signature.inputs[0].shape
    if fixed is not None and len(fixed) == 2 and fixed[1] is not None:
        raise UnsupportedModel(
            f"{path} takes exactly {fixed[1]} tokens: export it with a free number of tokens (dynamic_axes)"
        )
    labels = labels or (labels_of(config, path.parent / "config.json") if config else None)
    if labels is None:
        warnings.warn(f"{path} names no labels: they are taken in the order of the data's", stacklevel=2)
    return Record(task=KIND, labels=labels, preprocessing=reading, source=str(path))


def takes_tokens(signature: Signature) -> bool:
    """Whether all inputs are integers, (batch, tokens)."""
    return bool(signature.inputs) and all(
        port.dtype in ("int64", "int32") and port.shape is not None and len(port.shape) == 2
        for port in signature.inputs
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises UnsupportedModel."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UnsupportedModel(f"{path} is no JSON object")
    return found
