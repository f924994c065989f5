"""Chat templates: a conversation as the text that a model was trained on, rendered as transformers renders it.

A template is a program that comes with a model. Jinja's sandbox keeps it from the system, but not from looping for ever
or filling the memory: for that `renderer` runs these functions in a process that can be stopped.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ...errors import UnsupportedModel, what_it_said

Message = Mapping[str, Any]  # "role": "system", "user" or "assistant"; "content": text
LARGEST_TEMPLATE = 200_000  # characters
LARGEST_TEXT = 1_000_000  # characters of a rendered conversation
LONGEST_REASON = 300  # characters of an error


@dataclass(frozen=True)
class ChatTemplate:
    """A template in Jinja, and the texts of two tokens that it may use."""

    text: str
    bos_token: str = ""
    eos_token: str = ""

    @classmethod
    def of(cls, text: str | None, bos_token: str, eos_token: str) -> ChatTemplate:
        """The template of a model, or PLAIN for one that has none."""
        return cls(text, bos_token, eos_token) if text else PLAIN


# A line for each message.
PLAIN = ChatTemplate(
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def render(template: ChatTemplate, messages: Sequence[Message], *, answer: bool = True) -> str:
    """The conversation as text, by default with what begins the model's answer.

    Without a limit of time and memory: use `Renderer` for a template of somebody else. Raises UnsupportedModel for a
    template that does not parse, refuses the conversation, or does what the sandbox forbids.
    """
    if len(template.text) > LARGEST_TEMPLATE:
        raise UnsupportedModel(
            f"the chat template has {len(template.text)} characters; at most {LARGEST_TEMPLATE} are read"
        )
    try:
        parts = _compiled(template.text).generate(
            messages=[dict(message) for message in messages],
            bos_token=template.bos_token,
            eos_token=template.eos_token,
            add_generation_prompt=answer,
            tools=None,
            documents=None,
        )
        return "".join(_bounded(parts))
    except MemoryError as error:
        raise UnsupportedModel("the model's chat template failed: it ran out of memory") from error
    except Exception as error:  # Python's compiler and whatever a template calls raise many kinds
        raise UnsupportedModel(f"the model's chat template failed: {what_it_said(error)[:LONGEST_REASON]}") from error


def last_answer(template: ChatTemplate, messages: Sequence[Message]) -> tuple[str, str]:
    """The text before the last message, which is the assistant's, and that message as the template writes it.

    The second includes what ends a turn. Raises what `render` raises.
    """
    prompt = render(template, messages[:-1], answer=True)
    whole = render(template, messages, answer=False)
    return prompt, whole[len(prompt) :] if whole.startswith(prompt) else str(messages[-1]["content"])


def _bounded(parts: Iterator[str]) -> Iterator[str]:
    length = 0
    for part in parts:
        length += len(part)
        if length > LARGEST_TEXT:
            raise jinja2.TemplateError(f"it wrote more than {LARGEST_TEXT} characters")
        yield part


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which gives an empty value for what it forbids unless the template goes on with it."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once."""
        raise jinja2.exceptions.SecurityError(f"the attribute {attribute!r} of {type(obj).__name__} is forbidden")


class _Generation(Extension):
    """{% generation %} marks for training what the model itself says; here its inside is text like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """As a call block, like transformers: what is set inside does not change what is outside."""
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], inside).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore: they could reach Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}")


class _Dict:
    """`dict` as a function: the class has attributes that lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As dict.fromkeys."""
        return dict.fromkeys(*args)


@functools.lru_cache(maxsize=8)
def _compiled(text: str) -> jinja2.Template:
    sandbox = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=(_Generation, "jinja2.ext.loopcontrols"))
    sandbox.filters["tojson"] = _to_json
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": _Dict(), "namespace": _Namespace}
    return sandbox.from_string(text)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own filter writes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
