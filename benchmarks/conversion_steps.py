"""One conversion in a process of its own, so that its peak memory is its own: called by `conversion.py`.

    python benchmarks/conversion_steps.py export FOLDER OUT.gguf
    python benchmarks/conversion_steps.py quantize IN.gguf OUT.gguf TYPE THREADS
    python benchmarks/conversion_steps.py stock IN.gguf OUT.gguf TYPE THREADS LIBRARIES

The last line is JSON: seconds, seconds of processor time, and the peak of memory (VmHWM) with and without what was
there before the work, in bytes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def export(folder: str, target: str) -> Callable[[], None]:
    """Ours, from safetensors to float16."""
    from microbudget.runtimes.gguf import convert
    from microbudget.runtimes.gguf.token_check import settle

    return lambda: settle(convert.plan(Path(folder)))[0].write(Path(target))


def quantize(source: str, target: str, kind: str, threads: str) -> Callable[[], None]:
    """Ours, without an importance matrix."""
    from microbudget.methods.quantize.gguf.mixtures import Facts, choose
    from microbudget.methods.quantize.gguf.rewrite import ordered, rewrite
    from microbudget.runtimes.gguf.file import GgufFile
    from microbudget.runtimes.gguf.llama import library

    library()

    def work() -> None:
        with GgufFile(Path(source)) as file:
            choices = choose(ordered(file), Facts.of(file), kind, imatrix=False)
            rewrite(file, choices, kind, Path(target), threads=int(threads))

    return work


def stock(source: str, target: str, kind: str, threads: str, folder: str) -> Callable[[], None]:
    """llama.cpp's own, from a prebuilt libllama."""
    from microbudget.runtimes.gguf.types import FILE_TYPES
    from stock_quantizer import StockQuantizer

    stock = StockQuantizer(Path(folder))

    def work() -> None:
        done, log = stock.quantize(Path(source), Path(target), FILE_TYPES[kind], threads=int(threads))
        if not done:
            raise SystemExit(log)

    return work


def peak_bytes() -> dict[str, int]:
    """What the kernel says of this process: the peak, and how much of it now is memory of no file."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmHWM", "RssAnon"))}
    return {"peak": found["VmHWM"], "anonymous": found["RssAnon"]}


if __name__ == "__main__":
    work = {"export": export, "quantize": quantize, "stock": stock}[sys.argv[1]](*sys.argv[2:])
    before, begun, processor = peak_bytes(), time.perf_counter(), sum(os.times()[:2])
    work()
    seconds, processor_s = time.perf_counter() - begun, sum(os.times()[:2]) - processor
    print(json.dumps({"s": seconds, "processor_s": processor_s, "before": before, "after": peak_bytes()}))
