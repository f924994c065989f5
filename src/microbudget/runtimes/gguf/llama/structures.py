"""llama.cpp's structures that cross the border by value or are read in place, as in llama.h, ggml.h of `TESTED`.

The headers promise no stability between versions, so `check` compares what a library fills in with what it should be:
a library whose fields lie elsewhere is refused before anything is computed with it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from ctypes import POINTER, c_bool, c_char, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p

TESTED = "2026.10.11549"  # of xllamacpp

EvalCallback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_bool, c_void_p)
LogCallback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)


class ModelParams(ctypes.Structure):
    """How to load a file: llama_model_params."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """How to run a model: llama_context_params."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", EvalCallback),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """Tokens to process: llama_batch. Null positions and sequences are counted by llama.cpp."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    )


class Tensor(ctypes.Structure):
    """A node of the graph: ggml_tensor. `ne` has the columns first."""

    _fields_ = (
        ("type", c_int32),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int32),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * 10),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", c_char * 64),
        ("extra", c_void_p),
        ("padding", c_char * 8),
    )


class TypeTraits(ctypes.Structure):
    """A type of tensor: ggml_type_traits. `to_float` is void (const void *, float *, int64_t)."""

    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", c_void_p),
        ("from_float_ref", c_void_p),
    )


class InitParams(ctypes.Structure):
    """The arena of `ggml_init`: ggml_init_params."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


# What llama_model_default_params and llama_context_default_params fill in. A field that is 0 proves little alone, but
# together with the sizes below a field that has moved is found.
MODEL_DEFAULTS = {
    **dict.fromkeys(("devices", "tensor_buft_overrides", "tensor_split", "progress_callback", "kv_overrides")),
    **{"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "main_gpu": 0},
    **{"vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False, "no_alloc": False},
}
CONTEXT_DEFAULTS = {
    **{"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max": 0, "n_outputs_max_per_seq": 1},
    **{"n_threads": 4, "n_threads_batch": 4, "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1},
    **{"flash_attn_type": -1, "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0},
    **{"yarn_beta_slow": -1.0, "defrag_thold": -1.0, "type_k": 1, "type_v": 1, "abort_callback": None},
    **{"embeddings": False, "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True},
    **{"kv_unified": False, "samplers": None, "n_samplers": 0, "ctx_other": None},
}
OBJECT_BYTES = 32  # sizeof(struct ggml_object), which ggml_tensor_overhead adds to a tensor
ARENA_BYTES = 1 << 14


def differences(library: ctypes.CDLL) -> Iterator[str]:
    """A line for every structure whose fields do not lie where they are expected; none for a library we can use."""
    yield from _defaults(library.llama_model_default_params(), MODEL_DEFAULTS)
    yield from _defaults(library.llama_context_default_params(), CONTEXT_DEFAULTS)
    traits = library.ggml_get_type_traits(12).contents
    if (traits.type_name, traits.blck_size, traits.type_size, traits.is_quantized) != (b"q4_K", 256, 144, True):
        yield "ggml_type_traits of q4_K"
    if library.ggml_tensor_overhead() != ctypes.sizeof(Tensor) + OBJECT_BYTES:
        yield f"ggml_tensor has {library.ggml_tensor_overhead() - OBJECT_BYTES} bytes, not {ctypes.sizeof(Tensor)}"
    else:
        yield from _probe(library)


def _defaults(filled: ctypes.Structure, expected: Mapping[str, object]) -> Iterator[str]:
    for name, value in expected.items():
        if getattr(filled, name) != value:
            yield f"{type(filled).__name__}.{name} is {getattr(filled, name)!r}, not {value!r}"


def _probe(library: ctypes.CDLL) -> Iterator[str]:
    """Build a product of two matrices and read it through our structure."""
    arena = library.ggml_init(InitParams(ARENA_BYTES, None, True))
    try:
        left, right = (library.ggml_new_tensor_2d(arena, 0, 64, rows) for rows in (3, 5))
        library.ggml_set_name(left, b"probe")
        product = Tensor.from_address(library.ggml_mul_mat(arena, left, right))
        named = Tensor.from_address(left)
        if (named.name, list(named.ne), list(named.nb)) != (b"probe", [64, 3, 1, 1], [4, 256, 768, 768]):
            yield "ggml_tensor.name, ne or nb"
        if library.ggml_op_name(product.op) != b"MUL_MAT" or list(product.src[:3]) != [left, right, None]:
            yield "ggml_tensor.op or src"
    finally:
        library.ggml_free(arena)
