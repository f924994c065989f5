"""Ollama: prompt templates derived from chat templates, Modelfiles, and a client that is there or not."""

from __future__ import annotations

import http.server
import itertools
import os
import re
import stat
import sys
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import test_chat
from microbudget.errors import Failed, InvalidOption, ModelNotFound, UnsupportedModel
from microbudget.kinds.language_modelling import go_template, ollama
from microbudget.runtimes.gguf.write import Layout, entry
from microbudget.runtimes.language.chat import ChatTemplate, render

TURNS = "{% for m in messages %}%s{% endfor %}%s"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": (CHATML, "<s>", "<|im_end|>"),
    "qwen": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a lamp.<|im_end|>\\n' }}{% endif %}"
        + CHATML, "", "<|im_end|>",
    ),
    "llama3": (
        "{% for m in messages %}{% set text = '<|head|>' + m['role'] + '<|/head|>\\n\\n' + m['content'] | trim +"
        " '<|eot|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}", "<|begin|>", "<|eot|>",
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set said = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set said = false %}{% endif %}{% for m in rest %}"
        "{% if loop.index0 == 0 and said != false %}"
        "{% set text = '<<SYS>>\\n' + said + '\\n<</SYS>>\\n\\n' + m['content'] %}"
        "{% else %}{% set text = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}", "<s>", "</s>",
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>",
    ),
    "zephyr": (
        "{% for m in messages %}\n{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}", "<s>", "</s>",
    ),
    "alpaca": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}"
        "{% elif m['role'] == 'user' %}{{ '### Instruction:\\n' + m['content'] + '\\n\\n### Response:\\n' }}"
        "{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}{% endfor %}", "", "</s>",
    ),
}  # fmt: skip


TEMPLATES |= {
    "smollm2": (  # its BOS is the token that begins every turn
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", "<|im_start|>", "<|im_end|>",
    ),
    "gemma2": (  # raises for a system turn
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}", "<bos>", "<eos>",
    ),
    "gemma3": (  # a system turn goes into the first turn of the user
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
        "{% if m['content'] is string %}{{ m['content'] | trim }}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}", "<bos>", "<eos>",
    ),
    **{name: (text, "<s>", "</s>") for name, text in (
        ("chatml-trimmed", test_chat.CHATML), ("llama2-strict", test_chat.LLAMA2), ("plain", test_chat.PLAIN.text),
        ("qwen3", test_chat.AS_QWEN),
    )},
}  # fmt: skip
# Where nobody writes BOS before a text, these write it at the first turn alone, which no such format has.
WITHOUT_BEGIN = ("llama3", "mistral", "gemma2", "gemma3")


def go(template: str, system: str, prompt: str, response: str) -> str:
    """What Go's template engine does with the few constructs that are used: an oracle of its own."""
    text = re.sub(
        r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}",
        lambda match: match[1] if system else match[2], template, flags=re.DOTALL,
    )  # fmt: skip
    values = {".System": system, ".Prompt": prompt, ".Response": response, '"{{"': "{{", '"{"': "{"}
    return re.sub(r"\{\{ (\S+) \}\}", lambda match: values[match[1]], text)


