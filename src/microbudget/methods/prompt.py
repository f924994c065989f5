"""prompt: a language model answers a classification, by the likelihood of each label after a prompt.

What is done for a kind of model is in the kind's own `prompt.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidOption
from ..runtimes.loading import load
from ..task import Use
from . import Context, Method, option


@dataclass(frozen=True)
class Prompt(Method):
    """Replace the model by a language model that reads a prompt: zero-shot, or few-shot from the training split."""

    teaches: ClassVar[bool] = True
    formats: ClassVar[dict[str, str]] = {"hf": "hf", "onnx": "hf", "gguf": "gguf"}

    model: str | None = option(None, "a language model: folder, hub id or .gguf file", always_shown=True)
    text: str = option(
        "", "the prompt, such as 'Review: {text}\\nSentiment: {label}'; of pairs with {text_1} and {text_2}"
    )
    words: str = option(
        "", "what stands for the labels, such as '0=negative, 1=positive'; by default the labels themselves"
    )
    shots: int = option(0, "labelled examples before the text, of all classes equally many", low=0, high=1000)
    calibrate: bool = option(True, "divide by what the model answers to a text without content (Zhao et al. 2021)")
    length: int = option(512, "tokens of a text; what follows is not read", low=8, high=1_000_000)

    def output_format(self, input_format: str) -> str:
        """That of the language model."""
        super().output_format(input_format)
        return load(self.named()).format

    def learns_from(self, input_format: str) -> Use:
        """Only the examples are of the data."""
        return "training" if self.shots else "nothing"

    def extra_inputs(self, context: Context) -> dict[str, str]:
        """The language model."""
        return {"model": load(self.named()).fingerprint}

    def named(self) -> str:
        """The language model. Raises InvalidOption where none is named."""
        if self.model is None:
            raise InvalidOption("prompt: name a language model, prompt(model=FOLDER)")
        return self.model
