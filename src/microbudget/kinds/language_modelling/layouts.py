"""A row of conversations as messages, whichever of the usual layouts it has.

OpenAI's `messages`, ShareGPT's `conversations`, Alpaca's `instruction` and `output`, and pairs such as `prompt` and
`completion`. What is no text, such as null or a picture, is an error: its Python form must never be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import BadData

Message = dict[str, str]
ROLES = ("system", "user", "assistant")
ROLE_NAMES: Mapping[str, str] = {  # as data sets write them
    **{role: role for role in ROLES},
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TALKS = ("messages", "conversations", "conversation")
PAIRS = tuple(
    (asked, answer) for asked in ("prompt", "question", "query") for answer in ("completion", "response", "answer")
)
INSTRUCTED = (("instruction", "input", "output"), ("instruction", "context", "response"))  # Alpaca, Dolly
SYSTEM = ("system", "system_prompt")
COLUMNS_OF_A_ROW = (*((key,) for key in TALKS), *((asked, answer) for asked, _, answer in INSTRUCTED), *PAIRS)
WANTED = '{"messages": [{"role": ..., "content": ...}]}'
OTHERS = (
    'read as well are {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]},'
    ' {"instruction": ..., "input": ..., "output": ...} and {"prompt": ..., "completion": ...}'
)


def messages(row: Any, where: str) -> tuple[Message, ...]:
    """The messages of a row, up to the assistant's last. where: of the row, for errors. Raises BadData."""
    if not isinstance(row, dict):
        raise BadData(f"{where} is no {WANTED}, but {_kind(row)}; {OTHERS}")
    found = _messages(row, where)
    answers = [place for place, message in enumerate(found) if message["role"] == "assistant"]
    if not answers:
        raise BadData(f"{where} has no message of the role assistant: there is nothing to learn or judge")
    if not found[answers[-1]]["content"].strip():
        raise BadData(f"{where} ends with an empty answer: there is nothing to learn or judge; leave that row out")
    return tuple(found[: answers[-1] + 1])


def _messages(row: dict[str, Any], where: str) -> list[Message]:
    system = next((row[key] for key in SYSTEM if row.get(key)), None)
    first = [_message("system", system, f"{where}, system")] if system else []
    for key in TALKS:
        if row.get(key) is not None:
            talk = _talk(row[key], f"{where}, {key}")
            return talk if talk[0]["role"] == "system" else [*first, *talk]
    for instruction, context, answer in INSTRUCTED:
        if row.get(instruction) is not None and answer in row:
            first += _earlier(row.get("history"), where)
            return [*first, *_instructed(row, (instruction, context, answer), where)]
    for prompt, answer in PAIRS:
        if row.get(prompt) is not None and answer in row:
            parts = ((prompt, "user"), (answer, "assistant"))
            return [*first, *(one for key, role in parts for one in _said(row[key], role, f"{where}, {key}"))]
    has = ", ".join(map(repr, list(row)[:6])) or "nothing"
    plain = ": a text that is no conversation is read from a .txt file" if "text" in row else ""
    raise BadData(f"{where} is no {WANTED}; it has {has}{plain}; {OTHERS}")


def _talk(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadData(f"{where} must be a list of messages, not {_kind(value)}")
    found = []
    for number, each in enumerate(value, 1):
        place = f"{where}, message {number}"
        if not isinstance(each, dict):
            raise BadData(f"{place} is {_kind(each)}, not an object with a role and a content")
        role, content = ("from", "value") if "from" in each and "role" not in each else ("role", "content")
        if role not in each or content not in each:
            raise BadData(f"{place} is no {WANTED}: it has no {(role if role not in each else content)!r}")
        if each.get("tool_calls") or each.get("function_call"):
            raise BadData(f"{place} calls tools, which are not read: leave such conversations out")
        found.append(_message(each[role], each[content], place))
    return found


def _said(value: Any, role: str, where: str) -> list[Message]:
    """A text in a role, or the messages themselves."""
    if isinstance(value, list) and all(isinstance(each, dict) and ("role" in each or "from" in each) for each in value):
        return _talk(value, where)
    return [_message(role, value, where)]


def _instructed(row: dict[str, Any], names: tuple[str, str, str], where: str) -> list[Message]:
    """The instruction, and in the next line what it is about."""
    instruction, context, answer = names
    asked = _text(row[instruction], f"{where}, {instruction}")
    if row.get(context):
        asked += "\n" + _text(row[context], f"{where}, {context}")
    return [_message("user", asked, where), _message("assistant", row[answer], f"{where}, {answer}")]


def _earlier(history: Any, where: str) -> list[Message]:
    """Pairs of earlier instructions and answers."""
    if not history:
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise BadData(f"{where}, history must be a list of pairs [instruction, answer]")
    place = f"{where}, history"
    return [
        _message(role, text, place) for pair in history for role, text in zip(ROLES[1:], pair, strict=True)
    ]  # fmt: skip


def _message(role: Any, content: Any, where: str) -> Message:
    known = ROLE_NAMES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise BadData(f"{where} has a role {role!r}; there are {', '.join(ROLE_NAMES)}")
    return {"role": known, "content": _text(content, where)}


def _text(value: Any, where: str) -> str:
    """A text, or the texts of its parts: [{"type": "text", "text": ...}, ...]."""
    if isinstance(value, list):
        return "".join(_part(part, f"{where}, part {number}") for number, part in enumerate(value, 1))
    if not isinstance(value, str):
        raise BadData(f"{where} has {_kind(value)} in place of a text: give the text, or leave that row out")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadData(f"{where} holds half of a surrogate pair, which is no character: {error.reason}") from error
    return value


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict):
        kind = part.get("type", "text")
        if kind not in ("text", "input_text", "output_text"):
            raise BadData(f"{where} is of the type {kind!r}; only parts of the type 'text' are read")
        return _text(part.get("text"), where)
    return _text(part, where)


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")
