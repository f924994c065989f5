"""Ollama: a Modelfile next to a GGUF file, and the commands that make a model of both."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shlex
import shutil
import subprocess
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import Failed, InvalidOption, ModelNotFound, UnsupportedModel
from ...model import GGUF_NAME
from ...runtimes.gguf.file import GgufFile
from ...runtimes.language.chat import ChatTemplate
from .go_template import COMPLETION, PromptFormat, derive

MODELFILE = "Modelfile"
HOST_VARIABLE = "OLLAMA_HOST"
LOCAL, PORT = "127.0.0.1", 11434
CONTEXT = 4096  # tokens, unless the model was trained for fewer
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?(:[A-Za-z0-9._-]+)?")
CREATE_S, LIST_S, ANSWER_S = 3600, 30, 1


@dataclass(frozen=True)
class Modelfile:
    """The text of a Modelfile, and notes for its reader."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """What `publish` did. listing: the output of `ollama list`; None where no server answered."""

    commands: tuple[str, ...]  # to type by hand
    listing: str | None = None


def modelfile(
    path: Path, *, context: int | None = None, parameters: Mapping[str, float | int | str] | None = None
) -> Modelfile:
    """The Modelfile for a GGUF file in the same folder.

    context: tokens, by default what the model was trained for, at most CONTEXT. parameters: more of Ollama's, such as
    temperature. Where the chat template has no counterpart in Ollama, a note says so and TEMPLATE is left out.
    """
    with GgufFile(path) as file:
        trained = file.whole(f"{file.architecture}.context_length", CONTEXT, low=1)
        tokens = file.texts("tokenizer.ggml.tokens")
        begin, end = (_token(file, tokens, name) for name in ("bos", "eos"))
        template = file.text("tokenizer.chat_template")
        byte_level = (
            file.text("tokenizer.ggml.model") == "gpt2"
        )  # which begins texts with BOS only where the file says so
        adds_begin = bool(file.get("tokenizer.ggml.add_bos_token", not byte_level))
    lines, notes = [f"FROM ./{path.name}"], []
    form = None
    if template is None:
        lines.append(_quoted("TEMPLATE", COMPLETION))
        notes.append("the model has no chat template: it continues texts and does not answer as an assistant")
    else:
        try:
            form = derive(ChatTemplate(template, begin, end), adds_begin)
            lines.append(_quoted("TEMPLATE", form.go()))
        except UnsupportedModel as error:
            notes.append(f"TEMPLATE is left out, and Ollama chooses one by itself ({error})")
    if form is not None and form.adds_begin:
        notes.append(f"the file asks for {begin} before every text, which the model's own chat template does not write")
    if form is not None and form.system:
        try:
            lines.append(_quoted("SYSTEM", form.system))
        except UnsupportedModel as error:
            notes.append(f"SYSTEM is left out: the model answers without its own system prompt ({error})")
    settings = {"num_ctx": min(CONTEXT, trained) if context is None else context, **(parameters or {})}
    lines += [f"PARAMETER {key} {value}" for key, value in settings.items()]
    lines += [f"PARAMETER stop {_word(stop)}" for stop in _stops(form, end)]
    return Modelfile("\n".join([*(f"# {note}" for note in notes), *lines]) + "\n", tuple(notes))


def write(folder: Path, **options: object) -> Modelfile:
    """Write the Modelfile into a folder with `model.gguf`; options as of `modelfile`. Raises ModelNotFound."""
    if not (folder / GGUF_NAME).is_file():
        raise ModelNotFound(f"{folder} holds no {GGUF_NAME}: Ollama takes GGUF files")
    made = modelfile(folder / GGUF_NAME, **options)  # type: ignore[arg-type]
    (folder / MODELFILE).write_text(made.text, encoding="utf-8")
    return made


def commands(name: str, folder: Path) -> tuple[str, str]:
    """The two commands that make the model and talk to it. Raises InvalidOption for a name that Ollama refuses."""
    if not _NAME.fullmatch(name):
        raise InvalidOption(f"Ollama takes names like lm-python or me/lm-python:q4, in lower case, not {name!r}")
    file = str(folder / MODELFILE)
    return (f"ollama create {name} -f {_shell(file)}", f"ollama run {name}")


def model_name(run: Path) -> str:
    """The name of a run's folder, as Ollama takes it: accents are left out.

    Where other letters are lost too, the beginning of a hash of the name tells two models apart.
    """
    name = unicodedata.normalize("NFC", run.resolve().name)
    letters = [c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c)]
    plain = re.sub(r"[^a-z0-9._-]+", "-", "".join(letters)).strip("-._") or "model"
    if all(letter.isascii() or not letter.isalnum() for letter in letters):
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def publish(name: str, folder: Path) -> Published:
    """Make the model where an Ollama server answers and its client is installed; else only return the commands.

    Raises InvalidOption for a bad name, ModelNotFound without a Modelfile, Failed when the client fails.
    """
    typed = commands(name, folder)
    if not (folder / MODELFILE).is_file():
        raise ModelNotFound(f"{folder} holds no {MODELFILE}")
    client = shutil.which("ollama")
    if client is None or not answers():
        return Published(typed)
    _run([client, "create", name, "-f", str(folder / MODELFILE)], CREATE_S)
    return Published(typed, _run([client, "list"], LIST_S))


def answers(host: str | None = None) -> bool:
    """Whether an Ollama server answers; by default the one that OLLAMA_HOST names, else on this machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not reach this machine
    try:
        url = address(host or os.environ.get(HOST_VARIABLE) or "")
        with direct.open(f"{url}/api/version", timeout=ANSWER_S) as reply:
            return bool(reply.status == 200 and b"version" in reply.read(1000))
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, KeyError):
        return False


