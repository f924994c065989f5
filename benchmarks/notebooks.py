"""Execute the companion notebooks: `python benchmarks/notebooks.py [NAME...]` writes notebooks/NAME.ipynb with outputs.

On the real models of ../shared/real/make.py and on ../shared/assets, or on what the environment names:
MICROBUDGET_MODELS, MICROBUDGET_PHOTOS, MICROBUDGET_RECORDINGS, MICROBUDGET_TEXT, MICROBUDGET_QUESTIONS. The scripts in
notebooks/ are what is edited; they read these variables too.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
ASSETS = ROOT.parent / "shared" / "assets"
REAL = Path.home() / ".cache" / "microbudget-real"
LIMIT_S = 3600  # of one cell
PLACES = {
    "MICROBUDGET_MODELS": REAL,
    "MICROBUDGET_PHOTOS": ASSETS / "images" / "flowers12",
    "MICROBUDGET_RECORDINGS": ASSETS / "speech" / "read",
    "MICROBUDGET_TEXT": ASSETS / "text" / "wikitext-2",
    "MICROBUDGET_QUESTIONS": ASSETS / "text" / "questions" / "arc-easy.jsonl",
    "MICROBUDGET_WORK": ROOT / "runs" / "notebooks",
}
# MobileNetV2's checkpoint with its head is among the assets.
OF_ONE = {name: {"MICROBUDGET_MODELS": ASSETS / "models"} for name in ("flowers", "which_method")}


def execute(name: str) -> None:
    """Run a script of notebooks/ as a notebook, and keep it with its outputs and without paths of this machine."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    places = {**PLACES, **OF_ONE.get(name, {})}
    os.environ.update({key: str(value) for key, value in places.items() if key not in os.environ})
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    text = nbformat.writes(notebook)
    for key, value in places.items():
        text = text.replace(str(value), key.removeprefix("MICROBUDGET_").lower())
    text = text.replace(str(ROOT), ".").replace(sys.prefix, "venv").replace(str(Path.home()), "~")
    (NOTEBOOKS / f"{name}.ipynb").write_text(without_ids(text), encoding="utf-8")


def without_ids(text: str) -> str:
    """The same for the same outputs: ids of cells and times of messages are left out."""
    text = re.sub(r'"execution": \{[^}]*\}', '"execution": {}', text)
    return re.sub(r"\\u001b\[[\d;]*[A-Za-z]", "", text).rstrip("\n") + "\n"


def main() -> None:
    """Execute the notebooks that are named, or all."""
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.py")):
        started = time.monotonic()
        execute(name)
        print(f"{name}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
