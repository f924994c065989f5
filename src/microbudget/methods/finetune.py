"""finetune: transfer learning. A new head on a frozen backbone whose features are computed once per view.

`unfreeze` then trains on from there through the network, its last block or all of it (head first, then the rest:
Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidOption
from ..training.head import HeadSettings
from . import Method, option

HIDDEN = 256  # width of the hidden layer of an `mlp` head
DROPOUT = 0.5


@dataclass(frozen=True)
class Finetune(Method):
    """Transfer learning: a new head for your labels on the frozen network."""

    revision: ClassVar[int] = 4  # features that hardly change get no large weights
    teaches: ClassVar[bool] = True
    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "onnx"}

    head: str = option(
        "linear", "the new head: one linear layer, or dense 256 ReLU, dropout 0.5", choices=("linear", "mlp")
    )
    views: int = option(1, "how many views of each photo: the plain one, then augmented ones", low=1, high=64)
    epochs: int = option(40, "passes over the features at most", low=1, high=10_000)
    patience: int = option(10, "epochs without a better validation loss before it stops", low=1, high=10_000)
    learning_rate: float | None = option(
        None, "of AdamW at the start of the cosine; by default higher for a head on few features", low=1e-7, high=1.0
    )
    weight_decay: float = option(0.01, "of AdamW", low=0.0, high=10.0)
    unfreeze: str | None = option(
        None,
        "what is trained along with the head, once the head is fitted: the last block, or all",
        choices=(None, "last", "all"),
    )
    deep_views: int = option(4, "unfreeze: views of each photo, each epoch shows another", low=1, high=64)
    deep_epochs: int = option(10, "unfreeze: passes over the photos at most", low=1, high=10_000)
    deep_patience: int = option(5, "unfreeze: epochs without a better validation loss before it stops", low=1)
    deep_rate: float = option(
        1e-3,
        "unfreeze: AdamW's learning rate of a head on up to 128 features, less on more; the backbone's is a tenth of"
        " it, or three where the network has lost channels",
        low=1e-8,
        high=1.0,
    )

    def output_format(self, input_format: str) -> str:
        """As the input's, but no Hugging Face class holds an `mlp` head: that gives `onnx`."""
        output = super().output_format(input_format)
        if self.unfreeze and self.head == "mlp" and input_format == "hf":
            raise InvalidOption(
                "finetune: unfreeze takes head='linear', the one that a Hugging Face folder can hold; of an onnx file"
                " it takes both"
            )
        return "onnx" if self.head == "mlp" else output

    def head_settings(self) -> HeadSettings:
        """Of the head alone."""
        hidden, dropout = (HIDDEN, DROPOUT) if self.head == "mlp" else (0, 0.0)
        return HeadSettings(hidden, dropout, self.epochs, self.patience, self.learning_rate, self.weight_decay)
