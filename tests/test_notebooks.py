"""The companion notebooks: their scripts run on small stand-ins, and what is committed was made from them."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import shutil
from functools import partial
from pathlib import Path

import pytest

import microbudget
from conftest import MadeOnce
from microbudget.kinds.language_modelling import search_space as levels
from quick import QUICK
from toy_language_models import train_byte_level, write_network
from toy_seq2seq import write_recordings, write_whisper

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


@pytest.fixture
def stand_ins(made_once: MadeOnce, resnet: Path, photos: Path, tmp_path: Path) -> dict[str, str]:
    """What the environment names: small models and data of each kind."""

    def make(folder: Path) -> None:
        folder.mkdir()
        shutil.copytree(resnet, folder / "mobilenet_v2")
        train_byte_level(folder / "smollm2-135m")
        write_network(folder / "smollm2-135m", "llama", hidden_size=256, intermediate_size=512)
        write_whisper(folder / "whisper-tiny.en", max_source_positions=300, max_target_positions=16)
        write_recordings(folder / "recordings", 24)
        (folder / "text.txt").write_text(inspect.getsource(runpy) * 3, encoding="utf-8")

    made = made_once("notebooks", make)
    return {
        "MICROBUDGET_MODELS": str(made),
        "MICROBUDGET_PHOTOS": str(photos),
        "MICROBUDGET_RECORDINGS": str(made / "recordings"),
        "MICROBUDGET_TEXT": str(made / "text.txt"),
        "MICROBUDGET_MINUTES": "1e-6",  # one candidate is tried all the same
        "MICROBUDGET_PIXELS": "24",
        "MICROBUDGET_SECONDS": "4",
        "MICROBUDGET_WORK": str(tmp_path / "work"),
        "PYTHONPATH": str(Path(microbudget.__file__).parents[1]),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_on_stand_ins(
    name: str, stand_ins: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its script, cell by cell in one process: as in a notebook, but for the kernel."""
    for key, value in stand_ins.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(Path(stand_ins["MICROBUDGET_WORK"]).parent)
    monkeypatch.setattr(microbudget, "shrink", partial(microbudget.shrink, durations=QUICK))
    monkeypatch.setattr(microbudget, "run_recipe", partial(microbudget.run_recipe, durations=QUICK))
    monkeypatch.setattr(levels, "LEVELS", ("Q8_0", "Q2_K"))
    found = runpy.run_path(str(NOTEBOOKS / f"{name}.py"))
    assert found["result"].best is not None
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_was_executed_from_its_script(name: str) -> None:
    from jupytext import read

    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    script = read(NOTEBOOKS / f"{name}.py")
    assert len(notebook["cells"]) <= 25
    written = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert written == [cell["source"] for cell in script["cells"]]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["execution_count"]
            assert all(output["output_type"] != "error" for output in cell["outputs"])
    text = json.dumps(notebook)
    assert len(text) < 1_500_000
    assert not re.search(r"/(home|root|work|tmp)/", text), "a path of the machine that executed it"
