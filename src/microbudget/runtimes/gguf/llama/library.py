"""The library: llama.cpp from the `xllamacpp` wheel, loaded once, with typed functions; its log is kept."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from collections import deque
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from ....errors import MissingExtra, UnsupportedModel
from .structures import TESTED, Batch, ContextParams, InitParams, LogCallback, ModelParams, TypeTraits, differences

INSTALL = "pip install 'microbudget[llm]'"
WARNING, CONTINUED = 3, 5  # levels of llama.cpp's log
LOG_LINES = 40

_Tokens, _Bytes, _Floats = POINTER(c_int32), POINTER(c_int8), POINTER(c_float)
PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "ggml_free": (None, (c_void_p,)),
    "ggml_get_type_traits": (POINTER(TypeTraits), (c_int32,)),
    "ggml_init": (c_void_p, (InitParams,)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int32, c_int64, c_int64)),
    "ggml_op_name": (c_char_p, (c_int32,)),
    "ggml_quantize_chunk": (c_size_t, (c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)),
    "ggml_quantize_init": (None, (c_int32,)),
    "ggml_quantize_requires_imatrix": (c_bool, (c_int32,)),
    "ggml_row_size": (c_size_t, (c_int32, c_int64)),
    "ggml_set_name": (c_void_p, (c_void_p, c_char_p)),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_type_name": (c_char_p, (c_int32,)),
    "llama_backend_init": (None, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_detokenize": (c_int32, (c_void_p, _Tokens, c_int32, c_char_p, c_int32, c_bool, c_bool)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_logits": (_Floats, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_log_set": (None, (c_void_p, c_void_p)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_model_chat_template": (c_char_p, (c_void_p, c_char_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_n_params": (c_uint64, (c_void_p,)),
    "llama_model_size": (c_uint64, (c_void_p,)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_state_get_size": (c_size_t, (c_void_p,)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, _Tokens, c_int32, c_bool, c_bool)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
}

_said: deque[str] = deque(maxlen=LOG_LINES)


def version() -> str:
    """The version of xllamacpp. Raises MissingExtra when it is not installed."""
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtra(f"GGUF models need llama.cpp, which is not installed: {INSTALL}") from error


def find() -> Path:
    """The shared library in the wheel; xllamacpp itself is not imported. Raises MissingExtra."""
    version()
    spec = importlib.util.find_spec("xllamacpp")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = [file for folder in folders for pattern in ("*.so", "*.pyd", "*.dylib") for file in folder.glob(pattern)]
    if not found:
        raise MissingExtra(f"xllamacpp {version()} holds no library: install it again, {INSTALL}")
    return found[0]


@cache
def library() -> ctypes.CDLL:
    """llama.cpp, ready to use. Raises MissingExtra when the wheel is missing or is not of the version that we know.

    Structures are passed by value: with another version a call could write where it must not, so none is made.
    """
    if version() != TESTED:
        raise _unusable("it is of another version")
    loaded = ctypes.CDLL(str(find()))
    try:
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise _unusable(f"it exports no {error.args[0].rsplit(' ', 1)[-1]}") from error
    found = list(differences(loaded))
    if found:
        raise _unusable("; ".join(found[:3]))
    loaded.llama_log_set(ctypes.cast(_KEEP, c_void_p), None)
    loaded.llama_backend_init()
    return loaded


def _unusable(why: str) -> MissingExtra:
    return MissingExtra(
        f"the llama.cpp in xllamacpp {version()} is not the one that microbudget was written for ({why}):"
        f" pip install 'xllamacpp=={TESTED}'"
    )


def _keep(level: int, text: bytes, _data: int) -> None:
    if level >= WARNING:
        line = text.decode("utf-8", "replace")
        if level == CONTINUED and _said:
            _said[-1] += line
        elif level != CONTINUED:
            _said.append(line)


_KEEP = LogCallback(_keep)  # llama.cpp keeps its address while the process runs


def last_words(lines: int = 3) -> str:
    """The last warnings and errors of llama.cpp, on one line; clears them."""
    said = [line.strip() for line in _said if line.strip(" .\n")]
    _said.clear()
    return " | ".join(said[-lines:])


def refused(path: Path, doing: str) -> UnsupportedModel:
    """The error for a file that llama.cpp refuses, with its own reasons."""
    return UnsupportedModel(f"llama.cpp cannot {doing} {path}: {last_words() or 'it gives no reason'}")
