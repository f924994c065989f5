"""What this machine can do at most: multiply-add rates and read bandwidth, measured once and kept."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cache import default_folder
from ..machine import files
from ..machine import processor as machine
from ..machine.waiting import WAITED, waiting_share
from ..model import Model, Record
from ..task import Inputs
from .worker import Worker

VERSION = 3
ROWS = 512  # of the square matrices: near the peak, and over before a scheduler takes the core away
SIZES_BYTES = (2**21, 2**23, 2**25, 2**27)  # from inside the caches to outside them
ROUNDS = 8


@dataclass(frozen=True)
class Ceilings:
    """The best that was seen on this machine with a number of threads."""

    threads: int
    operations_per_s: dict[str, float]  # "float32", "int8": a multiply-add is two operations
    read_bytes_per_s: tuple[tuple[int, float], ...]  # (bytes that are read again and again, rate), ascending

    def bandwidth(self, size_bytes: float) -> float:
        """Bytes per second for a working set: the rate of the largest measured size that is not above it."""
        fits = [rate for size, rate in self.read_bytes_per_s if size <= size_bytes]
        return fits[-1] if fits else self.read_bytes_per_s[0][1]


def ceilings(threads: int, folder: Path | None = None) -> Ceilings:
    """The kept ceilings of this machine for a number of threads; measured (about 2 s) when there are none.

    What was measured on a busy machine is measured again on a quieter one, and the better of each is kept: `waited` is
    the share of the time for which threads waited for a processor.
    """
    path = (folder or default_folder()) / "ceilings.json"
    kept = _read(path)
    name = f"{machine.processor()}, {machine.cores()} cores, {threads} threads"
    row = kept.get(name)
    if row is not None and row["waited"] < WAITED:
        return _row(row)
    waited = waiting_share(threads) or 0.0
    if row is None or waited < row["waited"] / 2:
        found = measure_ceilings(threads)
        found = found if row is None else _better(found, _row(row))
        kept[name] = {**asdict(found), "waited": waited}
        _write(path, kept)
    return _row(kept[name])


def _row(row: dict[str, Any]) -> Ceilings:
    reads = tuple((int(size), float(rate)) for size, rate in row["read_bytes_per_s"])
    return Ceilings(row["threads"], row["operations_per_s"], reads)


def _better(a: Ceilings, b: Ceilings) -> Ceilings:
    rates = {dtype: max(rate, b.operations_per_s[dtype]) for dtype, rate in a.operations_per_s.items()}
    pairs = zip(a.read_bytes_per_s, b.read_bytes_per_s, strict=True)
    return Ceilings(a.threads, rates, tuple((size, max(rate, other)) for (size, rate), (_, other) in pairs))


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return dict(stored["machines"]) if stored["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path, machines: dict[str, Any]) -> None:
    """Keep the numbers where that is possible; a cache that cannot be written only costs the next run two seconds."""
    with contextlib.suppress(OSError):
        files.write_text(path, json.dumps({"version": VERSION, "machines": machines}, indent=1))


def measure_ceilings(threads: int) -> Ceilings:
    """The arithmetic and the memory reads that this machine reaches now with so many threads."""
    rates = {dtype: _arithmetic(dtype, threads) for dtype in ("float32", "int8")}
    reads = tuple((size, _reading(size, threads)) for size in SIZES_BYTES)
    return Ceilings(threads, rates, reads)


def _arithmetic(dtype: str, threads: int) -> float:
    """Operations per second of a square matrix product in ONNX Runtime: the best of some blocks."""
    with tempfile.TemporaryDirectory() as folder, Worker() as worker:
        path = Path(folder) / "product.onnx"
        inputs = _write_product(path, dtype)
        worker.open(Model(path, "onnx", Record()), threads=threads, runtime="onnx")
        worker.prepare(inputs)
        fastest_ns = min(int(worker.time_block(20, 1).durations_ns.min()) for _ in range(ROUNDS))
    return 2 * ROWS**3 / (fastest_ns * 1e-9)


def _write_product(path: Path, dtype: str) -> Inputs:
    """A model that multiplies its input by a constant: MatMul in float32, MatMulInteger in int8."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    coin = np.random.default_rng(0)
    if dtype == "float32":
        operator, element, out = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        x, w = (coin.normal(size=(ROWS, ROWS)).astype(np.float32) for _ in range(2))
    else:
        operator, element, out = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        x = coin.integers(0, 255, (ROWS, ROWS)).astype(np.uint8)
        w = coin.integers(-64, 64, (ROWS, ROWS)).astype(np.int8)  # 7 bits: no saturation where there is no VNNI
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", element, [ROWS, ROWS])],
        [helper.make_tensor_value_info("y", out, [ROWS, ROWS])],
        [numpy_helper.from_array(w, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return {"x": x}


def _reading(size_bytes: int, threads: int) -> float:
    """Bytes per second that threads read together when they go over `size_bytes` again and again."""
    share = size_bytes // threads // 8
    vectors = [(np.ones(share, np.float32), np.ones(share, np.float32)) for _ in range(threads)]
    repeats = max(1, 2**26 // size_bytes)

    def read(pair: tuple[Any, Any]) -> None:
        for _ in range(repeats):
            pair[0].dot(pair[1])

    fastest_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(read, vectors))
            fastest_s = min(fastest_s, time.perf_counter() - started)
    return size_bytes * repeats / fastest_s
