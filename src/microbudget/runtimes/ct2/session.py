"""Whisper in CTranslate2: the format that ships, on a CPU without torch."""

from __future__ import annotations

import json
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...audio.log_mel import Features
from ...errors import InvalidOption, MissingExtra, UnsupportedModel
from ...machine.processor import thread_count
from ..speech.whisper import Prompt, WhisperSession, front_end

if TYPE_CHECKING:
    from ...model import Model

# Its threads are libgomp's, which spin while they wait; a thousand times less costs nothing that could be measured.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
try:
    import ctranslate2
except ImportError as error:
    raise MissingExtra("a CTranslate2 model needs ctranslate2: pip install 'microbudget[speech]'") from error

ctranslate2.set_log_level(logging.ERROR)  # it warns of every folder with float16, which it computes in float32 on a CPU


class Ct2Whisper:
    """An open CTranslate2 folder of Whisper."""

    def __init__(self, folder: Path, threads: int = 0, beam: int = 1) -> None:
        self._beam = beam
        self.runtime = f"ctranslate2 {ctranslate2.__version__}"
        try:
            self._network = ctranslate2.models.Whisper(
                str(folder),
                device="cpu",
                compute_type="default",
                inter_threads=1,
                intra_threads=thread_count(threads),
            )
        except (RuntimeError, ValueError) as error:
            raise UnsupportedModel(f"ctranslate2 cannot open {folder} as Whisper: {error}") from error
        self._folder = folder
        self.multilingual = bool(self._network.is_multilingual)
        self.mels = int(self._network.n_mels)  # folders made for faster-whisper have them nowhere else

    def generate(self, features: Features, prompt: Prompt) -> list[int]:
        """The tokens after the prompt for features (mels, frames)."""
        encoded = ctranslate2.StorageView.from_array(np.ascontiguousarray(features[None]))
        language = None
        if prompt.languages and prompt.language is None:
            encoded = self._network.encode(encoded, to_cpu=False)
            language = self._language(encoded, prompt)
        start = prompt.tokens(language)
        (written,) = self._network.generate(
            encoded,
            [start],
            beam_size=self._beam,
            sampling_topk=1,
            max_length=2 * prompt.longest,  # of which it takes half
            suppress_blank=True,
            suppress_tokens=[-1, *prompt.suppressed(self._tokens)],  # -1: those of the folder's settings
        )
        return [int(token) for token in written.sequences_ids[0]]

    def detect_language(self, features: Features, prompt: Prompt) -> int:
        """The token of the likeliest language. Raises InvalidOption where CTranslate2 cannot detect it."""
        return self._language(ctranslate2.StorageView.from_array(np.ascontiguousarray(features[None])), prompt)

    def _language(self, encoded: Any, prompt: Prompt) -> int:
        """The token of the likeliest language. Raises InvalidOption where CTranslate2 cannot detect it."""
        if not self.multilingual:
            raise InvalidOption(
                f"CTranslate2 detects languages only with Whisper's whole vocabulary, not with {self._tokens} tokens:"
                f" give the language, one of {', '.join(sorted(prompt.languages))}"
            )
        ((best, _), *_) = self._network.detect_language(encoded)[0]
        return prompt.languages[best.strip("<|>")]

    @cached_property
    def _tokens(self) -> int:
        """The size of the vocabulary. Raises UnsupportedModel where no file has it."""
        for name in ("vocabulary.json", "vocabulary.txt"):
            path = self._folder / name
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                return len(json.loads(text)) if path.suffix == ".json" else len(text.removesuffix("\n").split("\n"))
        raise UnsupportedModel(f"{self._folder} has no vocabulary.json: convert the model again")

    def close(self) -> None:
        """Release the model."""
        del self._network


def open_session(model: Model, *, threads: int = 0, language: str | None = None, beam: int = 1) -> WhisperSession:
    """Open a `ct2` Model. threads: 0 means all cores. language: its code, else detected. beam: 1 is greedy."""
    whisper = Ct2Whisper(model.path, threads, beam)
    return WhisperSession(whisper, model.path, front_end(model.path, whisper.mels), language)


def info() -> dict[str, Any]:
    """The types that CTranslate2 can compute in on this machine."""
    return {"compute_types": sorted(ctranslate2.get_supported_compute_types("cpu"))}
