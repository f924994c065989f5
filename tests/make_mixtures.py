"""Write golden/mixtures.txt, the types that llama.cpp's own quantizer gives to every tensor, by model and file type,
and golden/quantized.txt, the hashes of the files that it makes of a small model.

Needs a libllama with `llama_model_quantize`; npm's prebuilt one will do:
    npm pack @node-llama-cpp/linux-x64 && tar xzf node-llama-cpp-linux-x64-*.tgz
    python tests/make_mixtures.py package/bins/linux-x64
The quantizer runs dry over sparse files, so that 70 billion weights take neither disk nor time. Made with llama.cpp
v0.5.0 of node-llama-cpp 3.22.1; a line without types is a mixture that llama.cpp refuses.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from pathlib import Path

from microbudget.runtimes.gguf.types import FILE_TYPES
from microbudget.runtimes.gguf.write import Layout
from mixture_cases import NAMES, layout, shorten, write_small
from stock_quantizer import StockQuantizer

GOLDEN = Path(__file__).with_name("golden") / "mixtures.txt"
QUANTIZED = GOLDEN.with_name("quantized.txt")
NEEDS = "needs-imatrix "
_LINE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\S+), size = +\S+ MiB(?: -> +\S+ MiB \((\S+)\))?")


def main() -> None:
    stock = StockQuantizer(Path(sys.argv[1]))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            made = layout(name)
            path = Path(folder) / f"{name}.gguf"
            with path.open("wb") as stream:
                stream.write(made.header)
                stream.truncate(made.size_bytes)
            for file_type in FILE_TYPES:
                plain, weighted = (types_of(stock, path, made, file_type, imatrix) for imatrix in (False, True))
                same = plain.removeprefix(NEEDS) == weighted
                lines.append(f"{name} {file_type} {'any' if same else 'plain'} {plain}")
                if not same:
                    lines.append(f"{name} {file_type} imatrix {weighted}")
    write(GOLDEN, lines)
    write(QUANTIZED, hashes(stock))


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def types_of(stock: StockQuantizer, path: Path, made: Layout, file_type: str, imatrix: bool) -> str:
    """One line of types of the matrices; "needs-imatrix" before it when the real run would demand one."""
    done, log = stock.quantize(path, Path("unused"), FILE_TYPES[file_type], dry_run=True, imatrix=imatrix)
    if not done:
        return ""
    found = {match[1]: (match[3] or match[2]).upper() for match in _LINE.finditer(log)}
    matrices = {tensor.name: found[tensor.name] for tensor in made.tensors if len(tensor.shape) > 1}
    needs = NEEDS if "will require an imatrix" in log else ""
    return needs + shorten(matrices)


def hashes(stock: StockQuantizer) -> list[str]:
    """Type, with or without an importance matrix, bytes and SHA-256 of the whole file; "-" where it refuses."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "small.gguf", Path(folder) / "made.gguf"
        importance = write_small(source)
        for file_type, number in FILE_TYPES.items():
            for when, imatrix in (("plain", {}), ("imatrix", importance)):
                done, _ = stock.quantize(source, target, number, imatrix=imatrix)
                found = f"{target.stat().st_size} {hashlib.sha256(target.read_bytes()).hexdigest()}" if done else "-"
                lines.append(f"{file_type} {when} {found}")
    return lines


if __name__ == "__main__":
    main()
