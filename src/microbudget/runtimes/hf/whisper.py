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


class TorchEar:
    """An open `WhisperForConditionalGeneration`."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.runtime = f"torch {torch.__version__}"
        self.network = load_network(folder)
        self.multilingual = int(self.network.config.vocab_size) >= MULTILINGUAL

    def write(self, features: Features, prompt: Prompt) -> list[int]:
        """The tokens behind the prompt for features (mels, frames)."""
        batch = torch.from_numpy(features)[None]
        with torch.inference_mode():
            encoded = self.network.model.encoder(batch)
            language = None
            if prompt.languages and prompt.language is None:
                language = self._spoken(encoded, prompt)
            start = torch.tensor([prompt.tokens(language)])
            written = self.network.generate(
                encoder_outputs=encoded,
                decoder_input_ids=start,
                do_sample=False,
                num_beams=1,
                return_timestamps=False,
                max_new_tokens=prompt.longest,
                suppress_tokens=self._never(prompt),
                **self._told(start[0]),
            )
        tokens = [int(token) for token in written[0]]
        return tokens[start.shape[1] :] if tokens[: start.shape[1]] == start[0].tolist() else tokens

    def _told(self, start: Any) -> dict[str, str]:
        """The language of a prompt as `generate` wants to hear it: it would detect once more what the prompt says."""
        settings = self.network.generation_config
        if not getattr(settings, "is_multilingual", False):
            return {}
        known = getattr(settings, "lang_to_id", None) or {}
        return next(({"language": name} for name, token in known.items() if token in start), {})

    def _never(self, prompt: Prompt) -> list[int]:
        """What may not be written: what the model's settings say, and timestamps."""
        told = self.network.generation_config.suppress_tokens or ()
        return [*told, *range(prompt.no_timestamps, int(self.network.config.vocab_size))]

    def close(self) -> None:
        """Release the network."""
        del self.network

    def spoken(self, features: Features, prompt: Prompt) -> int:
        """The likeliest language's token."""
        with torch.inference_mode():
            return self._spoken(self.network.model.encoder(torch.from_numpy(features)[None]), prompt)

    def _spoken(self, encoded: Any, prompt: Prompt) -> int:
        """The likeliest language's token."""
        logits = self.network(encoder_outputs=encoded, decoder_input_ids=torch.tensor([[prompt.start]])).logits[0, -1]
        return max(prompt.languages.values(), key=lambda token: float(logits[token]))


def load_network(folder: Path) -> Any:
    """The Whisper in a Hugging Face folder, in float32 and eval mode: only safetensors, no remote code.

    Raises UnsupportedModel, also for weights that are missing: transformers would draw them at random and go on.
    """
    network = open_pretrained(transformers.WhisperForConditionalGeneration, folder, "Whisper")
    network.generation_config.forced_decoder_ids = None  # of older checkpoints: the prompt is told
    return network


def open_session(model: Model, *, threads: int = 0, language: str | None = None) -> WhisperSession:
    """Open an `hf` Whisper. threads: 0 means torch's own choice, all cores. language: its code, else detected."""
    return WhisperSession(TorchEar(model.path, threads), model.path, front_end(model.path), language)