def go_conversation(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of a conversation (`Template.Execute` in its template.go): turn by turn, and the last one up to
    the answer that is to come."""
    text, turn = "", dict.fromkeys(("system", "user", "assistant"), "")
    for message in messages:
        ends = {"system": turn["user"] or turn["assistant"], "user": turn["assistant"], "assistant": ""}
        if ends[message["role"]]:
            text += go(template, *turn.values())
            turn = dict.fromkeys(turn, "")
        turn[message["role"]] = message["content"]
    return text + go(template.partition("{{ .Response }}")[0], turn["system"], turn["user"], "")


@pytest.mark.parametrize("adds_begin", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_writes_what_the_models_own_template_writes(name: str, adds_begin: bool) -> None:
    """With and without a system prompt, in one turn and in several, with what the runtime writes before: BOS."""
    template = ChatTemplate(*TEMPLATES[name])
    if name in WITHOUT_BEGIN and not adds_begin:
        with pytest.raises(UnsupportedModel, match="the first turn differs"):
            go_template.derive(template, adds_begin)
        return
    form = go_template.derive(template, adds_begin)
    turns = [
        ("user", "Why {x}?"),
        ("assistant", "So."),
        ("user", "{{ Really }}?"),
        ("assistant", "Yes."),
        ("user", "!"),
    ]
    for count, system in itertools.product((1, 3, 5), ("", "Be {kind}.") if form.takes_system else ("",)):
        talk = [{"role": role, "content": text} for role, text in turns[:count]]
        given = [{"role": "system", "content": system}] if system else []
        default = [{"role": "system", "content": form.system}] if form.system and not given else []
        written = go_conversation(form.go(), given + default + talk)  # SYSTEM of the Modelfile is the default
        before = template.bos_token if adds_begin else ""
        expected = render(template, given + talk)
        if name in ("llama2", "llama2-strict", "plain"):  # which put a space before answers: models write it themselves
            written, expected = written.replace(" ", ""), expected.replace(" ", "")
        assert form.adds_begin == (bool(before) and not expected.startswith(before))
        assert written == expected if form.adds_begin else before + written == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_first_turn_is_what_the_model_was_trained_on(name: str) -> None:
    template = ChatTemplate(*TEMPLATES[name])
    form = go_template.derive(template)
    for system in ("", "Be kind.") if form.takes_system else ("",):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": "What is {{ this }}?"})
        expected = render(template, messages).removeprefix(template.bos_token)
        assert go(form.go(), system or form.system, "What is {{ this }}?", "") == expected + form.after_answer


def test_a_hidden_system_prompt_is_found() -> None:
    form = go_template.derive(ChatTemplate(*TEMPLATES["qwen"]))
    assert (form.system, form.before_system) == ("You are a lamp.", "<|im_start|>system\n")
    assert form.before_prompt == "<|im_start|>user\n"
    assert go_template.derive(ChatTemplate(*TEMPLATES["chatml"])).system == ""


def test_a_template_without_system_says_so() -> None:
    form = go_template.derive(ChatTemplate(*TEMPLATES["mistral"]))
    assert not form.takes_system
    assert form.go() == "[INST] {{ .Prompt }} [/INST]{{ .Response }}</s>"


def test_the_turns_of_gemma() -> None:
    two, three = (go_template.derive(ChatTemplate(*TEMPLATES[name])) for name in ("gemma2", "gemma3"))
    turn = "{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n{{ .Response }}<end_of_turn>\n"
    assert two.go() == "<start_of_turn>user\n" + turn
    assert three.go() == (
        "{{ if .System }}<start_of_turn>user\n{{ .System }}\n\n{{ else }}<start_of_turn>user\n{{ end }}" + turn
    )
    assert not two.takes_system
    assert three.takes_system


def test_braces_are_escaped() -> None:
    assert go_template._go("a {{b}}") == 'a {{ "{{" }}b}}'


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[-1]['content'] }}", "repeats messages|depends on"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "changes or repeats"),
        ("{% for m in messages %}{{ loop.index }}:{{ m['content'] }}{% endfor %}", "depends on|differs|differently"),
        ("{{ raise_exception('no') }}", "template failed: no"),
        ("{{ strftime_now('%Y-%m-%d') }}" + CHATML, "writes the date"),
        ("{% for m in messages %}", "template failed"),
        ("{{ ''.__class__.__mro__ }}", "template failed"),
    ],
)
def test_other_templates_are_not_guessed_at(template: str, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        go_template.derive(ChatTemplate(template))


def write_model(folder: Path, template: str | None = CHATML, adds_begin: bool = False) -> Path:
    entries = [
        entry("general.architecture", "llama", "str"),
        entry("llama.context_length", 512, "u32"),
        entry("tokenizer.ggml.tokens", ["<s>", "<|im_end|>", "a"], "[str]"),
        entry("tokenizer.ggml.bos_token_id", 0, "u32"),
        entry("tokenizer.ggml.eos_token_id", 1, "u32"),
        entry("tokenizer.ggml.add_bos_token", adds_begin, "bool"),
    ]
    if template is not None:
        entries.append(entry("tokenizer.chat_template", template, "str"))
    folder.mkdir(exist_ok=True)
    Layout(tuple(entries), ()).write(folder / "model.gguf", lambda _: [])
    return folder


def test_the_modelfile(tmp_path: Path) -> None:
    made = ollama.write(write_model(tmp_path), parameters={"temperature": 0.7})
    assert made.notes == ()
    assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == made.text
    assert made.text == (
        'FROM ./model.gguf\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n'
        "<|im_start|>user\n"
        "{{ else }}<|im_start|>user\n{{ end }}{{ .Prompt }}<|im_end|>\n"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
        '"""\nPARAMETER num_ctx 512\nPARAMETER temperature 0.7\nPARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "<|im_start|>user"\n'
    )


