"""Chat templates: what real ones do, and what a hostile one must not."""

from __future__ import annotations

import tracemalloc

import jinja2
import pytest

from microbudget.errors import UnsupportedModel
from microbudget.runtimes.chat import LARGEST_TEMPLATE, PLAIN, render

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


@pytest.mark.parametrize("template", [CHATML, LLAMA2, NAMESPACE, PLAIN, MARKED])
def test_templates_render_as_in_transformers(template: str) -> None:
    chat_template_utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed: no renderer to compare with"
    )
    (expected,), _ = chat_template_utils.render_jinja_template(
        [TALK], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert render(template, TALK, "<s>", "</s>") == expected


def test_the_beginning_of_the_answer_can_be_left_out() -> None:
    assert render(CHATML, TALK, answer=False).endswith("<|im_end|>\n")


def test_a_template_that_refuses_says_why() -> None:
    with pytest.raises(UnsupportedModel, match="roles must alternate"):
        render(LLAMA2, [TALK[1], TALK[1]])


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
    "power": "{{ 9 ** 9 ** 9 }}",
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
    "syntax": "{% for %}",
    "undefined": "{{ nothing.at.all }}",
    "long": "x" * (LARGEST_TEMPLATE + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_fails_at_once_and_does_nothing(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedModel, match="chat template"):
            render(HOSTILE[name], TALK)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_what_templates_do_with_texts_they_still_do() -> None:
    template = (
        "{% set words = messages[1].content.split() %}{{ words[::-1] | join(' ') }}|{{ words[1:3] }}"
        "|{{ words[0][:3] ~ 1 ~ '!' }}|{{ messages | map(attribute='role') | join(', ') }}"
        "|{{ 'a-b-a'.replace('a', 'c', 1) }}|{{ 'aa' | replace('a', 'b') }}|{{ '-'.join(['x', 'y']) }}"
        "|{% set t %}{{ 1 + 2 }}{% endset %}{{ t }}|{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(7) }}"
    )
    written = render(template, TALK)
    expected = jinja2.Environment().from_string(template).render(messages=TALK)
    assert written == expected


def test_the_conversation_is_not_changed() -> None:
    talk = [dict(message) for message in TALK]
    render("{% for m in messages %}{% set x = m.content %}{% endfor %}", talk)
    assert talk == TALK
