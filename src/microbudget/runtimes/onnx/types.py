"""The element types of ONNX tensors by name, and how many bits an element takes in a file."""

from __future__ import annotations

BITS = {
    name: bits
    for bits, names in {
        64: ("DOUBLE", "INT64", "UINT64", "COMPLEX64"),
        32: ("FLOAT", "INT32", "UINT32"),
        16: ("FLOAT16", "BFLOAT16", "INT16", "UINT16"),
        8: ("INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
        4: ("INT4", "UINT4", "FLOAT4E2M1"),
        2: ("INT2", "UINT2"),
    }.items()
    for name in names
}
