"""Generation: as transformers does it, the same for a seed, and within its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from microbudget.errors import InvalidOption, UnsupportedModel
from microbudget.runtimes.gguf.session import GgufReader
from microbudget.runtimes.hf.causal import CausalReader
from microbudget.runtimes.language.generate import _shown, choose, generate
from microbudget.runtimes.language.reader import Reader
from microbudget.runtimes.language.renderer import Renderer
from microbudget.runtimes.language.session import LanguageSession
from toy_pair import Pair, needs_llama, write_pair

RUNTIMES = ["causal", pytest.param("gguf", marks=needs_llama)]
PROMPT = "def answer(question):"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def open_reader(pair: Pair, runtime: str) -> Reader:
    return CausalReader(pair.hf, 1) if runtime == "causal" else GgufReader(pair.gguf, 1, cache="F32")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_greedy_tokens_are_those_of_transformers(pair: Pair, runtime: str) -> None:
    reader = open_reader(pair, runtime)
    answer = generate(reader, PROMPT, tokens=30)
    prompt = torch.tensor([reader.encode(PROMPT)])
    with torch.inference_mode():
        expected = pair.network.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, do_sample=False, pad_token_id=0
        )[0, prompt.shape[1] :].tolist()
    ended = [place for place, token in enumerate(expected) if reader.ends(token)]
    assert list(answer.tokens) == expected[: ended[0] if ended else None]
    assert answer.prompt_tokens == prompt.shape[1]
    assert answer.ended == bool(ended)
    assert answer.text == reader.decode(answer.tokens)
    reader.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_pieces_of_an_answer_are_its_text(pair: Pair, runtime: str) -> None:
    """As they are written; a character whose bytes are several tokens comes whole."""
    reader, pieces = open_reader(pair, runtime), list[str]()
    answer = generate(reader, PROMPT, tokens=40, temperature=2.0, seed=3, on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert len(pieces) > 5
    reader.close()


def test_an_unfinished_character_waits() -> None:
    pieces: list[str] = []
    shown = ""
    for text in ("a", "a\ufffd", "a\ufffd\ufffd", "aé", "aéb"):
        shown = _shown(text, shown, pieces.append)
    assert pieces == ["a", "é", "b"]


@needs_llama
def test_the_same_seed_gives_both_formats_the_same_words(pair: Pair) -> None:
    answers = {
        seed: [
            generate(open_reader(pair, runtime), PROMPT, tokens=20, temperature=0.8, seed=seed).tokens
            for runtime in ("causal", "gguf")
        ]
        for seed in (1, 2)
    }
    assert answers[1][0] == answers[1][1] != answers[2][0] == answers[2][1]


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    drawn = [choose(logits, 1.0, seed, step) for seed in range(60) for step in range(50)]
    np.testing.assert_allclose(np.bincount(drawn) / 3000, [0.6, 0.3, 0.1], atol=0.035)
    cold = [choose(logits, 0.5, seed, 0) for seed in range(3000)]
    np.testing.assert_allclose(np.bincount(cold) / 3000, np.array([36, 9, 1]) / 46, atol=0.035)
    assert choose(logits, 0.0, 5, 5) == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_does_not_fit_is_refused(pair: Pair, runtime: str) -> None:
    reader = open_reader(pair, runtime)
    with pytest.raises(InvalidOption, match="do not fit into 256"):
        generate(reader, PROMPT * 100, tokens=30)
    with pytest.raises(InvalidOption, match="temperature"):
        generate(reader, PROMPT, temperature=-1)
    reader.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_empty_prompt_begins_with_the_token_that_begins_texts(pair: Pair, runtime: str) -> None:
    reader = open_reader(pair, runtime)
    assert generate(reader, "", tokens=2).prompt_tokens == 1
    reader.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_chat_goes_through_the_models_template(pair: Pair, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = LanguageSession(open_reader(pair, runtime))
    monkeypatch.setattr(
        session.reader, "chat_template", "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    answer = session.chat([{"role": "user", "content": PROMPT}], tokens=5)
    assert answer.prompt_tokens == len(session.reader.encode(PROMPT)) + 1  # "<|end|>" is one token
    assert answer.as_dict()["tokens_per_s"] is None or answer.as_dict()["tokens_per_s"] > 0
    monkeypatch.setattr(session.reader, "chat_template", None)
    plain = session.chat([{"role": "user", "content": PROMPT}], tokens=5)
    assert plain.prompt_tokens == len(session.reader.encode(f"user: {PROMPT}\nassistant:"))
    session.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_template_that_hangs_is_stopped_and_the_session_goes_on(pair: Pair, runtime: str) -> None:
    session = LanguageSession(open_reader(pair, runtime), Renderer(timeout_s=0.5))
    session.reader.chat_template = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(UnsupportedModel, match=r"chat template failed: .* no answer within 500 ms"):
        session.chat([{"role": "user", "content": PROMPT}], tokens=2)
    assert session.generate(PROMPT, tokens=2).tokens
    session.close()


@needs_llama
def test_a_stopped_answer_can_be_read_again(pair: Pair, tmp_path: Path) -> None:
    session = LanguageSession(GgufReader(pair.gguf, 1))
    before = session.generate(PROMPT, tokens=10).tokens
    text = np.frombuffer(PROMPT.encode(), np.uint8)[None]
    inputs = {"text": text, "begin": np.array([0]), "end": np.array([text.size]), "context": np.array([64])}
    cost = session.answer(inputs)
    assert session.generate(PROMPT, tokens=10).tokens == before
    np.testing.assert_array_equal(session.answer(inputs), cost)
    session.close()
