"""Is what we deliver ever slower than float? Networks of many kinds, all schemes, paired timing, both thread counts.

    python benchmarks/never_slower.py                     about half an hour on 2 quiet cores; goes on where it stopped
    python benchmarks/never_slower.py --quick             a few networks and short timings, writes no page
    python benchmarks/never_slower.py --minutes 8         starts nothing new after that time

What is delivered follows `shrink`: our quantizer chooses a scheme by the graph and the processor; the file is timed in
turns with the float one, and where it is slower, float stays. That choice is then judged by a second, independent
timing: against float, and against the best of all schemes, ours and onnxruntime's (the regret). Results stay in
runs/never_slower/, the table goes into docs/results/quantization.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.errors import MicrobudgetError
from microbudget.judge import Worker, time_pair
from microbudget.judge.timing import RESOLUTION, PairTiming
from microbudget.methods.quantize.quantizing import quantize_graph
from microbudget.model import Model, Record
from microbudget.units import format_seconds
from quantize import digest, own_sources
from results import Results

STORE = ROOT / "runs" / "never_slower"
QUICK = ("plain convolutions", "tiny linear", "small transformer")
CALIBRATION = 32  # random inputs
Inputs = dict[str, np.ndarray]


def calibration(shape: tuple[int, ...]) -> list[Inputs]:
    coin = np.random.default_rng(0)
    return [{"x": coin.normal(size=(8, *shape)).astype(np.float32)} for _ in range(CALIBRATION // 8)]


def ours(**options: Any) -> Callable[[Path, list[Inputs], Path], None]:
    def run(model: Path, data: list[Inputs], out: Path) -> None:
        quantize_graph(model, data, out, **options)

    return run


class _Reader:
    def __init__(self, data: list[Inputs]) -> None:
        self._batches = iter(data)

    def get_next(self) -> Inputs | None:
        return next(self._batches, None)


def bare(model: Path, folder: str) -> str:
    """Pre-processed for onnxruntime's quantizers, without `value_info`, at which `quantize_dynamic` fails."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = str(Path(folder) / "prepared.onnx")
    quant_pre_process(str(model), path, skip_symbolic_shape=True)
    proto = onnx.load(path)
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return path


def all_static(model: Path, data: list[Inputs], out: Path) -> None:
    from onnxruntime import quantization as ort

    with TemporaryDirectory() as folder:
        ort.quantize_static(
            bare(model, folder),
            str(out),
            _Reader(data),
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )


def dynamic(*ops: str) -> Callable[[Path, list[Inputs], Path], None]:
    def run(model: Path, _: list[Inputs], out: Path) -> None:
        from onnxruntime import quantization as ort

        with TemporaryDirectory() as folder:
            ort.quantize_dynamic(bare(model, folder), str(out), op_types_to_quantize=list(ops), per_channel=True)

    return run


OURS, FLOAT = "quantize()", "float"
QUICKLY = {"observer": "min_max", "corrections": ()}  # other numbers in the same graph: only its speed matters here
SCHEMES: dict[str, Callable[[Path, list[Inputs], Path], None]] = {
    OURS: ours(**QUICKLY),
    "8-bit weights": ours(activation_bits=None, **QUICKLY),
    "4-bit weights": ours(bits=4, activation_bits=None, **QUICKLY),
    "all static": all_static,
    "linear layers dynamic": dynamic("MatMul", "Gemm"),
    "all dynamic": dynamic("MatMul", "Gemm", "Conv"),
}


@dataclass(frozen=True)
class Bench:
    """A run's results and options."""

    results: Results
    options: argparse.Namespace
    deadline: float

    def late(self) -> bool:
        return time.monotonic() > self.deadline


def folder_of(kind: str) -> Path:
    return STORE / kind.replace(" ", "_").replace(",", "")


def file_of(kind: str, scheme: str) -> Path:
    name = "".join(letter if letter.isalnum() else "_" for letter in scheme)
    return folder_of(kind) / f"{name}.onnx"


def stamp() -> str:
    return digest(*own_sources(), Path(__file__).with_name("random_networks.py"))


def build(bench: Bench, kind: str) -> None:
    """Write the float file and one for each scheme."""
    from random_networks import KINDS, onnx_bytes

    folder_of(kind).mkdir(parents=True, exist_ok=True)
    source = file_of(kind, FLOAT)
    source.write_bytes(onnx_bytes(KINDS[kind]))
    for scheme, run in SCHEMES.items():
        key = f"{kind}/{scheme}"
        if bench.results.get(key, stamp()) is not None and file_of(kind, scheme).is_file():
            continue
        row: dict[str, Any] = {}
        try:
            run(source, calibration(KINDS[kind].shape), file_of(kind, scheme))
        except Exception as error:  # a peer may raise anything; the row says so
            row = {"failure": f"{type(error).__name__}: {error}"[:300]}
            file_of(kind, scheme).unlink(missing_ok=True)
        bench.results.put(key, row, stamp())


def pair(kind: str, a: str, b: str, threads: int, seconds: float, seed: int) -> PairTiming:
    """Scheme `b` interleaved with scheme `a`; the ratio is above 1 where `b` is faster."""
    from random_networks import KINDS

    inputs = {name: value[:1] for name, value in calibration(KINDS[kind].shape)[0].items()}
    with Worker() as reference, Worker() as candidate:
        reference.open(Model(file_of(kind, a), "onnx", Record()), threads=threads)
        candidate.open(Model(file_of(kind, b), "onnx", Record()), threads=threads)
        return time_pair(reference, candidate, inputs, seconds=seconds, seed=seed)