def address(host: str) -> str:
    """The URL that Ollama's client uses for a value of OLLAMA_HOST. Raises ValueError for one that is no address.

    The default port is 11434, or 80 and 443 after http:// and https://. A server that listens on all interfaces
    (0.0.0.0) is reached on this machine.
    """
    scheme, mark, rest = host.strip().strip("\"'").rpartition("://")
    where, slash, path = rest.partition("/")
    if where.count(":") > 1 and not where.startswith("["):
        where = f"[{where}]"  # a bare IPv6 address
    parts = urllib.parse.urlsplit(f"//{where}")
    name, port = parts.hostname or LOCAL, parts.port or ({"https": 443, "http": 80}[scheme or "http"] if mark else PORT)
    name = {"0.0.0.0": LOCAL, "::": "::1"}.get(name, name)
    name = f"[{name}]" if ":" in name else name
    return f"{scheme or 'http'}://{name}:{port}{slash}{path}".rstrip("/")


def _run(command: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"`{' '.join(command[:2])}` failed: {error}") from error
    if done.returncode:
        printed = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"`{' '.join(command[:2])}` failed: {printed[-1] if printed else f'status {done.returncode}'}")
    return done.stdout


def _stops(form: PromptFormat | None, end: str) -> list[str]:
    """Texts that end an answer: EOS, the end of an answer, and the beginning of the next turn."""
    found = [end] if form is None else [end, form.after_answer.strip(), form.before_prompt.strip()]
    return list(dict.fromkeys(text for text in found if text and "\n" not in text))


def _token(file: GgufFile, tokens: list[str], name: str) -> str:
    """The text of a special token; empty where the file has none."""
    key = f"tokenizer.ggml.{name}_token_id"
    index = file.whole(key) if key in file.entries else len(tokens)
    return tokens[index] if index < len(tokens) else ""


def _quoted(word: str, text: str) -> str:
    """An instruction with a text of several lines. Raises UnsupportedModel when the text contains the quotes itself."""
    if '"""' in text:
        raise UnsupportedModel(f'the text of {word} contains """, which a Modelfile cannot quote')
    return f'{word} """{text}"""'


def _word(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shell(path: str) -> str:
    """A path as a shell of the system takes it: `$`, backticks and quotes would mean something there."""
    return subprocess.list2cmdline([path]) if os.name == "nt" else shlex.quote(path)
