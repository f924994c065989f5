"""llama.cpp's own quantizer through ctypes, from a prebuilt libllama: the judge of ours. Not part of the package."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

_FLAGS = ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run")
_POINTERS = ("imatrix", "kv_overrides", "tensor_types", "prune_layers")


class _Params(ctypes.Structure):
    """llama.h, llama_model_quantize_params."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("threads", "ftype", "output_type", "embedding_type")),
        *((name, ctypes.c_bool) for name in _FLAGS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class _Importance(ctypes.Structure):
    """llama.h, llama_model_imatrix_data."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class StockQuantizer:
    """Opens the libraries in a folder (libggml-base, libllama)."""

    def __init__(self, folder: Path) -> None:
        ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self._library = ctypes.CDLL(str(next(folder.glob("libllama.*so*"))), mode=ctypes.RTLD_GLOBAL)
        self._library.llama_model_quantize_default_params.restype = _Params
        self._library.llama_version.restype = ctypes.c_char_p
        defaults = self._library.llama_model_quantize_default_params()
        if (defaults.ftype, defaults.quantize_output_tensor, defaults.imatrix) != (7, True, None):
            raise SystemExit("llama_model_quantize_params has another form in this version of llama.cpp")
        self.version = self._library.llama_version().decode()

    def quantize(
        self,
        source: Path,
        target: Path,
        file_type: int,
        *,
        dry_run: bool = False,
        imatrix: dict[str, np.ndarray] | bool = False,
        threads: int = 2,
    ) -> tuple[bool, str]:
        """(whether it was done, the log). imatrix: arrays by tensor; True is a matrix that names no tensor."""
        params = self._library.llama_model_quantize_default_params()
        params.ftype, params.dry_run, params.threads = file_type, dry_run, threads
        entries = {"none": np.ones(1, np.float32)} if imatrix is True else dict(imatrix or {})
        table = (_Importance * (len(entries) + 1))()
        for place, (name, values) in zip(table, entries.items(), strict=False):
            place.name, place.data, place.size = name.encode(), values.ctypes.data, values.size
        params.imatrix = ctypes.addressof(table) if entries else None
        log: list[str] = []
        keep = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            lambda level, text, _: log.append(text.decode("utf-8", "replace"))
        )
        self._library.llama_log_set(keep, None)
        status = self._library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
        self._library.llama_log_set(None, None)
        return status == 0, "".join(log)
