"""One row for each real model: what ships, against what it was; from what the parts of `real.py` have measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

import real_images
import real_language
import real_whisper
import specialists
from markdown import table
from microbudget.runtimes.loading import load
from results import Results
from specialists_ways import INT8, TORCH

HEAD = ("model", "what ships", "MB", "times smaller", "times as fast", "quality")


def rows() -> list[tuple[str, ...]]:
    """Those that are measured to the end."""
    found = []
    for row in (_images, _texts, _language, _speech):
        made = _made(row)
        if made is not None:
            found.append(made)
    return found


def summary() -> str:
    """The table in Markdown, and what each row is against."""
    return (
        f"{table(HEAD, rows())}\n\nAgainst: ONNX Runtime in float32; the fine-tuned encoder in torch, one thread; the"
        " folder as published, in torch; faster-whisper in int8, beam 1. Misses are in the tables below."
    )


def _made(row: Callable[[], tuple[str, ...]]) -> tuple[str, ...] | None:
    try:
        return row()
    except (KeyError, FileNotFoundError):  # not all of it is measured
        return None


def _stored(module: Any) -> dict[str, Any]:
    return Results(module.STORE / "results.json").rows


def _images() -> tuple[str, ...]:
    results = _stored(real_images)
    parts = [results[f"ours, 8 bits/{number}"] for number in range(real_images.FOLDS)]
    right, before = (100 * np.mean(np.concatenate([part[key] for part in parts])) for key in ("right", "float_right"))
    size = float(np.mean([part["size_bytes"] for part in parts]))
    speed = float(np.mean([part["speedup"][0] for part in parts]))
    whole = load(real_images.MODEL).size_bytes
    quality = f"{before:.1f} → {right:.1f} % of ImageNet photos"
    return ("EfficientNet-Lite0", "int8", f"{size / 1e6:.2f}", f"{whole / size:.1f}", f"{speed:.2f}", quality)


def _texts() -> tuple[str, ...]:
    results = _stored(specialists)
    whole, small = results[f"sst2-0/{TORCH}"], results[f"sst2-0/{INT8}"]
    before, after = (100 * np.mean(row["right"]) for row in (whole, small))
    size = small["size_bytes"]
    return (
        "MiniLM-L6, fine-tuned", "int8", f"{size / 1e6:.1f}", f"{whole['size_bytes'] / size:.1f}",
        f"{small['speed'][1]:.1f}", f"{before:.1f} → {after:.1f} % of SST-2's dev",
    )  # fmt: skip


def _language() -> tuple[str, ...]:
    found = json.loads((real_language.STORE / "run" / "result.json").read_text("utf-8"))
    best, whole = found["best"], found["reference"]["measurement"]
    size = best["measurement"]["size_bytes"]
    verdict = best["test_verdict"] or best["verdict"]
    level = best["recipe"].rpartition("type='")[2].partition("'")[0]
    return (
        "SmolLM2-135M", level, f"{size / 1e6:.1f}", f"{whole['size_bytes'] / size:.1f}",
        f"{best['speed']['speedup']:.2f}", f"{100 * verdict['change']:+.2f} % in bits per byte of WikiText-2",
    )  # fmt: skip


def _speech() -> tuple[str, ...]:
    name = "int8, a window for each"
    found = {row[0]: row for row in real_whisper.rows(Results(real_whisper.STORE / "results.json").parts())}
    peer, ours = found[real_whisper.PEER], found[name]
    before, after = (row[3].partition(" ")[0] for row in (peer, ours))
    return ("whisper-tiny.en", name, ours[1], ours[2], ours[6], f"{before} → {after} % word errors, read English")
