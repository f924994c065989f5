"""Greedy decoding of a batch that keeps what a student learns from: the most likely tokens of every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtimes.speech.whisper import Prompt


@dataclass(frozen=True)
class PseudoLabel:
    """The transcript of one recording in tokens, and the top-k log-probabilities at each of them.

    prompt: (p,) ids. tokens: (n,) ids after it, with the end of the text where it came to one. ids, log_probabilities:
    (n, k) of the most likely tokens at each of these steps, of the whole vocabulary: nothing is suppressed in them.
    """

    prompt: NDArray[np.int32]
    tokens: NDArray[np.int32]
    ids: NDArray[np.int32]
    log_probabilities: NDArray[np.float16]

    @classmethod
    def empty(cls, prompt: Prompt) -> PseudoLabel:
        """Of a silent recording."""
        none = np.zeros((0, 0))
        start = np.array(prompt.tokens(), np.int32)
        return cls(start, np.zeros(0, np.int32), none.astype(np.int32), none.astype(np.float16))


@dataclass(frozen=True)
class Rules:
    """The tokens that are suppressed, and the length of a transcript."""

    always: Tensor  # ids
    first: Tensor  # ids, as the first token of a text
    longest: int  # tokens after the prompt

    @classmethod
    def of(cls, network: Any, prompt: Prompt) -> Rules:
        """Those of a network's generation_config; timestamps are never written."""
        config, rows = network.generation_config, int(network.config.vocab_size)
        stamps = prompt.suppressed(rows)  # as in every session
        always = [token for token in config.suppress_tokens or () if 0 <= token < rows]
        first = [token for token in config.begin_suppress_tokens or () if 0 <= token < rows]
        return cls(torch.tensor([*always, *stamps]), torch.tensor(first), prompt.longest)


@torch.inference_mode()
def decode(network: Any, states: Tensor, prompt: Prompt, rules: Rules, top: int) -> list[PseudoLabel]:
    """The most likely token at each step, and the `top` most likely. states: of the encoder, (batch, places, width)."""
    begin = _prompts(network, states, prompt)
    tokens, ids, values = begin, [], []
    past, fed = None, begin
    ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    while not bool(ended.all()) and tokens.shape[1] - begin.shape[1] < rules.longest:
        answer = network(encoder_outputs=(states,), decoder_input_ids=fed, past_key_values=past, use_cache=True)
        past, logits = answer.past_key_values, answer.logits[:, -1].float()
        best = torch.log_softmax(logits, -1).topk(min(top, logits.shape[-1]), -1)
        ids.append(best.indices)
        values.append(best.values)
        fed = _next(logits, rules, first=not ids[1:])[:, None]
        tokens = torch.cat([tokens, fed], 1)
        ended |= fed[:, 0] == prompt.end
    if not ids:
        return [_row(begin[row], begin[row, :0], [], [], prompt.end) for row in range(len(states))]
    after, all_ids, all_values = tokens[:, begin.shape[1] :], torch.stack(ids, 1), torch.stack(values, 1)
    return [_row(begin[row], after[row], all_ids[row], all_values[row], prompt.end) for row in range(len(states))]


def _prompts(network: Any, states: Tensor, prompt: Prompt) -> Tensor:
    """(batch, p): the prompt of each recording, with its likeliest language where none is config."""
    if not prompt.languages or prompt.language is not None:
        return torch.tensor([prompt.tokens()], device=states.device).expand(len(states), -1)
    start = torch.full((len(states), 1), prompt.start, device=states.device)
    logits = network(encoder_outputs=(states,), decoder_input_ids=start).logits[:, -1]
    known = torch.tensor(sorted(prompt.languages.values()), device=states.device)
    spoken = known[logits[:, known].argmax(-1)]
    return torch.tensor([prompt.tokens(int(language)) for language in spoken], device=states.device)


def _next(logits: Tensor, rules: Rules, *, first: bool) -> Tensor:
    """(batch,): the most likely token that is allowed. logits: (batch, vocabulary)."""
    allowed = logits.clone()
    for forbidden in (rules.always, rules.first) if first else (rules.always,):
        allowed[:, forbidden.to(logits.device)] = -torch.inf
    return allowed.argmax(-1)


def _row(begin: Tensor, after: Tensor, ids: Any, values: Any, end: int) -> PseudoLabel:
    """One recording's part, up to and with the end of its text."""
    written = after.cpu().numpy().astype(np.int32)
    ends = np.flatnonzero(written == end)
    length = int(ends[0]) + 1 if len(ends) else len(written)
    kept = [np.asarray(part.cpu())[:length] if len(part) else np.zeros((0, 0)) for part in (ids, values)]
    return PseudoLabel(
        begin.cpu().numpy().astype(np.int32), written[:length], kept[0].astype(np.int32), kept[1].astype(np.float16)
    )
