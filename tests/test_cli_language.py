"""The verbs for language models, from the command line: what fits, and Ollama with and without a server."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from microbudget import cli
from microbudget.kinds.language_modelling import fits, ollama
from microbudget.machine import files
from microbudget.runtimes.gguf import convert as convert_gguf
from microbudget.runtimes.loading import HUB_WEIGHTS, load
from microbudget.search.evaluation import Evaluation
from toy_language_models import TEXT, train_byte_level, write_network


@pytest.fixture(scope="session")
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


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be measured."""

    def measured(*_: object) -> None:
        raise AssertionError("the reference is measured")

    monkeypatch.setattr(Evaluation, "reference_candidate", measured)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "text.txt").write_text("\n".join(TEXT * 40), encoding="utf-8")
    return ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--threads", "1"]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("quantize(type='IQ2_XS', imatrix=False)", "IQ2_XS needs an importance matrix"),
        ("quantize(type='Q4_0', imatrix=False, tensors='ffn_up=IQ1_S')", "needs an importance matrix"),
        ("quantize(type='Q4_0', tensors='attn_v')", "is not of the form pattern=TYPE"),
        ("quantize(type='Q4_0', tensors='(=Q8_0')", "is not a valid pattern for names of tensors"),
        ("quantize(type='Q4_0', tensors='attn_v=Q9')", "there is no type 'Q9' of tensors"),
        ("quantize(type='Q4_0', tensors='attn_v=Q8_K')", "there is no type 'Q8_K' of tensors that can be written"),
        ("quantize(type='Q4_0', tensors='attn_v=I8')", "there is no type 'I8' of tensors that can be written"),
        ("quantize(bits=2, type='Q8_0')", "give bits or type, not both"),
        ("quantize(type='Q8_0', max_kl=0.1)", "max_kl=0.1 is for ONNX files, but it gets gguf"),
        ("quantize(type='MXFP4_MOE', imatrix='nowhere.gguf')", "there is no importance matrix"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_measured(
    step: str, words: str, folder: Path, options: list[str], unmeasured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(folder), f"export(format='gguf') > {step}", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["shrink", "run"])
def test_a_disk_that_is_too_small_is_reported_before_anything_is_measured(
    verb: str, folder: Path, options: list[str], unmeasured: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One byte less than all files take that will stand there at once; and with that byte."""
    rows = {row.type: row.size_bytes for row in fits.levels(fits.anatomy(load(folder)))}
    wanted = sum(rows.values()) + rows["Q8_0"] if verb == "shrink" else rows["F16"] + 2 * rows["Q2_K"]
    recipe = ["export(format='gguf') > quantize(type='Q2_K')"] if verb == "run" else []
    for free, words in ((wanted - 1, "models and a copy of the best take"), (wanted, "the reference is measured")):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert cli.main([verb, str(folder), *recipe, *options]) == 3
        assert words in capsys.readouterr().err


def test_fits_needs_no_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / folder.name  # the name stands in the file
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert cli.main(["fits", str(folder), "--json"]) == 0
    expected = capsys.readouterr().out
    assert cli.main(["fits", str(bare), "--json"]) == 0
    assert capsys.readouterr().out == expected
    assert cli.main(["measure", str(bare), "--data", "x.txt"]) == 2
    assert "no *.safetensors beside it" in capsys.readouterr().err


def test_fits_downloads_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no downloads")
    asked: list[list[str]] = []

    def download(_name: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert cli.main(["fits", "someone/something", "--json"]) == 0
    load("someone/something")
    assert not set(asked[0]) & set(HUB_WEIGHTS)
    assert set(asked[1]) == {*asked[0], *HUB_WEIGHTS}


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


def test_without_a_server_the_commands_are_reported(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ollama.HOST_VARIABLE, "127.0.0.1:1")
    assert cli.main(["ollama", str(run)]) == 0
    printed = capsys.readouterr()
    modelfile = shlex.quote(str(run / "best" / "Modelfile"))
    assert printed.out.splitlines() == [f"ollama create my-run -f {modelfile}", "ollama run my-run"]
    assert "no Ollama server" in printed.err


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
