"""Chat templates: a conversation as the text that a model was trained on. The template is a program from a stranger.

It runs in Jinja's sandbox, with the few filters that templates use, and with an allowance of steps and characters.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import UnsupportedModel, first_line

Message = Mapping[str, Any]  # "role": "system", "user" or "assistant"; "content": text
LARGEST_TEMPLATE = 200_000  # characters
LARGEST_TEXT = 1_000_000
MOST_STEPS = 100_000  # of all loops and calls together
MOST_CHARACTERS = 50_000_000  # that it makes and looks through, of all texts together
STEPS, JOINED, CUT = "microbudget_steps", "microbudget_joined", "microbudget_cut"  # filters that we put into templates
FAILURES = (  # of a template that is wrong, or that the sandbox stops
    jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "join",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round",
    "safe", "select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique", "upper",
)  # fmt: skip
PLAIN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


class _Allowance:
    """What a template may still do: steps of loops and calls, and characters and items that it makes or looks through.

    Without it a text that is doubled, a macro that calls itself twice or a loop in a loop would go on for years.
    """

    def __init__(self) -> None:
        self._steps, self._characters = MOST_STEPS, MOST_CHARACTERS

    def step(self, count: int = 1) -> None:
        """Take so many steps."""
        self._steps -= count
        if self._steps < 0:
            raise jinja2.exceptions.SecurityError(f"it loops more than {MOST_STEPS} times")

    def handle(self, *values: Any) -> None:
        """Make values or look through them. An item of a list counts as eight characters."""
        for value in values:
            if isinstance(value, (str, bytes)):
                self.take(len(value))
            elif isinstance(value, (list, tuple, dict, set)):
                self.take(8 * len(value))

    def take(self, characters: int) -> None:
        """Make so many characters."""
        self._characters -= characters
        if self._characters < 0:
            raise jinja2.exceptions.SecurityError(f"it handles more than {MOST_CHARACTERS} characters")


class _Generation(Extension):
    """{% generation %} marks for training what the model says itself; here its inside is text like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The inside alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox without what makes long texts of short ones, and with an allowance for everything else."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, allowance: _Allowance) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS)
        self._allowance = allowance
        self.concat = self._joined  # type: ignore[method-assign]  # of what blocks and macros write
        kept = {name: self._paid(call) for name, call in self.filters.items() if name in FILTERS}
        more = {"tojson": self._paid(_to_json), STEPS: self._steps, JOINED: self._joined, CUT: self._cut}
        self.filters = {**kept, **more, "join": self._join, "replace": self._replace}
        self.globals = {"range": self._range, "namespace": self.globals["namespace"], "dict": dict}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers may be multiplied; a text times a number could fill the memory."""
        if operator == "+":
            self._allowance.handle(left, right)
            return left + right
        if operator == "*" and all(isinstance(side, (int, float)) and abs(side) < 1e9 for side in (left, right)):
            return left * right
        if operator == "%" and isinstance(left, int):
            return left % right
        raise jinja2.exceptions.SecurityError(f"{type(left).__name__} {operator} {type(right).__name__}")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the sandbox has it, and without the methods of texts that pad."""
        padding = isinstance(obj, str) and attr in ("center", "ljust", "rjust", "zfill", "expandtabs", "format")
        return not padding and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call is a step, and what goes in and comes out is handled."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._allowance.step()
        if isinstance(owner, str) and name in ("replace", "join", "translate", "format_map"):
            if name == "join":
                return __self._join(args[0], owner)
            if name == "replace":
                return __self._replace(owner, *args)
            raise jinja2.exceptions.SecurityError(f"no template needs {name}")
        __self._allowance.handle(owner, *args)
        made = super().call(__context, __obj, *args, **kwargs)
        __self._allowance.handle(made)
        return made

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Loops, slices and `~` go through filters, since Jinja compiles them to Python that asks nobody."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.exceptions.SecurityError("it has a recursive loop")
            loop.iter = _through(STEPS, loop.iter)
        _replaced(tree)
        return tree

    def _paid(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose input and result are handled."""

        @functools.wraps(call)
        def paid(*args: Any, **kwargs: Any) -> Any:
            self._allowance.handle(*args)
            made = call(*args, **kwargs)
            self._allowance.handle(made)
            return made

        return paid

    def _steps(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._allowance.step()
            yield item

    def _joined(self, parts: Iterable[Any]) -> str:
        return self._join(parts)

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        """The filter `join`, and str.join."""
        texts = []
        for part in value:
            texts.append(str(part if attribute is None else self.getitem(part, attribute)))
            self._allowance.take(len(texts[-1]) + len(d) + 1)
        return str(d).join(texts)

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        """The filter `replace`, and str.replace."""
        whole, most = str(text), str(text).count(old) if count < 0 else count
        self._allowance.take(len(whole) + max(0, most) * len(str(new)))
        return whole.replace(old, str(new), count)

    def _cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        made = value[start:stop:step]
        self._allowance.handle(made)
        return made

    def _range(self, *bounds: int) -> range:
        """`range`, for so many steps in all."""
        steps = range(*bounds)
        self._allowance.step(max(1, len(steps)))
        return steps


EXTENSIONS = ("jinja2.ext.loopcontrols", _Generation)


def _through(name: str, node: Any, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _replaced(parent: nodes.Node) -> None:
    """Put filters in the place of slices and of `~`, everywhere below a node."""
    for field, value in parent.iter_fields():
        if isinstance(value, nodes.Node):
            _replaced(value)
            setattr(parent, field, _replacement(value))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, nodes.Node):
                    _replaced(item)
            value[:] = [_replacement(item) for item in value]


def _replacement(node: Any) -> Any:
    if isinstance(node, nodes.Concat):
        return _through(JOINED, nodes.List(node.nodes, lineno=node.lineno))
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        nothing = nodes.Const(None, lineno=node.lineno)
        return _through(CUT, node.node, *(nothing if bound is None else bound for bound in bounds))
    return node


def render(template: str, messages: Sequence[Message], begin: str = "", end: str = "", *, answer: bool = True) -> str:
    """The conversation as text, by default with what begins the model's answer.

    begin, end: the texts of the tokens that begin and end a text. Raises UnsupportedModel for a template that does not
    parse, refuses the conversation, or does what no template needs.
    """
    if len(template) > LARGEST_TEMPLATE:
        raise UnsupportedModel(f"the chat template has {len(template)} characters: that is no template")
    try:
        parts = (
            _Sandbox(_Allowance())
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
    except FAILURES as error:
        raise UnsupportedModel(f"the model's chat template failed: {first_line(error)}") from error


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


def _to_json(value: Any, indent: int | None = None, **_more: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(8, int(indent)))


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern[:100])
