"""Whisper of Hugging Face folders in torch and transformers, eager, float32, greedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...audio.log_mel import Features
from ...errors import MissingExtra
from ..speech.whisper import MULTILINGUAL, Prompt, WhisperSession, front_end

if TYPE_CHECKING:
    from ...model import Model

try:
    import torch
    import transformers
except ImportError as error:
    raise MissingExtra("a Hugging Face model needs torch: pip install 'microbudget[speech]'") from error

from .pretrained import open_pretrained
from .session import use_threads

FRAMES = 2  # of the features for a position of the encoder


class TorchWhisper:
    """An open `WhisperForConditionalGeneration`."""

    def __init__(self, folder: Path, threads: int = 0, beam: int = 1) -> None:
        self._beam = beam
        use_threads(threads)
        self.runtime = f"torch {torch.__version__}"
        self.network = load_network(folder)
        self.multilingual = int(self.network.config.vocab_size) >= MULTILINGUAL

    def generate(self, features: Features, prompt: Prompt) -> list[int]:
        """The tokens after the prompt for features (mels, frames)."""
        with torch.inference_mode():
            encoded = self.encode(features)
            language = None
            if prompt.languages and prompt.language is None:
                language = self._language(encoded, prompt)
            start = torch.tensor([prompt.tokens(language)])
            # Whisper's own `generate` cuts a text at every pair of tokens whose ids are those of timestamps or higher
            written = transformers.GenerationMixin.generate(
                self.network,
                encoder_outputs=encoded,
                decoder_input_ids=start,
                do_sample=False,
                num_beams=self._beam,
                max_new_tokens=prompt.longest,
                suppress_tokens=self._suppressed(prompt),
            )
        tokens = [int(token) for token in written[0][start.shape[1] :]]
        return tokens[: tokens.index(prompt.end)] if prompt.end in tokens else tokens

    def _suppressed(self, prompt: Prompt) -> list[int]:
        """Tokens that are never generated: those of the model's settings, and timestamps."""
        configured = self.network.generation_config.suppress_tokens or ()
        return [*configured, *prompt.suppressed(int(self.network.config.vocab_size))]

    def close(self) -> None:
        """Release the network."""
        del self.network

    def detect_language(self, features: Features, prompt: Prompt) -> int:
        """The token of the likeliest language."""
        with torch.inference_mode():
            return self._language(self.encode(features), prompt)

    def encode(self, features: Features) -> Any:
        """The encoder's answer to (mels, frames). transformers refuses fewer frames than its table of positions has."""
        encoder = self.network.model.encoder
        whole, places = encoder.embed_positions, features.shape[-1] // FRAMES
        if places < whole.num_embeddings:
            encoder.embed_positions = torch.nn.Embedding(places, whole.embedding_dim, _weight=whole.weight[:places])
            encoder.config.max_source_positions = places
        try:
            return encoder(torch.from_numpy(features)[None])
        finally:
            encoder.embed_positions, encoder.config.max_source_positions = whole, whole.num_embeddings

    def _language(self, encoded: Any, prompt: Prompt) -> int:
        """The token of the likeliest language."""
        logits = self.network(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[prompt.start]])).logits[0, -1]
        return max(prompt.languages.values(), key=lambda token: float(logits[token]))


def load_network(folder: Path) -> Any:
    """The Whisper in a Hugging Face folder, in float32 and eval mode: only safetensors, no remote code.

    Raises UnsupportedModel, also for weights that are missing: transformers would initialize them randomly and go on.
    """
    network = open_pretrained(transformers.WhisperForConditionalGeneration, folder, "Whisper")
    network.generation_config.forced_decoder_ids = None  # of older checkpoints: we give the prompt
    return network


def open_session(model: Model, *, threads: int = 0, language: str | None = None, beam: int = 1) -> WhisperSession:
    """Open an `hf` Whisper. threads: 0 means torch's choice. language: its code, else detected. beam: 1 is greedy."""
    return WhisperSession(TorchWhisper(model.path, threads, beam), model.path, front_end(model.path), language)
