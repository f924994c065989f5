"""Prompts to continuations: through the chat template where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from ...errors import BadData
from ...model import Model
from ...progress import Progress
from ...runtimes import open_session
from ...runtimes.language.session import LanguageSession
from ...runtimes.prediction import Prediction
from .writing import SHARE

TOKENS = 256  # of an answer, at most
WRITES = True  # an answer is shown as it is written


def predict(
    model: Model,
    inputs: Sequence[str],
    progress: Progress,
    threads: int = 0,
    on_text: Callable[[str], object] | None = None,
) -> Iterator[Prediction]:
    """What the model writes after each prompt, the most likely token at each place.

    on_text: is called with each piece of an answer as it is written.
    Raises BadData for an empty prompt, InvalidOption for one that does not fit into the context.
    """
    for place, text in enumerate(inputs, 1):
        if not text.strip():
            raise BadData(f"prompt {place} of {len(inputs)} is empty")
    session = cast(LanguageSession, open_session(model, threads=threads))
    try:
        about = session.about()
        tokens = max(1, min(TOKENS, int(about["trained_context_tokens"]) // SHARE))
        for place, text in enumerate(inputs, 1):
            progress.doing(f"[{place}/{len(inputs)}] writing")
            if about["chats"]:
                written = session.chat([{"role": "user", "content": text}], tokens=tokens, on_text=on_text)
            else:
                written = session.generate(text, tokens=tokens, on_text=on_text)
            yield Prediction(text, written.text)
    finally:
        session.close()