def test_a_base_model_and_a_strange_template_are_noted(tmp_path: Path) -> None:
    base = ollama.write(write_model(tmp_path / "base", None), context=256)
    assert 'TEMPLATE """{{ .Prompt }}"""' in base.text
    assert "num_ctx 256" in base.text
    assert "has no chat template" in base.notes[0]
    assert base.text.startswith("# the model has no chat template")
    strange = ollama.write(write_model(tmp_path / "strange", "{{ messages[0]['content'] | upper }}"))
    assert "TEMPLATE" not in strange.text.split("FROM")[1]
    assert "Ollama chooses one by itself" in strange.notes[0]
    with pytest.raises(ModelNotFound, match=r"holds no model\.gguf"):
        ollama.write(tmp_path)


def test_a_begin_that_the_models_own_template_does_not_write_is_noted(tmp_path: Path) -> None:
    (note,) = ollama.write(write_model(tmp_path, adds_begin=True)).notes
    assert note == "the file asks for <s> before every text, which the model's own chat template does not write"


def test_the_commands(tmp_path: Path) -> None:
    create, run = ollama.commands("lm-python:q4", tmp_path / "a b")
    assert create == f"ollama create lm-python:q4 -f '{tmp_path / 'a b' / 'Modelfile'}'"
    assert run == "ollama run lm-python:q4"
    for name in ("", "Big", "a b", "-x", "a/b/c", "a;rm"):
        with pytest.raises(InvalidOption, match="Ollama takes names"):
            ollama.commands(name, tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version":"0.9"}')

        def log_message(self, *_: object) -> None: ...

    listening = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{listening.server_port}")
    yield
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("localhost", "http://localhost:11434"),
        ("example.org", "http://example.org:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("http://example.org", "http://example.org:80"),
        ("https://example.org", "https://example.org:443"),
        ("https://example.org:1/ollama/", "https://example.org:1/ollama"),
        (' "127.0.0.1:9" ', "http://127.0.0.1:9"),
    ],
)
def test_addresses_are_read_as_ollama_reads_them(host: str, url: str) -> None:
    assert ollama.address(host) == url


def test_a_server_here_is_reached_without_a_proxy(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ollama.answers()
    assert not ollama.answers("127.0.0.1:99999")
    assert not ollama.answers("no-scheme://127.0.0.1")


def install(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `ollama` that is a script of ours, before all others."""
    folder.mkdir()
    script = folder / "ollama"
    script.write_text(f"#!{sys.executable}\nimport sys\n{body}\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name == "nt", reason="the client is a script with #!")
def test_a_model_is_made_where_a_server_answers(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama.write(write_model(tmp_path / "best"))
    note = tmp_path / "called"
    install(
        tmp_path / "bin",
        f"open({str(note)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n'); print('NAME  lm')",
        monkeypatch,
    )
    done = ollama.publish("lm", tmp_path / "best")
    assert done.listing == "NAME  lm\n"
    assert note.read_text(encoding="utf-8").splitlines() == [f"create lm -f {tmp_path / 'best' / 'Modelfile'}", "list"]


@pytest.mark.skipif(os.name == "nt", reason="the client is a script with #!")
def test_a_client_that_fails_is_an_error(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama.write(write_model(tmp_path / "best"))
    install(tmp_path / "bin", "sys.exit('Error: no room')", monkeypatch)
    with pytest.raises(Failed, match=r"create` failed: Error: no room"):
        ollama.publish("lm", tmp_path / "best")


def test_without_a_server_the_commands_are_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # the discard port: nobody listens
    ollama.write(write_model(tmp_path / "best"))
    assert not ollama.answers()
    done = ollama.publish("lm", tmp_path / "best")
    assert done.listing is None
    assert done.commands == ollama.commands("lm", tmp_path / "best")
    with pytest.raises(ModelNotFound, match="holds no Modelfile"):
        ollama.publish("lm", tmp_path)


def test_names_without_ascii_tell_two_models_apart() -> None:
    assert ollama.model_name(Path("/runs/My Model_v2")) == "my-model_v2"
    assert ollama.model_name(Path("/runs/Crème brûlée")) == "creme-brulee"
    names = [ollama.model_name(Path("/runs") / name) for name in ("模型一", "模型二", "Łódź", "модель", "модель 2")]
    assert len(set(names)) == 5
    assert re.fullmatch("model-[0-9a-f]{6}", names[0])
    assert names[2].startswith("odz-")
    assert names[4].startswith("2-")
    for name in names:
        ollama.commands(name, Path("best"))  # as Ollama takes it
    decomposed = unicodedata.normalize("NFD", "Łódź")
    assert ollama.model_name(Path("/runs") / decomposed) == names[2], "macOS writes accents as characters of their own"
