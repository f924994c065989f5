"""llama.cpp: the library in the `xllamacpp` wheel, bound with ctypes. Nothing is loaded before it is used.

`library()` is the checked library with typed functions; `quantizing` wraps ggml's quantizers, `network` opens a file
and computes logits.
"""

from __future__ import annotations

from .library import library, version

__all__ = ["library", "version"]
