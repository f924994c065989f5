"""A Llama decoder with a cache of keys and values as an ONNX file, and its reader: the peer in ONNX Runtime.

The network is written out in torch (rotary positions, grouped heads, gated units) so that tracing gives a plain graph,
checked against transformers, and run with outputs bound to ONNX Runtime's own memory: no copy of the cache per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from microbudget.model import Model
from microbudget.runtimes.language.session import LanguageSession

NAME = "decoder.onnx"
TOLERANCE = 1e-3  # of the largest difference of logits from transformers


def export(folder: Path) -> Path:
    """Write decoder.onnx next to a Hugging Face Llama; raises ValueError when its logits are not those of torch."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    config = network.config
    decoder = _decoder(network)
    ids = torch.randint(0, config.vocab_size, (1, 7))
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    past = torch.zeros(2 * config.num_hidden_layers, 1, heads, 0, width)
    with torch.inference_mode():
        first, cache = decoder(ids[:, :5], past)
        found = torch.cat([first, decoder(ids[:, 5:], cache)[0]], 1)
        difference = float((found - network(ids).logits[:, [4, 6]]).abs().max())
    if difference > TOLERANCE:
        raise ValueError(f"the decoder's logits are {difference} off")
    path = folder / NAME
    with torch.inference_mode():
        torch.onnx.export(
            decoder, (ids[:, :5], cache), str(path), dynamo=False, opset_version=17,
            input_names=["ids", "past"], output_names=["logits", "present"],
            dynamic_axes={"ids": {1: "new"}, "past": {3: "old"}, "present": {3: "all"}},
        )  # fmt: skip
    return path


def _decoder(network: Any) -> Any:
    """(ids (1, new), past (2 * layers, 1, heads, old, width)) -> logits (1, 1, vocabulary) of the last, present."""
    import torch

    config = network.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    theta = config.rope_parameters["rope_theta"]

    def norm(x: Any, layer: Any) -> Any:
        return layer.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)

    def turn(x: Any, cos: Any, sin: Any) -> Any:
        low, high = x[..., : width // 2], x[..., width // 2 :]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    class Decoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("rate", theta ** (-torch.arange(0, width, 2) / width))

        def forward(self, ids: Any, past: Any) -> Any:
            new, old = ids.shape[1], past.shape[3]
            places = torch.arange(old, old + new)
            angle = places[:, None] * self.rate
            cos, sin = angle.cos(), angle.sin()
            hidden_from = torch.arange(old + new)[None, :] > places[:, None]
            mask = torch.zeros(new, old + new).masked_fill(hidden_from, float("-inf"))
            x, present = self.network.model.embed_tokens(ids), []
            for number, layer in enumerate(self.network.model.layers):
                attention, inner = layer.self_attn, norm(x, layer.input_layernorm)
                q, k, v = (
                    part(inner).view(1, new, -1, width).transpose(1, 2)
                    for part in (attention.q_proj, attention.k_proj, attention.v_proj)
                )
                k = torch.cat([past[2 * number], turn(k, cos, sin)], 2)
                v = torch.cat([past[2 * number + 1], v], 2)
                present += [k, v]
                if shared != heads:
                    k, v = (part.repeat_interleave(heads // shared, 1) for part in (k, v))
                weights = (turn(q, cos, sin) @ k.transpose(2, 3) * width**-0.5 + mask).softmax(-1)
                x = x + attention.o_proj((weights @ v).transpose(1, 2).reshape(1, new, heads * width))
                inner = norm(x, layer.post_attention_layernorm)
                gate = torch.nn.functional.silu(layer.mlp.gate_proj(inner))
                x = x + layer.mlp.down_proj(gate * layer.mlp.up_proj(inner))
            last = norm(x[:, -1:], self.network.model.norm)
            return self.network.lm_head(last), torch.stack(present)

    return Decoder().eval()


class OnnxReader:
    """An open decoder.onnx with one sequence of tokens; the tokenizer is the folder's own."""

    def __init__(self, path: Path, threads: int) -> None:
        from microbudget.runtimes.hf.causal import load_tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._tokenizer = load_tokenizer(path.parent)
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        shape = {one.name: one.shape for one in self._session.get_inputs()}["past"]
        self._empty = np.zeros([0 if isinstance(side, str) else side for side in shape], np.float32)
        self.vocabulary = int(self._session.get_outputs()[0].shape[-1])
        self.longest, self.bos, self.adds_bos = 2048, self._tokenizer.bos_token_id, False
        self.bos_text = self.eos_text = ""
        self.chat_template: str | None = None
        self.rewind()

    def encode(self, text: str, special: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens)))

    def ends(self, token: int) -> bool:
        return bool(token == self._tokenizer.eos_token_id)

    def reserve(self, size: int, rows: int) -> None:
        del size, rows
        self.rewind()

    def process(self, tokens: Sequence[int], rows: int = 0) -> NDArray[np.float32]:
        ids = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([list(tokens)], np.int64))
        logits, present = self._session.run_with_ort_values(["logits", "present"], {"ids": ids, "past": self._past})
        self._filled += len(tokens)
        self._past = self._states[self._filled] = present
        found: NDArray[np.float32] = logits.numpy()[0]
        return found[1 - rows :]  # the last one, or none

    def rewind(self, position: int = 0) -> None:
        """To where a call of `process` ended: outputs are never written again, so going back is free."""
        if position == 0:
            self._states = {0: onnxruntime.OrtValue.ortvalue_from_numpy(self._empty)}
        self._states = {place: state for place, state in self._states.items() if place <= position}
        self._past, self._filled = self._states[position], position

    def cache_bytes(self) -> int | None:
        return None

    def close(self) -> None:
        del self._session


def open_decoder(model: Model, *, threads: int = 0, runtime: str | None = None) -> LanguageSession:
    """What a worker opens: `Worker(opener="decoder_onnx:open_decoder")`."""
    del runtime
    return LanguageSession(OnnxReader(model.path / NAME, threads))
