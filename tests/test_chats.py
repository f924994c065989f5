"""Conversations as data: what is read, what is learnt, what is judged, and lines that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microbudget import cli
from microbudget.errors import BadData
from microbudget.kinds.language_modelling import layouts
from microbudget.kinds.language_modelling import search_space as ladder
from microbudget.kinds.language_modelling.chats import ChatTask
from microbudget.kinds.language_modelling.network import KIND
from microbudget.kinds.language_modelling.task import LanguageTask
from microbudget.kinds.language_modelling.token_rows import conversation_rows, token_rows
from microbudget.methods import Context
from microbudget.methods.lora import Lora
from microbudget.recipes.build import build_step
from microbudget.runtimes import open_session
from microbudget.runtimes.hf import causal
from microbudget.runtimes.language.chat import PLAIN, last_answer
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, open_data
from microbudget.training.next_tokens import IGNORED
from quick import QUICK
from toy_language_models import train_byte_level, write_network
from toy_pair import needs_llama


def write(path: Path, conversations: list[list[tuple[str, str]]]) -> Path:
    rows = [{"messages": [{"role": role, "content": content} for role, content in one]} for one in conversations]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = [[("user", f"what is {n} plus one?"), ("assistant", f"it is {n + 1}, I think")] for n in range(40)]
    said[0] = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "ok?"), ("assistant", "yes")]
    return write(tmp_path_factory.mktemp("chats") / "chats.jsonl", said)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models") / "llama"
    train_byte_level(found)
    write_network(found, "llama")
    return found


def test_conversations_are_a_language_task(chats: Path) -> None:
    task = open_data(chats, KIND)
    assert isinstance(task, ChatTask)
    assert isinstance(task, LanguageTask)
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [28, 6, 6]
    assert open_data(chats, KIND).fingerprint == task.fingerprint
    seen = frozenset(example.key for example in task.examples("train"))
    judged = open_data(chats, KIND, DataOptions(splits=False, leave_out=seen))
    assert len(judged.examples("test")) == 12


def test_only_answers_are_learnt(chats: Path, folder: Path) -> None:
    task, tokenizer = ChatTask.open(chats), causal.load_tokenizer(folder)
    rows = token_rows(task, "train", tokenizer, 200)
    for tokens, targets, example in zip(rows.tokens, rows.targets, task.examples("train"), strict=True):
        learnt = tokens[targets != IGNORED]
        answers = "".join(m["content"] for m in task.conversation(example) if m["role"] == "assistant")
        assert torch.equal(learnt, targets[targets != IGNORED])
        assert tokenizer.decode(learnt) == answers  # the toy's template writes contents and nothing else


class OneEach:
    """A tokenizer of characters. `template` writes a conversation."""

    bos_token = eos_token = ""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(each) for each in text]}


def said(row: torch.Tensor) -> str:
    return "".join(chr(int(token)) for token in row if token not in (0, IGNORED))


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]


def test_what_a_row_has_no_room_for_is_reported() -> None:
    short, long = talk("a?", "yes"), talk("b" * 50, "never read")
    rows = conversation_rows([short, long], OneEach(None), 40)
    assert len(rows) == 1, "a conversation whose answers are all after the cut teaches nothing"
    assert said(rows.targets[0]) == " yes\n"
    assert rows.cut == pytest.approx(len(" never read\n") / len(" yes\n never read\n"))
    with pytest.raises(BadData, match="no answer of an assistant is in the first 40 tokens"):
        conversation_rows([long], OneEach(None), 40)


def test_a_folder_of_texts_and_conversations_is_neither(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "talks.jsonl").write_bytes(chats.read_bytes() if chats.is_file() else b"{}")
    (tmp_path / "more.txt").write_text("a text", encoding="utf-8")
    with pytest.raises(BadData, match=r"holds conversations \(talks.jsonl\) and text \(more.txt\)"):
        open_data(tmp_path, KIND)


def test_a_template_that_rewrites_earlier_turns_repeats_none() -> None:
    """As those do that leave out what was thought in earlier turns: these are read, and the last answer is learnt."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}A:{{ m.content.split('/')[-1] }};"
        "{% else %}{{ m.role[0] }}:{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    rows = conversation_rows([talk("one", "hm/first", "two", "ah/second")], OneEach(template), 200)
    assert said(rows.tokens[0]) == "u:one;A:first;u:two;a:ah/second;"
    assert said(rows.targets[0]) == "ah/second;"


