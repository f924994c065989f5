"""The recipes that speech.py compares, and how two of its rows are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from markdown import ROOT
from microbudget.judge.verdict import Verdict, judge_pair
from microbudget.task import Scores
from microbudget.units import Drop

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, WORDS = ASSETS / "models" / "whisper-words", ASSETS / "speech" / "words"
STORE = ROOT / "runs" / "speech"
THREADS, LIMIT = 2, Drop(0.01)
INT8, FLOAT = "export(format='ct2', type='int8')", "export(format='ct2', type='float32')"
UNTOUCHED, PEER = "transformers, float32", "faster-whisper, int8"
SAME_WINDOW = "faster-whisper, int8, window of 10 s"
ALL = "all: window, trim, 1 decoder layer, int8"
# Found on the held-out part of speech/words/train: few recordings want small batches and some patience.
DISTILL_1, DISTILL_2 = (f"distill(decoder_layers={layers}, epochs=60, batch_size=16)" for layers in (1, 2))
# name -> how it is transcribed, and the recipe of its model ("": as given).
ROWS: dict[str, tuple[str, str]] = {
    UNTOUCHED: ("transformers", ""),
    "faster-whisper, float32": ("faster-whisper --type float32", FLOAT),
    PEER: ("faster-whisper --type int8", INT8),
    "faster-whisper, int8, its beam of 5": ("faster-whisper --type int8 --beam 5", INT8),
    SAME_WINDOW: ("faster-whisper --type int8 --window 10", f"window(seconds=10) > {INT8}"),
    "ours, float32": ("microbudget", FLOAT),
    "int8 alone": ("microbudget", INT8),
    "window alone": ("microbudget", f"window(seconds=10) > {FLOAT}"),
    "trim alone": ("microbudget", f"trim() > {FLOAT}"),
    "2 decoder layers alone": ("microbudget", f"{DISTILL_2} > {FLOAT}"),
    "1 decoder layer alone": ("microbudget", f"{DISTILL_1} > {FLOAT}"),
    "window, trim, int8": ("microbudget", f"window(seconds=10) > trim() > {INT8}"),
    "window, 5 epochs, trim, int8": ("microbudget", f"window(seconds=10, epochs=5) > trim() > {INT8}"),
    "all: window, trim, 2 decoder layers, int8": (
        "microbudget",
        f"window(seconds=10) > trim() > {DISTILL_2} > {INT8}",
    ),
    ALL: ("microbudget", f"window(seconds=10) > trim() > {DISTILL_1} > {INT8}"),
}
BEFORE = "window(seconds=10) > trim()"  # what is cut and taught: a small vocabulary makes an epoch cheap
RECOVERY = {
    "whole": ("microbudget", f"{BEFORE} > {FLOAT}"),
    "cut": ("microbudget", f"{BEFORE} > distill(decoder_layers=1, epochs=0) > {FLOAT}"),
    "taught": ("microbudget", f"{BEFORE} > {DISTILL_1} > {FLOAT}"),
}
CURVE = {
    **{f"coverage={share}": f"trim(coverage={share}) > {INT8}" for share in (0.0, 0.25, 0.5, 0.75, 0.9)},
    "coverage=1": f"trim() > {INT8}",
    **{f"keep={count}": f"trim(keep={count}) > {INT8}" for count in (1000, 4000, 16000)},
    "all tokens": INT8,
}


def verdict(reference: Mapping[str, Any], row: Mapping[str, Any]) -> Verdict:
    """Paired, with a limit of 1 point."""
    pair = [
        Scores("wer", np.array(each["errors"]), np.array(each["words"]), higher_is_better=False)
        for each in (reference, row)
    ]
    return judge_pair(pair[0], pair[1], LIMIT)
