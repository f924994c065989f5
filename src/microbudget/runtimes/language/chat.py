"""Chat templates: a conversation as the text that a model was trained on. The template is a program from a stranger.

It runs in Jinja's sandbox, with the few filters that templates use, and with an allowance of steps and characters.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ...errors import UnsupportedModel, first_line

Message = Mapping[str, Any]  # "role": "system", "user" or "assistant"; "content": text
LARGEST_TEMPLATE = 200_000  # characters
LARGEST_TEXT = 1_000_000
MOST_STEPS = 100_000  # of all loops and calls together
MOST_CHARACTERS = 50_000_000  # that it makes and looks through, of all texts together
ITEM, VISITED = 8, 32  # characters that an item of a list counts as, and one that is looked into
LARGEST_SUM, LARGEST_FACTOR = 1e18, 1e9  # numbers beyond these are not added or multiplied
# Filters that we put into templates, since Jinja compiles these to Python that asks nobody.
STEPS, JOINED, CUT, MADE, KEY, COMPARED = (
    f"microbudget_{name}" for name in ("steps", "joined", "cut", "made", "key", "compared")
)
SHALLOW = (  # filters that look at a list and not into what is in it
    "abs", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr",
    "reverse", "select", "selectattr",
)  # fmt: skip
DEEP = ("capitalize", "e", "escape", "float", "int", "lower", "safe", "string", "title", "trim", "upper")
SORTING = ("dictsort", "max", "min", "sort", "unique")
COMPARING = (  # tests
    "==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan", ">=", "ge", "in",
    "lower", "upper",
)  # fmt: skip
_LOOP = (
    "changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem",
    "revindex", "revindex0",
)  # fmt: skip
# All that a template may ask of a value; what pads, encodes or formats makes long texts of short ones.
ATTRIBUTES: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (
        str,
        frozenset((
            "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal",
            "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition",
            "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split",
            "splitlines", "startswith", "strip", "swapcase", "title", "upper",
        )),
    ),
    (dict, frozenset(("get", "items", "keys", "values"))),
    ((list, tuple), frozenset(("count", "index"))),
    (LoopContext, frozenset(_LOOP)),
)  # fmt: skip
_PLAIN = (str, int, float, type(None), jinja2.Undefined)
_END = object()
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
        """Make values or look through them, but not into what is in them."""
        for value in values:
            if isinstance(value, str):
                self.text(value)
            elif isinstance(value, (list, tuple, dict)):
                self.take(ITEM * len(value))

    def text(self, value: str) -> None:
        """Make a text or look through it."""
        if len(value) > LARGEST_TEXT:
            raise jinja2.exceptions.SecurityError(f"it makes a text of more than {LARGEST_TEXT} characters")
        self.take(len(value))

    def nest(self, *values: Any) -> None:
        """Put values into another one: a list that holds itself twice, again and again, holds more than any memory."""
        for _depth, _value in _walk(values):
            self.take(VISITED)

    def compare(self, *values: Any) -> None:
        """Look through values with all that is in them."""
        for _depth, value in _walk(values):
            self.take(VISITED)
            if isinstance(value, str):
                self.text(value)

    def spell(self, *values: Any) -> None:
        """Write values down, each item indented. Raises SecurityError for what is no text, number, list or dict."""
        for depth, value in _walk(values):
            self.take(VISITED * depth)
            if isinstance(value, str):
                self.text(value)
            elif not isinstance(value, (*_PLAIN, *_CONTAINERS)):
                raise jinja2.exceptions.SecurityError(f"it writes a {type(value).__name__}")

    def take(self, characters: int) -> None:
        """Make so many characters."""
        self._characters -= characters
        if self._characters < 0:
            raise jinja2.exceptions.SecurityError(f"it handles more than {MOST_CHARACTERS} characters")


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, *_VIEWS)


def _walk(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """All values with what is in them, and how deep each lies; whoever asks for them pays for each."""
    levels = [iter(values)]
    while levels:
        value = next(levels[-1], _END)
        if value is _END:
            levels.pop()
            continue
        yield len(levels), value
        if isinstance(value, dict):
            levels.append(itertools.chain(value.keys(), value.values()))
        elif isinstance(value, _CONTAINERS):
            levels.append(iter(value))


class _Generation(Extension):
    """{% generation %} marks for training what the model says itself; here its inside is text like any other."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The inside alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox without what makes long texts of short ones, and with an allowance for everything else."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self, allowance: _Allowance) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS, finalize=self._written)
        self._allowance = allowance
        self.concat = self._joined  # type: ignore[method-assign]  # of what blocks and macros write
        kept: dict[str, Callable[..., Any]] = {}
        for names, pay in ((SHALLOW, allowance.handle), (DEEP, allowance.spell)):
            kept |= {name: self._paid(self.filters[name], pay) for name in names}
        kept |= {name: self._sorting(self.filters[name]) for name in SORTING}
        made = {STEPS: self._steps, JOINED: self._joined, CUT: self._cut, MADE: self._made, KEY: _key}
        made[COMPARED] = self._compared
        own = {"join": self._join, "replace": self._replace, "tojson": self._paid(_to_json, allowance.spell)}
        self.filters = {**kept, **made, **own}
        tests: dict[str, Any] = self.tests
        del tests["divisibleby"]
        tests |= {name: self._paid(tests[name], allowance.compare) for name in COMPARING}
        self.globals = {"range": self._range, "namespace": self.globals["namespace"], "dict": dict}
        self.globals |= {"raise_exception": self._refuse, "strftime_now": _now}

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        """Small numbers may be reckoned with, texts and lists added; a text times a number could fill the memory."""
        if all(isinstance(side, (int, float)) for side in (left, right)):
            largest = LARGEST_FACTOR if operator == "*" else LARGEST_SUM
            if operator != "**" and all(abs(side) < largest for side in (left, right)):
                return self.binop_table[operator](left, right)
        elif operator == "+":
            self._allowance.handle(left, right)
            return left + right
        raise jinja2.exceptions.SecurityError(f"{type(left).__name__} {operator} {type(right).__name__}")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """What chat templates ask of texts, lists, dicts and loops, and what they keep in namespaces."""
        if isinstance(obj, Namespace):
            return super().is_safe_attribute(obj, attr, value)
        return any(isinstance(obj, kind) and attr in names for kind, names in ATTRIBUTES)

    def wrap_str_format(self, value: Any) -> None:
        """No method `format`, not even Jinja's: a field can ask for any width."""
        del value

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As the sandbox has it, for keys that are texts or numbers."""
        return super().getitem(obj, _key(argument))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call is a step, and what goes in and comes out is handled."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._allowance.step()
        if isinstance(owner, str) and name == "join":
            return __self._join(args[0], owner)
        if isinstance(owner, str) and name == "replace":
            return __self._replace(owner, *args)
        __self._allowance.nest(args, kwargs)
        __self._allowance.handle(owner, *args)
        if isinstance(owner, (list, tuple, LoopContext)):  # which look for a value among theirs
            __self._allowance.compare(owner, *args)
        made = super().call(__context, __obj, *args, **kwargs)
        __self._allowance.handle(made)
        return made

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """What Jinja compiles to Python that asks nobody goes through filters: loops, slices, `~`, lists, `==`."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.exceptions.SecurityError("it has a recursive loop")
            loop.iter = _through(STEPS, loop.iter)
        _replaced(tree)
        return tree

    def _paid(self, call: Callable[..., Any], pay: Callable[..., None]) -> Callable[..., Any]:
        """A filter or test whose input and result are paid for. Some get the environment before their input."""
        first = 1 if hasattr(call, "jinja_pass_arg") else 0

        @functools.wraps(call)
        def paid(*args: Any, **kwargs: Any) -> Any:
            pay(*args[first:], *kwargs.values())
            made = call(*args, **kwargs)
            self._allowance.handle(made)
            return made

        return paid

    def _sorting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that compares each item with as many others as the number of items has binary digits."""
        first = 1 if hasattr(call, "jinja_pass_arg") else 0

        @functools.wraps(call)
        def paid(*args: Any, **kwargs: Any) -> Any:
            items = list(self._steps(args[first])) if isinstance(args[first], Iterator) else args[first]
            for _ in range(len(items).bit_length()):
                self._allowance.compare(items)
            made = call(*args[:first], items, *args[first + 1 :], **kwargs)
            self._allowance.handle(made)
            return made

        return paid

    def _written(self, value: Any) -> Any:
        """What `{{ value }}` writes."""
        self._allowance.spell(value)
        return value

    def _made(self, value: Any) -> Any:
        """A list, tuple or dict that stands in the template."""
        self._allowance.nest(value)
        return value

    def _compared(self, value: Any) -> Any:
        """One side of `==`, `<` or `in`."""
        if isinstance(value, Iterator):
            return self._steps(value)
        self._allowance.compare(value)
        return value

    def _refuse(self, message: Any) -> NoReturn:
        """`raise_exception`."""
        self._allowance.spell(message)
        raise jinja2.TemplateError(str(message))

    def _steps(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._allowance.step()
            yield item

    def _joined(self, parts: Iterable[Any]) -> str:
        return self._join(parts)

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        """The filter `join`, and str.join."""
        texts = []
        self._allowance.spell(d)
        for part in value:
            chosen = part if attribute is None else self.getitem(part, attribute)
            self._allowance.spell(chosen)
            texts.append(str(chosen))
            self._allowance.take(len(str(d)) + 1)
        return str(d).join(texts)

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        """The filter `replace`, and str.replace."""
        self._allowance.spell(text, old, new)
        whole, most = str(text), str(text).count(old) if count < 0 else count
        self._allowance.take(max(0, most) * len(str(new)))
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
    """Put filters in the place of what asks nobody, everywhere below a node."""
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
    if isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _through(MADE, node)
    if isinstance(node, nodes.Pair):
        node.key = _through(KEY, node.key)
    if isinstance(node, nodes.Compare):
        node.expr = _through(COMPARED, node.expr)
    if isinstance(node, nodes.Operand):
        node.expr = _through(COMPARED, node.expr)
    return node


def _key(value: Any) -> Any:
    """A key of a dict, or a place in a list: what is quickly found."""
    if not isinstance(value, _PLAIN):
        raise jinja2.exceptions.SecurityError(f"{type(value).__name__} as a key")
    return value


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
    except Exception as error:  # Python's compiler and whatever a template calls raise many kinds
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


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern[:100])
