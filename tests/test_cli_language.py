"""The verbs for language models, from the command line: what fits, and Ollama with and without a server."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from microbudget import cli
from microbudget.runtimes import convert_gguf
from microbudget.ship import ollama
from toy_language_models import train_byte_level, write_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language") / "llama"
    train_byte_level(folder)
    write_network(folder, "llama", hidden_size=256, intermediate_size=512)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """What `shrink` leaves of a language model, as far as Ollama reads it."""
    best = tmp_path / "My Run" / "best"
    best.mkdir(parents=True)
    convert_gguf.plan(folder).write(best / "model.gguf")
    ollama.write(best)
    return best.parent


def test_fits_tells_every_level(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fits", str(folder), "--context", "128", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    sizes = {row["type"]: row["size_bytes"] for row in rows}
    assert sizes["Q2_K"] < sizes["Q4_K_M"] < sizes["Q6_K"] < sizes["Q8_0"] < sizes["F16"]
    assert all(row["context"] == 128 and row["decode_tokens_per_s"] > 0 for row in rows)
    assert cli.main(["fits", str(folder)]) == 0
    table = capsys.readouterr().out
    assert all(level in table for level in sizes)


def test_fits_refuses_a_context_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fits", str(folder), "--context", "0"]) == 2
    assert "at least 1 token" in capsys.readouterr().err


def test_without_a_server_the_commands_are_told(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ollama.HOST_VARIABLE, "127.0.0.1:1")
    assert cli.main(["ollama", str(run)]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [f'ollama create my-run -f "{run / "best" / "Modelfile"}"', "ollama run my-run"]
    assert "no Ollama server" in told.err


def test_with_a_server_the_model_is_made(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that writes down what it is asked, in place of Ollama's own."""
    client, asked = tmp_path / "bin" / "ollama", tmp_path / "asked"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n[ "$1" = list ] && echo my-model:latest\nexit 0\n')
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{client.parent}:/usr/bin:/bin")
    monkeypatch.setattr(ollama, "answers", lambda: True)
    assert cli.main(["ollama", str(run), "--name", "my-model"]) == 0
    assert capsys.readouterr().out == "my-model:latest\n"
    assert asked.read_text().splitlines() == [f"create my-model -f {run / 'best' / 'Modelfile'}", "list"]


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--name", "Not A Name"], "takes names like"), (["nowhere"], "holds no Modelfile")]
)
def test_what_ollama_would_refuse_is_refused(
    run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if arguments == ["nowhere"] else [str(run), *arguments]
    assert cli.main(["ollama", *given]) == 2
    assert words in capsys.readouterr().err
