"""qat on EfficientNet-Lite0 in 4 bits, from the command line: what it brings on photos that nothing was fitted to.

    python benchmarks/qat.py                  all; can be killed and goes on (a quarter of an hour on quiet cores)
    python benchmarks/qat.py --part tables    write the table into docs/qat.md

Half of the 260 ImageNet photos is judged. The other half (100 to learn from, 30 to stop by) and flowers without labels
are learnt from. Needs ../shared/assets and `../shared/real/make.py efficientnet-lite0`. Runs in runs/qat/.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from markdown import ROOT, provenance, table, write_between
from microbudget.machine.files import whole_folder
from real_images import shuffled, write_splits
from results import Results

STORE = ROOT / "runs" / "qat"
MODEL = Path.home() / ".cache" / "microbudget-real" / "efficientnet-lite0" / "model.onnx"
IMAGES = ROOT.parent / "shared" / "assets" / "images"
TRAIN, UNLABELLED, EPOCHS = 100, 300, 4
RECIPE = f"quantize(bits=4) > qat(epochs={EPOCHS})"
GOAL = "at most .07 nats and 1 point at 2.7 MB"


def photos() -> Path:
    """A folder with the splits: `test` is the half that is judged."""
    folder = STORE / "photos"
    if folder.is_dir():
        return folder
    rows = shuffled()
    judged, learnt = rows[0::2], rows[1::2]
    flowers = sorted((IMAGES / "flowers12").rglob("*.jpg"))
    random.Random(0).shuffle(flowers)
    with whole_folder(folder) as partial:
        write_splits(partial, {"train": learnt[:TRAIN], "validation": learnt[TRAIN:], "test": judged})
        (partial / "unlabelled").mkdir()
        for place, file in enumerate(flowers[:UNLABELLED]):
            shutil.copyfile(file, partial / "unlabelled" / f"{place}.jpg")
    return folder


def command(*words: str) -> str:
    """What a user types; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "microbudget.cli", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"microbudget {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def run() -> dict[str, Any]:
    """The recipe, with its steps kept; seconds of everything, and what qat reported."""
    began = time.monotonic()
    out = STORE / "run"
    command("run", str(MODEL), RECIPE, "--data", str(photos()), "--out", str(out), "--minutes", "60", "--keep")
    record = json.loads((out / "best" / "microbudget.json").read_text("utf-8"))
    report = record["history"]["qat"]
    return {"seconds": time.monotonic() - began, **{name: report[name] for name in ("kl_before", "kl", "kept")}}


def steps() -> dict[str, Path]:
    """The files before and after training."""
    found = {}
    for record in (STORE / "run" / "models").glob("*/microbudget.json"):
        history = json.loads(record.read_text("utf-8"))["history"]
        found["quantize(bits=4) > qat" if "qat" in history else "quantize(bits=4)"] = record.parent
    return found


def judged(folder: Path) -> dict[str, Any]:
    """Against the original, on the half that nothing was fitted to."""
    said = command("compare", str(MODEL), str(folder), "--data", str(photos() / "test"), "--json")
    row = json.loads(said)
    change = {name: row[name] for name in ("quality_change", "quality_change_low", "quality_change_high", "speedup")}
    return {**change, **row["extra"], "bytes": (folder / "model.onnx").stat().st_size}


def tables(results: Results) -> None:
    """Into docs/qat.md."""
    rows = []
    for name in ("quantize(bits=4)", "quantize(bits=4) > qat"):
        row = results.rows[name]
        interval = f"{100 * row['quality_change_low']:+.1f} to {100 * row['quality_change_high']:+.1f}"
        points = f"{100 * row['quality_change']:+.1f} points ({interval})"
        rows.append((name, f"{row['bytes'] / 1e6:.2f} MB", f"{row['kl']:.3f}", f"{row['same_top1']:.1%}", points))
    made = results.rows["run"]
    head = ("EfficientNet-Lite0", "file", "nats from the original", "same answer", "accuracy against the original")
    text = (
        f"{table(head, rows)}\n\n{EPOCHS} epochs on {TRAIN} photos of ImageNet and {UNLABELLED} of flowers,"
        f" {made['kept']} kept; on 30 validation photos {made['kl_before']:.3f} nats before and {made['kl']:.3f} after."
        f" The whole run took {made['seconds'] / 60:.0f} minutes on a busy machine. Judged on 130 other photos of"
        f" ImageNet, by which nothing was chosen. Goal: {GOAL}. {provenance('qat.py')}"
    )
    write_between(ROOT / "docs" / "qat.md", "qat", text)


def main() -> None:
    """Measure what is missing, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tables",))
    chosen = parser.parse_args()
    results = Results(STORE / "results.json")
    if chosen.part is None:
        results.fill("run", run, float("inf"))
        for name, folder in steps().items():
            results.fill(name, lambda folder=folder: judged(folder), float("inf"))
    tables(results)


if __name__ == "__main__":
    main()
