"""What of a network decides its energy: parameters, layers, cache and operations, from a config or a size alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModel
from .diffusion import ImageWork

Config = Mapping[str, Any]
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "decoder_ffn_dim", "hidden_dim")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk")
MOST = 1_000_000  # layers, heads and widths above it are no network's
TWO_MATRICES = ("gpt", "opt", "bloom", "bert", "falcon", "phi", "whisper", "vit", "t5", "mpt", "starcoder2")


@dataclass(frozen=True)
class Network:
    """A network by its sizes. A mixture of experts has more parameters than are active."""

    name: str
    parameters: float
    active: float
    layers: int
    cache_values: float = 0.0  # numbers of keys and values for each token
    always: float = 0.0  # parameters that every token reads; the rest are experts
    experts: int = 0
    chosen: int = 0
    encoder: bool = False  # answers in one pass, without a cache
    operations: float = 0.0  # of an answer, where they are given and not counted
    image: ImageWork | None = None
    origin: str = "given"

    @property
    def mixture(self) -> bool:
        """Whether a token uses a part of the parameters."""
        return self.active < 0.9 * self.parameters

    def read(self, tokens: float) -> float:
        """Parameters that a step of so many tokens reads: of the experts those that any of them chooses."""
        if not self.mixture:
            return self.parameters
        experts, chosen = (self.experts, self.chosen) if self.experts else self._guessed()
        touched = 1 - float((1 - chosen / experts) ** tokens)
        always = self.always or max(0.0, self.active - chosen / experts * self.parameters) / (1 - chosen / experts)
        return always + touched * (self.parameters - always)

    def _guessed(self) -> tuple[int, int]:
        """Experts and those chosen where only sizes are known: eight that are three quarters of the active."""
        share = max(1e-3, 0.75 * self.active / self.parameters)
        return max(8, round(8 / share)), 8


def of_size(total: float, active: float | None = None, name: str = "") -> Network:
    """A decoder of a usual shape with so many parameters (layers and cache as Llama 3 and Qwen 3 have them)."""
    active = active or total
    layers = max(4, round(32 * (active / 8e9) ** (0.35 if active == total else 0.2)))
    grouped = 2048 * min(2.0, max(0.25, (active / 8e9) ** 0.1))  # keys and values of 8 heads of 128 in each layer
    origin = "shape of a usual decoder of this size (Llama 3, Qwen 3)"
    return Network(name or f"{total:.3g} parameters", total, active, layers, layers * grouped, origin=origin)


def of_config(config: Config, name: str) -> Network:
    """The network of a Hugging Face config.json.

    Raises UnsupportedModel for a config without layers, or with impossible ones.
    """
    shape = shape_of(config, name)
    layers = shape.layers
    always, experts = shape.always(), shape.experts_parameters()
    chosen, number = shape.chosen, shape.experts
    active = always + (experts * chosen / number if number else 0.0)
    return Network(
        name,
        always + experts,
        active,
        layers,
        shape.cache_values(),
        always,
        number,
        chosen,
        encoder=shape.encoder,
        origin=f"config of {name}",
    )


def shape_of(config: Config, name: str) -> Shape:
    """The sizes of a config. Raises UnsupportedModel for a config without layers, or with impossible ones."""
    inner = config.get("text_config") or config.get("llm_config") or config
    inner = config if not isinstance(inner, Mapping) else inner
    layers, hidden = _whole(inner, LAYERS, name), _whole(inner, HIDDEN, name)
    if not layers or not hidden:
        missing = "layers" if not layers else "width"
        raise UnsupportedModel(
            f"the config of {name} names no {missing} ({LAYERS[0] if not layers else HIDDEN[0]}): give --params, or"
            " --flops of one answer"
        )
    return Shape(inner, name, layers, hidden)


def _whole(config: Config, keys: tuple[str, ...], name: str, default: int = 0) -> int:
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, list):
            value = max(value, default=0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise UnsupportedModel(f"the config of {name} has {key} = {value!r}, which is no whole number")
        if not 0 < value <= MOST:
            raise UnsupportedModel(f"the config of {name} has {key} = {value}, which no network has")
        return int(value)
    return default


class Shape:
    """The sizes in a transformer's config, and its parameters without biases and norms."""

    def __init__(self, config: Config, name: str, layers: int, hidden: int) -> None:
        self.config, self.name, self.layers, self.hidden = config, name, layers, hidden
        self.heads = self._get(HEADS, 1)
        self.kv_heads = self._get(
            ("num_key_value_heads", "num_kv_heads"), 1 if config.get("multi_query") else self.heads
        )
        self.head = self._get(("head_dim", "d_kv"), max(1, hidden // self.heads))
        self.inner = self._get(INNER, 4 * hidden)
        self.experts = self._get(EXPERTS, 0)
        self.chosen = min(self._get(CHOSEN, 1 if self.experts else 0), self.experts)
        self.model_type = str(config.get("model_type", "")).lower()
        self.encoder = not self._decodes()

    def _get(self, keys: tuple[str, ...], default: int) -> int:
        return _whole(self.config, keys, self.name, default)

    def _decodes(self) -> bool:
        classes = " ".join(map(str, self.config.get("architectures") or ()))
        if "CausalLM" in classes or "Conditional" in classes or "LMHead" in classes:
            return True
        only = ("bert", "deberta", "electra", "vit", "deit", "clip", "wav2vec2", "hubert", "dinov2", "swin", "beit")
        return not any(word in self.model_type for word in only)

    @property
    def vocabulary(self) -> int:
        """Tokens that there are."""
        return self._get(("vocab_size",), 0)

    @property
    def tied(self) -> bool:
        """Whether the head is the table of tokens."""
        usual = self.model_type in ("gpt2", "gemma", "gemma2", "gemma3_text", "t5")
        return bool(self.config.get("tie_word_embeddings", usual))

    @property
    def trained_context(self) -> int:
        """Tokens."""
        return self._get(("max_position_embeddings", "n_positions", "n_ctx"), 4096)

    @property
    def matrices(self) -> int:
        """Of a feed-forward part: two, or three where a gate is."""
        gated = "gate" in str(self.config.get("feed_forward_proj", "")) or self.model_type.startswith("phi3")
        return 2 if self.model_type.startswith(TWO_MATRICES) and not gated else 3

    def _attention(self) -> float:
        rank = self._get(("kv_lora_rank",), 0)
        if rank:  # DeepSeek-V2, equations 9 to 17
            rope, nope = self._get(("qk_rope_head_dim",), 64), self._get(("qk_nope_head_dim",), 128)
            values, query = self._get(("v_head_dim",), 128), self._get(("q_lora_rank",), 0)
            wide = self.heads * (rope + nope)
            queries = query * (self.hidden + wide) if query else self.hidden * wide
            back = rank * self.heads * (nope + values) + self.heads * values * self.hidden
            return queries + self.hidden * (rank + rope) + back
        return self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)

    def sparse_layers(self) -> int:
        """Layers with experts."""
        if not self.experts:
            return 0
        every = self._get(("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq"), 1)
        return max(0, self.layers - self._get_dense()) // every

    def _get_dense(self) -> int:
        value = self.config.get("first_k_dense_replace", 0)
        return value if isinstance(value, int) and 0 <= value <= self.layers else 0

    def always(self) -> float:
        """Parameters that every token uses."""
        sparse = self.sparse_layers()
        tables = self.vocabulary * self.hidden * (1 if self.tied or self.encoder else 2)
        dense = self.dense_width()
        body = self.layers * self._attention() + (self.layers - sparse) * self.matrices * self.hidden * dense
        more = self._get(("encoder_layers",), 0) if self.config.get("is_encoder_decoder") else 0
        if self.config.get("is_encoder_decoder") and not more:
            more = self.layers  # T5: as many layers that read as that write, and attention between them
        sides = more * (2 * self._attention() + self.matrices * self.hidden * self.inner)
        return tables + body + sparse * self.shared() * 3 * self.hidden + sides + self.hidden

    def shared(self) -> int:
        """Neurons of the experts that every token goes through."""
        if self.model_type.startswith("llama4"):
            return self.inner
        several = self._get(("n_shared_experts",), 0) * self.expert_width()
        return self._get(("shared_expert_intermediate_size",), several)

    def dense_width(self) -> int:
        """Neurons of a layer without experts."""
        return self._get(("intermediate_size_mlp",), self.inner) if self.experts else self.inner

    def expert_width(self) -> int:
        """Neurons of an expert."""
        return self._get(("moe_intermediate_size",), self.inner)

    def experts_parameters(self) -> float:
        """Parameters of all experts."""
        return float(self.sparse_layers() * self.experts * 3 * self.hidden * self.expert_width())

    def cache_values(self) -> float:
        """Numbers of keys and values for a token, in all layers."""
        if self.encoder:
            return 0.0
        rank = self._get(("kv_lora_rank",), 0)
        each = rank + self._get(("qk_rope_head_dim",), 64) if rank else 2 * self.kv_heads * self.head
        return float(self.layers * each)


def of_operations(operations: float, parameters: float = 0.0, layers: int = 50) -> Network:
    """A network that answers in one pass with so many operations (two for each multiply-add)."""
    return Network("given operations", parameters, parameters, layers, encoder=True, operations=operations)
