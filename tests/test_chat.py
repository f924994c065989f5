"""Chat templates: what real ones do, and what a hostile one must not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from microbudget.errors import UnsupportedModel
from microbudget.runtimes.language.chat import LARGEST_TEMPLATE, PLAIN, ChatTemplate, last_answer, render
from microbudget.runtimes.language.renderer import AT_ONCE, Renderer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Recommend some sights in Florence, Italy"},
]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] | trim"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}"
    "{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NAMESPACE = (
    "{%- set ns = namespace(count=0) -%}{%- for message in messages -%}{%- set ns.count = ns.count + 1 -%}"
    "{%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}"
    "{{ ns.count }}:{{ message.content.split(' ')[-1] }}|{{ message | tojson }}{%- endfor -%}"
)
MARKED = (
    "{% for message in messages %}{% generation %}{{ message.content }}{% if loop.last %}!{% endif %}"
    "{% endgeneration %}\n{% endfor %}"
)


def as_transformers(template: str, talk: list[dict[str, str]]) -> str:
    """What transformers' own renderer makes of a template."""
    chat_template_utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed: no renderer to compare with"
    )
    (expected,), _ = chat_template_utils.render_jinja_template(
        [talk], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    return str(expected)


def rendered(template: str, talk: list[dict[str, str]]) -> str:
    """What ours makes of it."""
    return render(ChatTemplate(template, "<s>", "</s>"), talk)


@pytest.mark.parametrize("template", [CHATML, LLAMA2, NAMESPACE, PLAIN.text, MARKED])
def test_templates_render_as_in_transformers(template: str) -> None:
    assert rendered(template, TALK) == as_transformers(template, TALK)


def test_the_beginning_of_the_answer_can_be_left_out() -> None:
    assert render(ChatTemplate(CHATML), TALK, answer=False).endswith("<|im_end|>\n")


def test_a_template_that_refuses_says_why() -> None:
    with pytest.raises(UnsupportedModel, match="roles must alternate"):
        rendered(LLAMA2, [TALK[1], TALK[1]])


LONG = "a" * 100_000


def growing(first: str, step: str, times: int = 99) -> str:
    """A template that does something again and again to a variable that outlives the loop."""
    return f"{{% set n = namespace(x={first}, l=[]) %}}{{% for i in range({times}) %}}{step}{{% endfor %}}"


HOSTILE = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['datetime'].sys.modules['os'].system('true') }}",
    "attr filter": "{{ '' | attr('__class__') }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(range) }}",
    "percent": "{{ '%0999999999d' % 1 }}",
    "import": "{% import 'os' as os %}{{ os }}",
    "include": "{% include '/etc/passwd' %}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "repeat": "{{ 'a' * 10000000000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "pad": "{{ 'a'.ljust(10000000000) }}",
    "center": "{{ 'a' | center(10000000000) }}",
    "indent": "{{ 'a' | indent(10000000000, true) }}",
    "long loop": "{% for i in range(10**12) %}{% endfor %}",
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "much text": "{% for i in range(90000) %}{{ messages[0].content }}xxxxxxxxxxxxxxx{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "change": "{{ messages.append(1) }}",
    "doubling": growing("'ab'", "{% set n.x = n.x ~ n.x %}"),
    "doubling by plus": growing("'ab'", "{% set n.x = n.x + n.x %}"),
    "doubling by block": growing("'ab'", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"),
    "doubling by join": growing("'ab'", "{% set n.x = [n.x, n.x] | join %}"),
    "doubling by method": growing("'ab'", "{% set n.x = ''.join([n.x, n.x]) %}"),
    "doubling by replace": growing("'aa'", "{% set n.x = n.x | replace('a', n.x) %}"),
    "doubling by the method replace": growing("'aa'", "{% set n.x = n.x.replace('a', n.x) %}"),
    "doubling by escape": growing("'\"'", "{% set n.x = n.x | tojson %}"),
    "doubling a list": growing("[1, 2]", "{% set n.x = n.x + n.x %}"),
    "many copies": growing(f"'{LONG}'", "{% set n.l = n.l + [n.x[1:]] %}", 90_000),
    "many lowered": growing(f"'{LONG}'", "{% set n.l = n.l + [n.x.lower()] %}", 90_000),
    "loops over a text": f"{{% set x = '{LONG}' %}}{{% for a in x %}}{{% for b in x %}}{{% endfor %}}{{% endfor %}}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "a recursive loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "our own filter": "{{ [1] | microbudget_steps | list | join | attr('upper') }}",
    "a width of format": "{{ '{:>9999999999}'.format('a') }}",
    "a width of format_map": "{{ '{a:>9999999999}'.format_map({'a': 1}) }}",
    "a width of format by its name": "{{ 'x{:>9999999999}'['format']('a') }}",
    "bytes that are padded": "{{ 'a'.encode().ljust(9999999999) }}",
    "doubling bytes": growing("'aa'.encode()", "{% set n.x = n.x.replace('a'.encode(), n.x) %}"),
    "a number as bytes": "{{ (1).to_bytes(9999999999, 'big') }}",
    "a long translation": growing("'aa'", "{% set n.x = n.x.translate({97: n.x}) %}"),
    "round": "{{ 1.5 | round(999999999, 'ceil') }}",
    "many slices": "{{ [1] | slice(999999999) | list }}",
    "a sum of lists": growing("[[1], [2]]", "{% set n.x = n.x + n.x %}", 17) + "{{ n.x | sum(start=[]) | length }}",
    "large numbers": growing("9", "{% set n.x = n.x * n.x %}"),
    "a list in itself": growing("[1]", "{% set n.x = [n.x, n.x] %}", 60) + "{{ n.x }}",
    "a tuple in itself": growing("1", "{% set n.x = (n.x, n.x) %}", 60) + "{{ n.x | string }}",
    "a dict in itself": growing("1", "{% set n.x = {'a': n.x, 'b': n.x} %}", 60) + "{{ n.x | tojson }}",
    "a dict of a call in itself": growing("1", "{% set n.x = dict(a=n.x, b=n.x) %}", 60) + "{{ n.x ~ '' }}",
    "a namespace in itself": growing("1", "{% set n.x = namespace(a=[n.x], b=[n.x]) %}", 60) + "{{ n.x }}",
    "arguments in themselves": "{% set n = namespace(x=1) %}{% macro m() %}{% set n.x = varargs %}{% endmacro %}"
    "{% for i in range(60) %}{{ m(n.x, n.x) }}{% endfor %}{{ n.x }}",
    "lists in themselves are compared": growing("[]", "{% set n.x = [n.x, n.x] %}{% set n.l = [n.l, n.l] %}", 60)
    + "{{ n.x == n.l }}",
    "lists in themselves are a reason": growing("[1]", "{% set n.x = [n.x, n.x] %}", 20) + "{{ raise_exception(n.x) }}",
    "a long list of long texts": growing(f"['{LONG}']", "{% set n.x = n.x + n.x %}", 20) + "{{ n.x }}",
    "a long list of long texts in a filter": growing(f"['{LONG}']", "{% set n.x = n.x + n.x %}", 20)
    + "{{ n.x | upper }}",
    "long lists of long texts are compared": growing(
        f"['{LONG}']", "{% set n.x = n.x + n.x %}{% set n.l = n.x | map('lower') | list %}", 20
    )
    + "{% for i in range(90000) %}{{ n.x == n.l }}{% endfor %}",
    "a long text is searched": f"{{% set x = '{LONG}' %}}{{% for i in range(90000) %}}{{% for j in range(90000) %}}"
    "{% if 'b' in x %}{% endif %}{% endfor %}{% endfor %}",
    "keys that take long to find": growing("1", "{% set n.x = (n.x, n.x) %}", 18)
    + "{% for i in range(90000) %}{{ {n.x: 1} }}{% endfor %}",
    "places that take long to find": growing("1", "{% set n.x = (n.x, n.x) %}", 18)
    + "{% for i in range(90000) %}{{ messages[0][n.x] }}{% endfor %}",
    "deep indentation": growing("range(9000) | list", "{% set n.x = [n.x] %}", 400) + "{{ n.x | tojson(indent=8) }}",
    "many loops in one another": "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
    "many conditions in one another": "{% if true %}" * 100 + "{% endif %}" * 100,
    "many brackets": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "syntax": "{% for %}",
    "undefined": "{{ nothing.at.all }}",
    "long": "x" * (LARGEST_TEMPLATE + 1),
}


LIMIT_S, LIMIT_BYTES = 0.5, 128_000_000
SOON_S = 0.2  # for templates that must fail, one way or the other


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(timeout_s=LIMIT_S, max_memory_bytes=LIMIT_BYTES) as opened:
        yield opened


@pytest.fixture(scope="module")
def impatient() -> Iterator[Renderer]:
    with Renderer(timeout_s=SOON_S, max_memory_bytes=LIMIT_BYTES) as opened:
        yield opened


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_fails_at_once_and_does_nothing(name: str, impatient: Renderer) -> None:
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel, match="chat template"):
            impatient.render(ChatTemplate(HOSTILE[name]), TALK)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < SOON_S + 20, "its start takes longer on a loaded machine, nothing else does"


# Small uses of what the hostile ones use much of.
HARMLESS = (
    "{{ 9 ** 9 ** 9 }}",
    "{{ [[1], [2]] | sum(start=[]) }}",
    "{{ 'a' | center(9) }}|{{ 'a'.ljust(9) }}|{{ 'a\nb' | indent(4, true) }}|{{ 1.25 | round(1, 'ceil') }}",
    "{{ '%03d' % 7 }}|{{ '{:>4}'.format('a') }}|{{ 'ab' * 3 }}|{{ [1, 2, 3] | slice(2) | list }}",
    "{{ messages | tojson(indent=2) }}|{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{{ dict(a=1) }}|{{ dict.fromkeys('ab') }}|{% set n = namespace(self=1) %}{% set n.x = 2 %}{{ n.self + n.x }}",
    "{{ tools is none }}|{{ documents is none }}|{{ 'b' in messages[0].content }}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
)


@pytest.mark.parametrize("template", HARMLESS)
def test_what_is_cheap_is_written_as_in_transformers(template: str) -> None:
    assert rendered(template, TALK) == as_transformers(template, TALK)


@pytest.mark.parametrize("name", ["_x", "__class__"])
def test_a_namespace_holds_no_name_with_an_underscore_first(name: str) -> None:
    for template in (f"{{% set n = namespace({name}=1) %}}", f"{{% set n = namespace() %}}{{% set n.{name} = 1 %}}"):
        with pytest.raises(UnsupportedModel, match=f"no attribute '{name}'"):
            rendered(template, TALK)


def test_a_renderer_renders_what_is_rendered_here_and_goes_on_after_a_failure(renderer: Renderer) -> None:
    template, talks = ChatTemplate(CHATML, "<s>", "</s>"), [LONG_TALK[: 2 + place % 2] for place in range(AT_ONCE + 3)]
    with pytest.raises(UnsupportedModel, match=r"hung: no answer within 500 ms, stopped"):
        renderer.render(ChatTemplate(HOSTILE["nested loops"]), TALK)
    assert renderer.render(template, TALK) == render(template, TALK)
    assert renderer.render(template, TALK, answer=False) == render(template, TALK, answer=False)
    assert list(renderer.last_answers(template, talks)) == [last_answer(template, talk) for talk in talks]
    assert list(renderer.last_answers(PLAIN, talks[:2])) == [last_answer(PLAIN, talk) for talk in talks[:2]]


def test_many_conversations_are_rendered_by_one_process(renderer: Renderer) -> None:
    template = ChatTemplate(CHATML)
    assert renderer.render(template, TALK)
    first = renderer.pid
    assert first is not None
    assert len(list(renderer.last_answers(template, [LONG_TALK[:3]] * 1000))) == 1000
    assert renderer.pid == first


HUNGRY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_chat import HOSTILE, TALK
from microbudget.errors import UnsupportedModel
from microbudget.runtimes.language.chat import ChatTemplate
from microbudget.runtimes.language.renderer import Renderer
with Renderer(timeout_s=60, max_memory_bytes=128_000_000) as renderer:
    for name in ("repeat", "doubling a list", "doubling by escape", "many lowered", "a long translation"):
        try:
            renderer.render(ChatTemplate(HOSTILE[name]), TALK)
        except UnsupportedModel as error:
            assert "memory" in str(error), error
        else:
            raise AssertionError(name)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory is watched, not limited")
def test_no_template_takes_more_memory_than_the_limit() -> None:
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", HUNGRY, folder], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < LIMIT_BYTES + 80_000_000  # and the interpreter


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of the system's")
def test_a_hung_template_ends_when_nobody_watches_it() -> None:
    """Even within a call that never lets another thread run."""
    code = (
        "from test_chat import *; from microbudget.runtimes.language.renderer import RequestHandler; "
        "handler = RequestHandler(); handler.limit(128_000_000, 0.2); "
        "handler.render(ChatTemplate(HOSTILE['power']), TALK, True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=False)
    assert done.returncode == -signal.SIGALRM


# In the manner of the templates of Llama 3.1, Qwen3 and Mistral: what they call, in what order.
AS_LLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%Y') %}{%- else %}{%- set date_string = '2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<h>system</h>\n\n' }}{%- if builtin_tools is defined or tools is not none %}{{- 'Tools: ' }}"
    "{{- ['a', 'code'] | reject('equalto', 'code') | join(', ') }}{%- endif %}{{- system }}{{- '<eot>' }}"
    "{%- for message in messages %}{%- if not (message.role == 'ipython' or 'tool_calls' in message) %}"
    "{{- '<h>' + message['role'] + '</h>\n\n' + message['content'] | trim + '<eot>' }}"
    "{%- elif message.content is mapping or message.content is iterable %}{{- message.content | tojson }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<h>assistant</h>\n\n' }}{%- endif %}"
)
AS_QWEN = (
    "{%- set ns = namespace(multi=true, last=messages | length - 1) %}{%- for message in messages[::-1] %}"
    "{%- set index = (messages | length - 1) - loop.index0 %}"
    "{%- if ns.multi and message.role == 'user' and message.content is string and not"
    " (message.content.startswith('<t>') and message.content.endswith('</t>')) %}"
    "{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- if message.role in ['user', 'system'] %}"
    "{{- '<s>' + message.role + '\n' + message.content + '<e>' + '\n' }}"
    "{%- elif message.role == 'assistant' %}{%- set content = message.content %}{%- set thought = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last %}{%- if loop.last or (not loop.last and thought) %}"
    "{{- '<s>' ~ message.role ~ '\n<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' ~ content }}"
    "{%- endif %}{%- else %}{{- '<s>' + message.role + '\n' + content }}{%- endif %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<e>' }}{%- endif %}"
    "{%- if loop.previtem and loop.previtem.role == 'user' %}{{- '\n' }}{%- endif %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<s>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is"
    " false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
AS_MISTRAL = (
    "{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}{%- set ns = namespace(index=0) %}"
    "{%- for message in messages if message.role != 'system' %}"
    "{%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('must alternate') }}{%- endif %}"
    "{%- set ns.index = ns.index + 1 %}{%- endfor %}{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{%- if message == users[-1] %}{{- '[LAST]' }}{%- endif %}"
    "{{- '[INST] ' + message['content'] + '[/INST]' }}{%- elif message['role'] == 'assistant' %}"
    "{{- ' ' + message['content'] | trim + eos_token }}{%- else %}{%- for key, value in message.items() %}"
    "{%- if key is string and value is not none %}{{- '{' + key + ': ' + value | string + '}' }}{%- endif %}"
    "{%- endfor %}{{- message.get('name', 'nobody') | upper }}{{- message | tojson }}{%- endif %}{%- endfor %}"
    "{%- macro kind(value, depth=0) %}{{- value | items | map('first') | sort | unique | join('/') }}{%- endmacro %}"
    "{{- kind(messages[0]) }}"
)
LONG_TALK = [*TALK, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe Duomo. "}, TALK[1]]


@pytest.mark.parametrize("template", [AS_LLAMA, AS_QWEN, AS_MISTRAL])
@pytest.mark.parametrize("talk", [TALK, LONG_TALK])
def test_what_the_large_families_do_still_works(template: str, talk: list[dict[str, str]]) -> None:
    assert rendered(template, talk) == as_transformers(template, talk)


def test_a_long_conversation_is_within_the_allowance() -> None:
    talk = [message for _ in range(300) for message in ({**TALK[1], "content": "why " * 200}, LONG_TALK[2])]
    for template in (CHATML, AS_LLAMA, AS_QWEN, AS_MISTRAL):
        assert rendered(template, talk).count("why why") >= 300


def test_what_templates_do_with_texts_they_still_do() -> None:
    template = (
        "{% set words = messages[1].content.split() %}{{ words[::-1] | join(' ') }}|{{ words[1:3] }}"
        "|{{ words[0][:3] ~ 1 ~ '!' }}|{{ messages | map(attribute='role') | join(', ') }}"
        "|{{ 'a-b-a'.replace('a', 'c', 1) }}|{{ 'aa' | replace('a', 'b') }}|{{ '-'.join(['x', 'y']) }}"
        "|{% set t %}{{ 1 + 2 }}{% endset %}{{ t }}|{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(7) }}"
    )
    written = rendered(template, TALK)
    expected = jinja2.Environment().from_string(template).render(messages=TALK)
    assert written == expected


def test_the_conversation_is_not_changed() -> None:
    talk = [dict(message) for message in TALK]
    rendered("{% for m in messages %}{% set x = m.content %}{% endfor %}", talk)
    assert talk == TALK
