"""Chat templates: a conversation as the text that a model was trained on. The template is a program from a stranger.

It runs in Jinja's sandbox, with the few filters that templates use, and with bounds on what it may write and repeat.
What then is left is a template that doubles a text until the memory is full: workers have limits for that.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import UnsupportedModel

Message = Mapping[str, Any]  # "role": "system", "user" or "assistant"; "content": text
LARGEST_TEMPLATE = 200_000  # characters
LARGEST_TEXT = 1_000_000
MOST_STEPS = 100_000  # of all `range` loops together
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round",
    "safe", "select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique", "upper",
)  # fmt: skip
PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox without what makes long texts of short ones."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers may be multiplied; a text times a number could fill the memory."""
        if operator == "*" and all(isinstance(side, (int, float)) and abs(side) < 1e9 for side in (left, right)):
            return left * right
        if operator == "%" and isinstance(left, int):
            return left % right
        raise jinja2.exceptions.SecurityError(f"{type(left).__name__} {operator} {type(right).__name__}")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the sandbox has it, and without the methods of texts that pad."""
        padding = isinstance(obj, str) and attr in ("center", "ljust", "rjust", "zfill", "expandtabs", "format")
        return not padding and super().is_safe_attribute(obj, attr, value)


def render(template: str, messages: Sequence[Message], begin: str = "", end: str = "", *, answer: bool = True) -> str:
    """The conversation as text, by default with what begins the model's answer.

    begin, end: the texts of the tokens that begin and end a text. Raises UnsupportedModel for a template that does not
    parse, refuses the conversation, or does what no template needs.
    """
    if len(template) > LARGEST_TEMPLATE:
        raise UnsupportedModel(f"the chat template has {len(template)} characters: that is no template")
    try:
        parts = (
            _sandbox()
            .from_string(template)
            .generate(
                messages=[dict(message) for message in messages],
                bos_token=begin,
                eos_token=end,
                add_generation_prompt=answer,
                tools=None,
            )
        )
        return "".join(_bounded(parts))
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedModel(f"the model's chat template failed: {reason}") from error


def last_answer(template: str | None, messages: Sequence[Message], begin: str = "", end: str = "") -> tuple[str, str]:
    """What stands before the last message, which is the assistant's, and that message as the template writes it.

    The second has what ends a turn too. template: None for a plain one. Raises what `render` raises.
    """
    prompt = render(template or PLAIN, messages[:-1], begin, end, answer=True)
    whole = render(template or PLAIN.removesuffix("assistant:"), messages, begin, end, answer=False)
    return prompt, whole[len(prompt) :] if whole.startswith(prompt) else str(messages[-1]["content"])


def _bounded(parts: Iterator[str]) -> Iterator[str]:
    length = 0
    for part in parts:
        length += len(part)
        if length > LARGEST_TEXT:
            raise jinja2.exceptions.SecurityError(f"it wrote more than {LARGEST_TEXT} characters")
        yield part


def _sandbox() -> _Sandbox:
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=("jinja2.ext.loopcontrols",))
    sandbox.filters = {name: call for name, call in sandbox.filters.items() if name in FILTERS}
    sandbox.filters["tojson"] = _to_json
    sandbox.globals = {"range": _Steps(), "namespace": sandbox.globals["namespace"], "dict": dict}
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["strftime_now"] = _now
    return sandbox


class _Steps:
    """`range`, for so many steps in all."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def __call__(self, *bounds: int) -> range:
        steps = range(*bounds)
        self._left -= max(1, len(steps))
        if self._left < 0:
            raise jinja2.exceptions.SecurityError(f"it loops more than {MOST_STEPS} times")
        return steps


def _to_json(value: Any, indent: int | None = None, **_more: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(8, int(indent)))


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern[:100])