def test_a_plain_template_goes_on_where_the_prompt_ends() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert last_answer(PLAIN, messages) == ("user: hi\nassistant:", " hello\n")


def test_the_answers_are_judged_and_get_better(chats: Path, folder: Path, tmp_path: Path) -> None:
    task = ChatTask.open(chats)
    context = Context(task, tmp_path / "cache", threads=1)
    given = load(folder)
    taught = build_step(given, Lora(rank=4, epochs=15, length=64), context, tmp_path / "s")
    examples = task.examples("test")
    found = []
    for model in (given, taught):
        outputs = open_session(model, threads=1).answer(task.collate(examples, {}))
        scores = task.score(outputs, examples)
        assert scores.denominator.tolist() == [
            len(task.conversation(each)[-1]["content"].encode()) for each in examples
        ]
        assert np.isfinite(task.loss(outputs, examples)).all()
        assert task.extra(outputs)["perplexity"] > 1
        found.append(scores.value)
    assert found[1] < 0.8 * found[0]
    assert open_session(given, threads=1).answer(task.sample(examples)).shape == (1, 2)


@pytest.mark.usefixtures("without_plots")
@needs_llama
def test_a_model_is_shrunk_onconversation_rows(
    chats: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the divergence from the reference, and its answers to what held-out users ask."""
    monkeypatch.setattr(ladder, "LEVELS", ("Q8_0",))
    out = tmp_path / "run"
    command = ["shrink", str(folder), "--data", str(chats), "--out", str(out), "--max-drop", "90%", "--threads", "1"]
    assert cli.main(command, durations=QUICK) == 0
    rows = [json.loads(line) for line in (out / "candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    (level,) = [row for row in rows if "Q8_0" in row["recipe"] and row["test"] is None]
    assert level["measurement"]["extra"]["kl"] > 0
    asked = json.loads((out / "prompts.json").read_text(encoding="utf-8"))["prompts"]
    task = ChatTask.open(chats, DataOptions(use="nothing"))
    said = {task.question(example) for example in task.examples("validation")}
    assert len(asked) == 4
    assert {prompt["text"] for prompt in asked} <= said
    assert "plus one?" in (out / "report.html").read_text(encoding="utf-8").partition('id="answers"')[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [{"role": "user", "content": null}]}', "messages, message 1 has null in place of a text"),
        ('{"messages": [{"role": "user", "content": 3}]}', "message 1 has a number in place of a text"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "message 1, part 1 is of the type 'image_url'; only parts of the type 'text' are read",
        ),
        ('{"messages": [{"role": "assistant", "content": null, "tool_calls": [1]}]}', "message 1 calls tools"),
        ('{"messages": [{"role": "assistant", "content": " "}]}', "line 1 ends with an empty answer"),
        (r'{"messages": [{"role": "assistant", "content": "\ud800"}]}', "half of a surrogate pair"),
        ('{"messages": null}', r"line 1 is no \{\"messages\""),
        ('{"messages": "x"}', "messages must be a list of messages, not a text"),
        ('{"messages": ["x"]}', "message 1 is a text, not an object"),
        ('{"conversations": [{"from": "robot", "value": "x"}]}', "has a role 'robot'"),
        ('{"conversations": [{"from": "human", "value": null}]}', "message 1 has null in place of a text"),
        ('{"instruction": "x", "output": ["y", null]}', "output, part 2 has null"),
        ('{"prompt": "x", "completion": null}', "completion has null in place of a text"),
        ("[1]", "line 1 is no .*, but a list"),
        ("[" * 100_000, "line 1 is no"),
        ("{", r"line 1 is no \{\"messages\""),
        ('{"text": "hi"}', r"line 1 is no \{\"messages\""),
        ('{"messages": [{"role": "user"}]}', r"line 1, messages, message 1 is no \{\"messages\".*it has no 'content'"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "message 1 has a role 'robot'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "has no message of the role assistant"),
        ("", "is empty"),
    ],
)
def test_lines_that_are_no_conversation(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(BadData, match=message):
        ChatTask.open(tmp_path / "bad.jsonl")


PLAIN_TALK = ({"role": "user", "content": "Why\u2028not?"}, {"role": "assistant", "content": "No\u0085 idea"})
LAYOUTS: list[dict[str, object]] = [
    {"messages": list(PLAIN_TALK)},
    {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in PLAIN_TALK]},
    {"messages": [{**m, "content": [m["content"][:2], {"text": m["content"][2:]}]} for m in PLAIN_TALK]},
    {"messages": [{**m, "tool_calls": None, "name": None} for m in PLAIN_TALK], "id": 3},
    {"messages": [*PLAIN_TALK, {"role": "user", "content": "thanks"}]},
    {
        "id": "x",
        "conversations": [
            {"from": "human", "value": PLAIN_TALK[0]["content"]},
            {"from": "gpt", "value": PLAIN_TALK[1]["content"]},
        ],
    },
    {"instruction": PLAIN_TALK[0]["content"], "input": "", "output": PLAIN_TALK[1]["content"]},
    {"prompt": PLAIN_TALK[0]["content"], "completion": PLAIN_TALK[1]["content"]},
    {"prompt": [PLAIN_TALK[0]], "completion": [PLAIN_TALK[1]]},
    {"question": PLAIN_TALK[0]["content"], "answer": PLAIN_TALK[1]["content"]},
]


@pytest.mark.parametrize("row", LAYOUTS)
@pytest.mark.parametrize("form", ["lines", "windows", "list"])
def test_the_usual_layouts_are_the_same_conversation(row: dict[str, object], form: str, tmp_path: Path) -> None:
    """With ends of lines that are none in JSON, and a byte order mark."""
    text = json.dumps(row, ensure_ascii=False)
    written = {"lines": f"{text}\n{text}\n", "windows": f"\ufeff{text}\r\n", "list": f"[{text},\n{text}]"}[form]
    path = tmp_path / ("chats.json" if form == "list" else "chats.jsonl")
    path.write_bytes(written.encode())
    for data in (path, tmp_path):
        task = open_data(data, KIND, DataOptions(splits=False))
        assert isinstance(task, ChatTask)
        examples = task.examples("test")
        assert len(examples) == (1 if form == "windows" else 2)
        assert all(task.conversation(example) == PLAIN_TALK for example in examples)


def test_an_instruction_has_its_input_history_and_system(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]], "system": "Be brief"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    task = ChatTask.open(tmp_path / "a.jsonl", DataOptions(splits=False))
    said = [(each["role"], each["content"]) for each in task.conversation(task.examples("test")[0])]
    asked = [("user", "Hi"), ("assistant", "Hello"), ("user", "Add\n1 2"), ("assistant", "3")]
    assert said == [("system", "Be brief"), *asked]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(content=JSON)
def test_what_is_learnt_is_text_of_the_row(content: object) -> None:
    """Any JSON value as a content is its own text, or refused: its Python form is never learnt."""
    try:
        (message,) = layouts.messages({"messages": [{"role": "assistant", "content": content}]}, "row")
    except BadData:
        return
    assert isinstance(content, str | list)
    assert message["content"] == (content if isinstance(content, str) else "".join(_texts(content)))


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value if isinstance(value, list) else [value["text"]] if isinstance(value, dict) else []
    return [text for part in parts for text in _texts(part)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-32-be"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt"):
        path = tmp_path / name
        path.write_bytes(json.dumps(LAYOUTS[0]).encode(encoding))
        with pytest.raises(BadData, match=f"is {encoding[:6].upper()}.*save it again with the encoding UTF-8"):
            open_data(path, KIND, DataOptions(splits=False))
