"""The models, texts and levels of language_models.py, and what its tables are of."""

from __future__ import annotations

from collections.abc import Iterator

from markdown import ROOT
from microbudget.methods.quantize.gguf.mixtures import MIXTURES
from microbudget.runtimes.gguf.types import FILE_TYPES, UNWEIGHTED

ASSETS = ROOT.parent / "shared" / "assets"
REAL, SHAPE = "lm-python", "llama-110m"
TEXTS = {"python": "text/python/validation.txt", "wikitext": "text/wikitext-2/valid.txt"}
TIMED = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_XS")
STOCK = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_XS", "IQ3_XXS", "IQ2_XS")
WEIGHED = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "Q2_K", "IQ3_XXS")
CONTEXTS = (512, 2048)


def variants() -> Iterator[tuple[str, bool]]:
    """Every type and mixture, without and with an importance matrix where that changes the file."""
    for level in FILE_TYPES:
        if level in MIXTURES and level not in ("F32", "F16"):
            yield level, False
            if level not in UNWEIGHTED:
                yield level, True
