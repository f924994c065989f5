"""Language models by family, by the `model_type` of their config.json. A new family is an entry of a file here."""

from __future__ import annotations

from . import falcon, gemma, gpt2, llama
from .family import Family

FAMILIES: dict[str, Family] = {**llama.FAMILIES, **gemma.FAMILIES, **gpt2.FAMILIES, **falcon.FAMILIES}
