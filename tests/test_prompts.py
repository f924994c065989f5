"""Prompts from files and by default, what models write, and how the report sets their answers side by side."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import BadData, InvalidOption, WorkerFailed
from microbudget.kinds.language_modelling.prompts import (
    BEGINNING,
    CONTINUED,
    MOST,
    QUESTIONS,
    Prompt,
    choose,
    read_prompts,
)
from microbudget.kinds.language_modelling.search_space import LEVELS, level
from microbudget.kinds.language_modelling.text import TextTask
from microbudget.kinds.language_modelling.writing import Written, answers_questions, write
from microbudget.recipes.recipe import Recipe
from microbudget.report.words import compare


def test_a_line_is_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("Why?\n\n  def f(x):\nWo steht Köln?\n", encoding="utf-8")
    assert read_prompts(path) == ("Why?", "  def f(x):", "Wo steht Köln?")


def test_json_lines_hold_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"def f(x):\\n    "\n{"prompt": "Why?"}\n', encoding="utf-8")
    assert read_prompts(path) == ("def f(x):\n    ", "Why?")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "holds 0 prompts: give 1 to 64"),
        ("a.txt", b"\n \n", "holds 0 prompts"),
        ("a.txt", b"a\n" * (MOST + 1), "holds 65 prompts"),
        ("a.txt", b"a\0b\n", "is binary"),
        ("a.txt", b"\xe4\n", "is not UTF-8"),
        ("a.txt", b"\xff\xfea\0", "is UTF-16"),
        ("a.txt", b"a" * (1 << 21), "has 2,097,152 bytes"),
        ("a.csv", b"a\n", "one a line, or from a .jsonl"),
        ("a.jsonl", b"Why?\n", "line 1 is no JSON"),
        ("a.jsonl", b'"ok"\n{"text": "Why?"}\n', "line 2 has no text: give"),
        ("a.jsonl", b"[1]\n", "line 1 has no text: give"),
        ("a.jsonl", b'""\n', "line 1 has no text: give"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadData, match=says):
        read_prompts(path)


def test_only_ends_of_lines_end_a_prompt(tmp_path: Path) -> None:
    for name, content in (("a.txt", "a\u2028b\u0085c\r\nd"), ("a.jsonl", '"a\u2028b\u0085c"\r\n"d"')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read_prompts(tmp_path / name) == ("a\u2028b\u0085c", "d")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there are no prompts at"):
        read_prompts(tmp_path / "none.txt")


def test_a_base_model_continues_held_out_text_and_a_chat_model_is_asked(tmp_path: Path) -> None:
    source = inspect.getsource(textwrap) * 3
    (tmp_path / "a.txt").write_text(source, encoding="utf-8")
    task = TextTask.open(tmp_path / "a.txt")
    held_out = "\n".join(task.text(example) for example in task.examples("validation"))
    chosen = choose(None, False, task)
    assert len(chosen) == min(CONTINUED, len(task.examples("validation")))
    for prompt in chosen:
        assert not prompt.chat
        assert prompt.text in held_out
        assert BEGINNING // 3 < len(prompt.text.encode()) <= BEGINNING
    assert choose(None, True, task) == tuple(Prompt(text, True) for text in QUESTIONS)
    assert choose(("a",), True, task) == (Prompt("a", True),)
    assert choose(("a",), False, task) == (Prompt("a", False),)


class FakeWorker:
    """A worker whose model gives these answers."""

    def __init__(self, *answers: Any, context: int = 512, chats: bool = False) -> None:
        self.answers, self.context, self.chats = list(answers), context, chats
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, _request: str, method: str, arguments: dict[str, Any]) -> Any:
        if method == "about":
            return {"chats": self.chats, "trained_context_tokens": self.context}
        self.asked.append((method, arguments))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(text=answer, tokens=(1, 2), ended=True)


PROMPTS = (Prompt("a", False), Prompt("b", True), Prompt("c", False))


def test_every_prompt_is_asked_in_its_way_with_the_same_noise() -> None:
    worker = FakeWorker("x", "y", "z", context=100)
    assert write(worker, PROMPTS, 7) == [Written(text, 2, True) for text in "xyz"]  # type: ignore[arg-type]
    assert [method for method, _ in worker.asked] == ["generate", "chat", "generate"]
    assert worker.asked[1][1]["messages"] == [{"role": "user", "content": "b"}]
    # a quarter of a short context
    assert {(options["tokens"], options["seed"]) for _, options in worker.asked} == {(25, 7)}
    assert not answers_questions(worker)  # type: ignore[arg-type]


def test_a_prompt_that_fails_does_not_hide_the_others_and_a_crash_ends_it() -> None:
    found = write(FakeWorker(InvalidOption("too long"), "y", WorkerFailed("died")), PROMPTS, 0)  # type: ignore[arg-type]
    assert [answer.failure for answer in found] == ["too long", None, "died"]
    crashed = write(FakeWorker("x", WorkerFailed("died")), PROMPTS, 0)  # type: ignore[arg-type]
    assert [answer.failure for answer in crashed] == [None, "died", "died"]


@pytest.mark.parametrize(
    ("reference", "text", "marked", "same"),
    [
        ("a b c", "a b c", "a b c", 1),
        ("a b c", "a x c", "a [x] c", 2 / 3),
        ("a b c", "a x y c", "a [x y] c", 1 / 2),
        ("a b", "a b\n  c", "a b\n  [c]", 2 / 3),
        ("", "a b", "[a b]", 0),
        ("a", "", "", 0),
        ("the sights of Florence", "sights of Rome the", "sights of [Rome the]", 1 / 2),
    ],
)
def test_words_that_differ_are_marked(reference: str, text: str, marked: str, same: float) -> None:
    pieces, share = compare(reference, text)
    assert "".join(f"[{piece.text}]" if piece.differs else piece.text for piece in pieces) == marked
    assert share == pytest.approx(same)


@given(st.text("ab \n", max_size=40), st.text("ab \n", max_size=40))
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_text(reference: str, text: str) -> None:
    pieces, share = compare(reference, text)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text.split() for piece in pieces if piece.differs)
    kept = [word for piece in pieces if not piece.differs for word in piece.text.split()]
    rest = iter(reference.split())
    assert all(word in rest for word in kept)  # in the reference's order
    assert 0 <= share <= 1


def test_recipes_are_named_by_their_level() -> None:
    for name in LEVELS:
        assert level(Recipe.parse(f"export(format='gguf') > quantize(type='{name}')")) == name
    assert level(Recipe.parse("quantize(type='Q2_K')")) == "Q2_K"
    assert level(Recipe.parse("export(format='gguf') > quantize(bits=4)")) == "Q4_K_M"
    assert level(Recipe.parse("export(format='gguf', dtype='bfloat16')")) == "BF16"
    assert level(Recipe.parse("export() > quantize()")) is None
    assert level(Recipe.parse("export()")) is None


def test_what_is_kept_is_json() -> None:
    assert json.loads(json.dumps([Written("x").as_dict(), Prompt("a", True).as_dict()]))[1]["chat"]
