"""Ollama's prompt templates, derived from what a model's own chat template writes.

Ollama takes Go templates, models come with Jinja templates. The program is not translated: the Jinja template renders a
few conversations of marked texts, and the text between the marks becomes the Go template. It is kept only if it writes
the same as the original for conversations that were not used to derive it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import UnsupportedModel
from ...runtimes.language.chat import ChatTemplate, Message
from ...runtimes.language.renderer import Renderer

SYSTEM, USER, AGAIN, ANSWER = (f"\u27e6{word}\u27e7" for word in ("system", "user", "again", "answer"))
COMPLETION = "{{ .Prompt }}"  # for a model without a chat template
_DATED = re.compile(r"\b\d{1,2} [A-Z][a-z]{2,8} \d{4}\b|\b\d{4}-\d\d-\d\d\b")


@dataclass(frozen=True)
class PromptFormat:
    """One turn as text: what is before, between and after the system prompt, the user's prompt and the answer."""

    before_system: str
    after_system: str  # and before the prompt
    before_prompt: str  # where there is no system prompt
    after_prompt: str
    after_answer: str
    system: str = ""  # the template's own system prompt, where the user gives none
    takes_system: bool = True
    adds_begin: bool = False  # the runtime writes BOS before a text, and the model's own template does not

    def go(self) -> str:
        """The Go template."""
        first = (
            f"{{{{ if .System }}}}{_go(self.before_system)}{{{{ .System }}}}{_go(self.after_system)}"
            f"{{{{ else }}}}{_go(self.before_prompt)}{{{{ end }}}}"
            if self.takes_system
            else _go(self.before_prompt)
        )
        return f"{first}{{{{ .Prompt }}}}{_go(self.after_prompt)}{{{{ .Response }}}}{_go(self.after_answer)}"

    def write(self, messages: Sequence[Message]) -> str:
        """The text that Ollama makes of a conversation: at most one system prompt, then prompts and answers."""
        given = [str(message["content"]) for message in messages if message["role"] == "system"]
        system = given[0] if given else self.system
        text = ""
        for message in messages:
            if message["role"] == "user":
                start = f"{self.before_system}{system}{self.after_system}" if system else self.before_prompt
                text += f"{start}{message['content']}{self.after_prompt}"
                system = ""
            elif message["role"] == "assistant":
                text += f"{message['content']}{self.after_answer}"
        return text


def _go(text: str) -> str:
    """Text as a Go template has to write it.

    Go reads "{{" wherever it is, also where the text ends with a brace before an action of the template.
    """
    escaped = text.replace("{{", '{{ "{{" }}')
    return escaped[:-1] + '{{ "{" }}' if escaped.endswith("{") else escaped


@dataclass(frozen=True)
class _Writer:
    """What a model's own template writes, without the BOS that Ollama adds itself."""

    renderer: Renderer
    template: ChatTemplate
    dropped: str

    def write(self, *talk: tuple[str, str]) -> str:
        return self._whole(*talk).removeprefix(self.dropped)

    @property
    def begins(self) -> bool:
        """Whether the template writes the BOS itself."""
        return self._whole(("user", USER)).startswith(self.dropped)

    def _whole(self, *talk: tuple[str, str]) -> str:
        written = self.renderer.render(self.template, [{"role": role, "content": text} for role, text in talk])
        if _DATED.search(written):
            raise _irregular("it writes the date")
        return written


def derive(template: ChatTemplate, adds_bos: bool = True) -> PromptFormat:
    """The prompt format of a Jinja chat template.

    adds_bos: whether the runtime puts BOS before a text by itself. Where it does not, a BOS that the template writes is
    a part of it: SmolLM2's `<|im_start|>` is its BOS too.
    Raises UnsupportedModel for a template that fails, or that writes turns in a way that no such format has.
    """
    with Renderer() as renderer:
        writer = _Writer(renderer, template, template.bos_token if adds_bos else "")
        found = _verified(*_derived(writer), writer)
        return replace(found, adds_begin=bool(writer.dropped) and not writer.begins)


def _derived(writer: _Writer) -> tuple[PromptFormat, bool]:
    """The format of a few conversations, and whether it is exact; else it is so up to spaces."""
    plain = writer.write(("user", USER))
    longer = writer.write(("user", USER), ("assistant", ANSWER), ("user", AGAIN))
    before_first, after_prompt = _cut(plain, USER)
    head, after_answer_and_more = _cut(longer, ANSWER)
    between, after_again = _cut(after_answer_and_more, AGAIN)
    start = before_first + USER + after_prompt
    if head.rstrip(" ") != start.rstrip(" ") or not head.startswith(start) or after_again != after_prompt:
        raise _irregular("a turn depends on those before it")
    exact = head == start  # else the template puts a space before answers, which models write themselves
    try:
        asked = writer.write(("system", SYSTEM), ("user", USER))
        before_system, rest = _cut(asked, SYSTEM)
        after_system, ending = _cut(rest, USER)
    except UnsupportedModel:
        before_system = after_system = ending = ""
    takes_system = ending == after_prompt
    found = _joined(
        before_first, before_system, after_system, after_prompt, between, writer.template.eos_token, takes_system
    )
    return found, exact


def _joined(
    before_first: str, before_system: str, after_system: str, after_prompt: str, between: str, end: str, takes: bool
) -> PromptFormat:
    """Divide the text between an answer and the next prompt: the end of the answer, and the beginning of a turn."""
    before_prompt = _common_end(between, before_first)
    if takes and not before_system.startswith(before_prompt):  # else the system prompt is inside the user's turn
        before_prompt = _common_end(before_prompt, after_system) or before_prompt
    marker = between.find(end) + len(end) if end and end in between else 0
    split = max(marker, len(between) - len(before_prompt))
    while split < len(between) and between[split] == "\n":
        split += 1
    after_answer, before_prompt = between[:split], between[split:]
    hidden = before_first.removesuffix(before_prompt)  # the template's own text before the first turn
    system = ""
    if hidden and takes and after_system.endswith(before_prompt):
        closing = after_system.removesuffix(before_prompt)
        if hidden.startswith(before_system) and hidden.endswith(closing) and len(hidden) > len(before_system + closing):
            system = hidden[len(before_system) : len(hidden) - len(closing)]
    if hidden and not system:
        raise _irregular("the first turn differs from the later ones")
    return PromptFormat(before_system, after_system, before_prompt, after_prompt, after_answer, system, takes)


def _common_end(a: str, b: str) -> str:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return a[len(a) - length :]


def _verified(found: PromptFormat, exact: bool, writer: _Writer) -> PromptFormat:
    """The format, if it writes what the template writes for other conversations; unless `exact`, up to spaces."""
    talks: list[tuple[tuple[str, str], ...]] = [
        (("user", "Why?"),),
        (("user", "Why?"), ("assistant", "Because."), ("user", "Really?"), ("assistant", "Yes."), ("user", "OK")),
    ]
    if found.takes_system:
        talks += [(("system", "Be kind."), *talk) for talk in talks]
    for talk in talks:
        written = found.write([{"role": role, "content": text} for role, text in talk])
        expected = writer.write(*talk)
        if written != expected and (exact or written.replace(" ", "") != expected.replace(" ", "")):
            raise _irregular("a conversation of several turns is written differently")
    return found


def _cut(text: str, mark: str) -> tuple[str, str]:
    parts = text.split(mark)
    if len(parts) != 2:
        raise _irregular("it changes or repeats messages")
    return parts[0], parts[1]


def _irregular(why: str) -> UnsupportedModel:
    return UnsupportedModel(f"the model's chat template cannot be written as a template for Ollama: {why}")
