"""Text classifiers in torch: classifiers of transformers, and encoders with pooling and a linear head of our own.

An encoder becomes a classifier in the layout of sentence-transformers, which opens such a folder as it is and answers
with logits: the encoder in the folder itself, `1_Pooling`, and a Dense layer with one output for each class.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...errors import MissingExtra, UnsupportedModel
from ...model import Record, backbone_of

try:
    import torch
    import transformers
    import transformers.modeling_utils
    from safetensors.torch import load_file, save_file
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[train]'") from error

from torch.nn import Linear

from . import widths
from .heads import name_classes
from .pretrained import open_network, open_pretrained

MODULES, POOLING, DENSE = "modules.json", "1_Pooling", "2_Dense"
HEAD_FILES = (MODULES, f"{POOLING}/config.json", f"{DENSE}/config.json", f"{DENSE}/model.safetensors")
MEAN, FIRST, LARGEST = "pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"
WHAT = "a text classifier"
POOLER = "pooler"
_LIBRARY = "sentence_transformers.models"


@dataclass(frozen=True)
class Pooling:
    """How the vectors of the tokens become one: their mean, the first, or the largest of each number."""

    mode: str = MEAN

    @classmethod
    def read(cls, folder: Path) -> Pooling:
        """As the folder says; the mean where it says nothing. Raises UnsupportedModel for another mode."""
        path = folder / POOLING / "config.json"
        if not path.is_file():
            return cls()
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            chosen = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        except (ValueError, AttributeError) as error:
            raise UnsupportedModel(f"{path} cannot be read: {error}") from error
        if len(chosen) != 1 or chosen[0] not in (MEAN, FIRST, LARGEST):
            raise UnsupportedModel(
                f"{path} pools by {', '.join(chosen) or 'nothing'}; supported is one of {MEAN}, {FIRST}, {LARGEST}"
            )
        return cls(chosen[0])

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """states: (batch, tokens, width), mask: (batch, tokens) of 0 and 1 -> (batch, width)."""
        if self.mode == FIRST:
            return states[:, 0]
        kept = mask.unsqueeze(-1).to(states.dtype)
        if self.mode == LARGEST:
            return (states * kept + (kept - 1) * 1e9).max(dim=1).values
        return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1e-9)


class PooledClassifier(torch.nn.Module):
    """An encoder, its pooling and a linear layer; without a head it answers with the pooled features."""

    def __init__(self, encoder: Any, pooling: Pooling, head: Linear | None) -> None:
        super().__init__()
        self.encoder, self.pooling, self.config = encoder, pooling, encoder.config
        self.head = head if head is not None else torch.nn.Identity()

    @property
    def supports_gradient_checkpointing(self) -> bool:
        """Whether the encoder does."""
        return bool(getattr(self.encoder, "supports_gradient_checkpointing", False))

    def activation_checkpointing_enable(self, options: dict[str, Any]) -> None:
        """Let each block of the encoder be computed again in the backward pass; transformers has two names for it."""
        enable = getattr(self.encoder, "activation_checkpointing_enable", None)
        (enable or self.encoder.gradient_checkpointing_enable)(options)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: torch.Tensor) -> Any:
        """input_ids, attention_mask: (batch, tokens) -> an object with `logits` (batch, classes)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        return SimpleNamespace(logits=self.head(self.pooling(states, attention_mask)))


def load_network(folder: Path) -> Any:
    """The classifier in a folder, float32, eval mode; an encoder without a head answers with its pooled features.

    Raises what `open_network` raises.
    """
    if is_whole_classifier(backbone_of(folder) or folder):
        return open_network(transformers.AutoModelForSequenceClassification, folder, WHAT)
    encoder = _open_encoder(folder)
    head = _read_head(folder)
    network = PooledClassifier(encoder, Pooling.read(folder), head)
    if head is not None:
        labels = encoder.config.id2label or {}
        name_classes(network, tuple(str(labels.get(place, place)) for place in range(head.out_features)))
    return network.eval()


def _open_encoder(folder: Path) -> Any:
    """Without a pooler of the first token, which is for another task: we pool by ourselves."""
    record = Record.read(folder)
    if record is not None and widths.special(record.state):
        return widths.load(transformers.AutoModel, folder, record.state, without=(POOLER,))
    encoder = open_pretrained(transformers.AutoModel, folder, "a text encoder", optional=(f"{POOLER}.",))
    if getattr(encoder, POOLER, None) is not None:
        encoder.pooler = None
    return encoder


def is_whole_classifier(folder: Path) -> bool:
    """Whether the folder is a classifier of transformers, head included."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _read_head(folder: Path) -> Linear | None:
    """The Dense layer of a classifier that we wrote; a sentence encoder's own Dense layer is an error."""
    path = folder / DENSE / "model.safetensors"
    if not path.is_file():
        return None
    tensors = load_file(str(path))
    weight = tensors["linear.weight"]
    head = Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight.float(), "bias": tensors["linear.bias"].float()})
    return head


def put_new_head(network: PooledClassifier, weight: Any, bias: Any, labels: tuple[str, ...]) -> None:
    """A head on pooled features. weight: (classes, width), bias: (classes,), NumPy arrays."""
    head = Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias.copy())})
    network.head = head
    name_classes(network, labels)


def save_network(network: Any, out: Path) -> None:
    """Save as an ordinary folder of transformers, or of sentence-transformers where the head is ours."""
    if not isinstance(network, PooledClassifier):
        widths.save(network, out)
        return
    widths.save(network.encoder, out)
    head, width = network.head, network.config.hidden_size
    assert isinstance(head, Linear)
    (out / POOLING).mkdir()
    (out / DENSE).mkdir()
    modes = {mode: mode == network.pooling.mode for mode in (FIRST, MEAN, LARGEST)}
    _write_json(out / POOLING / "config.json", {"word_embedding_dimension": width, **modes})
    _write_json(
        out / DENSE / "config.json",
        {
            "in_features": head.in_features,
            "out_features": head.out_features,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    save_file(
        {"linear.weight": head.weight.detach().contiguous(), "linear.bias": head.bias.detach().contiguous()},
        str(out / DENSE / "model.safetensors"),
        metadata={"format": "pt"},
    )
    modules = [("", "Transformer"), (POOLING, "Pooling"), (DENSE, "Dense")]
    _write_json(
        out / MODULES,
        [
            {"idx": place, "name": str(place), "path": path, "type": f"{_LIBRARY}.{name}"}
            for place, (path, name) in enumerate(modules)
        ],
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


class _Logits(torch.nn.Module):
    """Inputs by place in, logits out: what the exporter traces."""

    def __init__(self, network: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """values: (batch, tokens) each -> (batch, classes)."""
        logits: torch.Tensor = self.network(**dict(zip(self.names, values, strict=True))).logits
        return logits


def onnx_bytes(network: Any, names: tuple[str, ...], opset: int = 17) -> bytes:
    """The network as an ONNX file's bytes: the inputs `names`, output `logits`, any batch and any number of tokens."""
    example = tuple(
        torch.ones(2, 7, dtype=torch.int64) if name == "attention_mask" else torch.zeros(2, 7, dtype=torch.int64)
        for name in names
    )
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    buffer = io.BytesIO()
    for part in network.modules():
        if hasattr(part, "config") and hasattr(part.config, "_attn_implementation"):
            part.config._attn_implementation = "eager"  # the others trace the mask of one length
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns about every Python branch; the export is checked on real texts
        torch.onnx.export(
            _Logits(network, names).eval(),
            example,
            buffer,  # type: ignore[arg-type] # a stream is taken too
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    return buffer.getvalue()
