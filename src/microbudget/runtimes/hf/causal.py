"""Language models of Hugging Face folders in torch, eager, float32: the same interface as llama.cpp's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtra, UnsupportedModel, what_it_said
from ...model import Record, backbone_of
from ..language.session import LanguageSession

if TYPE_CHECKING:
    from ...model import Model

try:
    import torch
    import transformers
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[train]'") from error

from . import widths
from .pretrained import open_network, open_pretrained
from .session import use_threads

UNBOUNDED = 2048  # tokens, for a model whose config has no context length


class CausalTokenizer:
    """The tokenizer of a `...ForCausalLM` folder, without the network. Raises UnsupportedModel."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.bos: int | None = end if begin is None else begin
        self.adds_bos = begin is not None and self._tokenizer("")["input_ids"][:1] == [begin]
        self.bos_text, self.eos_text = self._tokenizer.bos_token or "", self._tokenizer.eos_token or ""
        self.chat_template: str | None = self._tokenizer.chat_template

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids, without those that begin or end a text. special: "<|end|>" in the text is that token."""
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=not special, verbose=False)
        return [int(token) for token in found["input_ids"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class CausalReader(CausalTokenizer):
    """An open `...ForCausalLM` with one sequence of tokens and a cache of keys and values."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        use_threads(threads)
        self.runtime = f"torch {torch.__version__}"
        self._network = load_network(folder)
        super().__init__(folder)
        config = self._network.config
        self.vocabulary = int(config.vocab_size)
        self.longest = int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)
        self._ends = _end_tokens(self._network, self._tokenizer.eos_token_id)
        self._cache: Any = None

    def ends(self, token: int) -> bool:
        """Whether the model ends its text with this token."""
        return token in self._ends

    def reserve(self, size: int, rows: int) -> None:
        """Begin a sequence; torch allocates memory when it needs it."""
        del size, rows
        self._cache = None

    def process(self, tokens: Sequence[int], rows: int = 0) -> NDArray[np.float32]:
        """Append tokens; the logits after each of the last `rows`, (rows, vocabulary)."""
        if self._cache is None:
            self._cache = _new_cache(self._network.config)
        logits: NDArray[np.float32] = self._forward([list(tokens)], logits_to_keep=max(1, rows))[0]  # 0 means all
        return logits[len(logits) - rows :]

    def branch(self, prefix: Sequence[int], branches: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The logits before each token of each branch, (tokens, vocabulary): the branches are one batch.

        They are padded at their ends, which no token before the padding sees.
        """
        self._cache = None
        after = self.process(prefix, 1)
        width = max(map(len, branches)) - 1  # nothing follows the last token
        if not width:
            self._cache = None
            return [after] * len(branches)
        self._cache.batch_repeat_interleave(len(branches))
        logits = self._forward([[*branch[:-1], *[0] * (width - len(branch) + 1)] for branch in branches])
        self._cache = None
        return [np.concatenate([after, rows[: len(branch) - 1]]) for rows, branch in zip(logits, branches, strict=True)]

    def _forward(self, tokens: list[list[int]], **options: Any) -> NDArray[np.float32]:
        """Append tokens, (sequences, tokens), and return their logits, (sequences, tokens, vocabulary)."""
        with torch.inference_mode():
            answered = self._network(
                input_ids=torch.tensor(tokens), past_key_values=self._cache, use_cache=True, **options
            )
        logits: NDArray[np.float32] = answered.logits.numpy()
        return logits

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens from a position on."""
        if position == 0:
            self._cache = None
        else:
            self._cache.crop(position - self._cache.get_seq_length())

    def cache_bytes(self) -> int | None:
        """Bytes of the keys and values as far as the sequence goes now."""
        layers = [] if self._cache is None else self._cache.layers
        return sum(int(part.nbytes) for layer in layers for part in (layer.keys, layer.values) if part is not None)

    def close(self) -> None:
        """Release the network."""
        del self._network, self._cache


def _new_cache(config: Any) -> Any:
    """A cache that can be rewound.

    Layers with a window would forget what lies before it, so all layers of attention keep everything: the network's
    masks still end at the window. Other sorts of layers stay as they are.
    """
    made = transformers.DynamicCache(config=config)
    attention = (DynamicLayer, DynamicSlidingWindowLayer)
    return transformers.DynamicCache() if all(type(layer) in attention for layer in made.layers) else made


def load_network(folder: Path, offload: Path | None = None) -> Any:
    """The language model in a Hugging Face folder, in float32 and eval mode. Raises what `open_network` raises.

    offload: as of `open_pretrained`, for a folder as transformers writes it.
    """
    auto, what = transformers.AutoModelForCausalLM, "a language model"
    record = Record.read(folder)
    if offload is None or backbone_of(folder) is not None or (record is not None and widths.special(record.state)):
        return open_network(auto, folder, what)
    return open_pretrained(auto, folder, what, offload)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a Hugging Face folder. Raises UnsupportedModel when there is none."""
    try:
        source = backbone_of(folder) or folder
        return transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception
        raise UnsupportedModel(
            f"{folder} has no tokenizer that transformers can open ({what_it_said(error)}): it needs tokenizer.json or"
            " tokenizer.model next to the weights"
        ) from error


def _end_tokens(network: Any, end: int | None) -> set[int]:
    configured = getattr(network.generation_config, "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in (*found, end) if token is not None}


def open_session(model: Model, *, threads: int = 0) -> LanguageSession:
    """Open an `hf` Model as a language model. threads: 0 means torch's own choice, all cores."""
    return LanguageSession(CausalReader(model.path, threads))