def timed(bench: Bench, kind: str, a: str, b: str, threads: int, *, seed: int = 0) -> dict[str, Any] | None:
    """The row of a pair, timed when it is not there yet; None when the time is up or a file is missing."""
    key = f"{kind}/{b} over {a}/{threads}/{seed}"
    known = bench.results.get(key, stamp())
    if known is not None:
        return known
    if bench.late() or not (file_of(kind, a).is_file() and file_of(kind, b).is_file()):
        return None
    try:
        found = pair(kind, a, b, threads, bench.options.seconds, seed)
    except MicrobudgetError as error:
        bench.results.put(key, {"failure": str(error)[:300]}, stamp())
        return None
    row = {"ratio": found.ratio, "low": found.low, "high": found.high, "verdict": found.verdict}
    bench.results.put(key, {**row, "a_s": found.reference.median_s, "b_s": found.candidate.median_s}, stamp())
    print(f"{key}: {found.ratio:.3f} ({found.low:.3f}..{found.high:.3f})", file=sys.stderr, flush=True)
    return bench.results.get(key)


@dataclass(frozen=True)
class Line:
    """What became of one network with one thread count."""

    kind: str
    threads: int
    float_s: float
    speedups: dict[str, dict[str, Any]]  # scheme -> row over float
    delivered: str
    judged: dict[str, Any]  # delivered over float, timed again
    best: str
    regret: dict[str, Any] | None  # delivered over the best, timed directly; None where they are the same


def judge(bench: Bench, kind: str, threads: int) -> Line | None:
    """All timings of a network; None while some are missing."""
    speedups = {scheme: timed(bench, kind, FLOAT, scheme, threads) for scheme in SCHEMES}
    found = {scheme: row for scheme, row in speedups.items() if row is not None and "failure" not in row}
    if OURS not in found:
        return None
    delivered = FLOAT if found[OURS]["verdict"] == "slower" else OURS
    best = max(found, key=lambda scheme: found[scheme]["ratio"])
    best = best if found[best]["ratio"] > 1 else FLOAT
    same = {"ratio": 1.0, "low": 1.0, "high": 1.0, "verdict": "no difference shown"}
    judged = same if delivered == FLOAT else timed(bench, kind, FLOAT, OURS, threads, seed=1)
    regret = None if best == delivered else timed(bench, kind, delivered, best, threads, seed=1)
    if judged is None or (best != delivered and regret is None):
        return None
    return Line(kind, threads, found[OURS]["a_s"], found, delivered, judged, best, regret)


def lines(bench: Bench) -> Iterator[Line]:
    for kind in bench.options.networks:
        if not bench.late():
            build(bench, kind)
        for threads in (1, 2):
            line = judge(bench, kind, threads)
            if line is not None:
                yield line


def cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ratio']:.2f} ({row['low']:.2f}..{row['high']:.2f})"


def text(found: list[Line]) -> str:
    """The table and what it says."""
    head = ["network", "threads", "float", *(f"{scheme}, speedup" for scheme in SCHEMES), "delivered",
            "its speedup, timed again", "best", "regret"]  # fmt: skip
    rows = [
        [line.kind, line.threads, format_seconds(line.float_s), *(cell(line.speedups.get(s)) for s in SCHEMES),
         line.delivered, cell(line.judged), line.best, "0" if line.regret is None else regret_cell(line.regret)]
        for line in found
    ]  # fmt: skip
    slower = [line for line in found if line.judged["high"] < 1 / (1 + RESOLUTION)]
    regrets = [0.0 if line.regret is None else max(0.0, line.regret["ratio"] - 1) for line in found]
    kept = sum(line.delivered == FLOAT for line in found)
    said = (
        f"{len({line.kind for line in found})} networks with 1 and 2 threads, {len(found)} cases: float is kept in"
        f" {kept}; what is delivered is slower than float beyond the noise in {len(slower)}"
        + "".join(f" ({line.kind}, {line.threads})" for line in slower)
        + f". Regret against the best of all schemes: median {np.median(regrets):.1%}, largest {max(regrets):.1%}."
    )
    return "\n\n".join([said, table(head, rows), provenance("never_slower.py")])


def regret_cell(row: dict[str, Any]) -> str:
    return f"{row['ratio'] - 1:.1%} ({row['low'] - 1:.1%}..{row['high'] - 1:.1%})"


def parse() -> argparse.Namespace:
    from random_networks import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each pair that is timed")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after this time")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.seconds = list(QUICK), 1.0
    return options


def main() -> None:
    options = parse()
    name = "quick.json" if options.quick else "results.json"
    bench = Bench(Results(STORE / name), options, time.monotonic() + 60 * options.minutes)
    found = list(lines(bench))
    if not found:
        print("nothing is finished yet: run it again", file=sys.stderr)
        return
    page = text(found)
    print(page)
    if not options.quick and len(found) == 2 * len(options.networks):
        write_between(RESULTS / "quantization.md", "never_slower", page)


if __name__ == "__main__":
    main()
