"""Ours against the libraries' quantizers, on the same networks, calibration images and test images.

    python benchmarks/quantize.py                         all of it: about two hours on 2 quiet cores
    python benchmarks/quantize.py --quick                 a first look at ResNet-20, one draw, writes no page
    python benchmarks/quantize.py --part latency          one part: networks, quality, latency, cost, runtimes, tables
    python benchmarks/quantize.py --only "ours*"          settings by their names
    python benchmarks/quantize.py --minutes 8             stops in time; the next call goes on
    python benchmarks/quantize.py --nncf-python PATH      where NNCF is installed: pip install 'microbudget[bench]'

Every quantization runs in a process of its own with a limit of time and memory, so a peer that hangs, crashes or takes
all memory gives a row that says so. Results stay in runs/quantize/; a row is made again when what made it changed: our
sources, a library's version, or the network. The tables go into docs/results/quantization.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from anatomy import activations_alone, open_session, weights_alone
from markdown import RESULTS, ROOT, write_between
from microbudget.errors import MicrobudgetError
from microbudget.judge import Worker, time_pair
from microbudget.machine import memory
from microbudget.model import Model, Record
from quantize_goals import goals
from quantize_settings import (
    AGREEING,
    BOTH_RUNTIMES,
    COST_NETWORK,
    COST_SETTINGS,
    MANY_COUNTS,
    ONE_DRAW,
    REFERENCE_OPSET,
    SAMPLE_COUNTS,
    SAMPLES,
    SETTINGS,
    STORE,
    TIMED,
    result_file,
)
from quantize_tables import made, page, summary
from quantizers import ours_options
from results import Results

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bench:
    """The options of a run, and where its results are."""

    results: Results
    options: argparse.Namespace
    deadline: float

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def draws(self, setting: str) -> range:
        return range(1 if setting in ONE_DRAW else self.options.draws)

    def wants(self, setting: str) -> bool:
        return fnmatch.fnmatch(setting, self.options.only)


@cache
def digest(*paths: Path) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def own_sources() -> list[Path]:
    """What our quantizer computes with; the method in front of it only chooses options."""
    found = sorted((ROOT / "src" / "microbudget" / "methods" / "quantize").glob("*.py"))
    return [path for path in found if path.name not in ("__init__.py", "onnx_model.py")]


def digest_of(options: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:6]


def stamp(setting: str, network: str) -> str:
    """What a row depends on."""
    made_from = digest(STORE / "networks" / network / "model.onnx")
    if setting.startswith("ours"):
        return f"{made_from}.{digest(*own_sources())}.{digest_of(ours_options(setting))}"
    library = setting.split()[0]
    version = metadata.version("onnxruntime") if library in ("onnxruntime", "quantize_dynamic") else "1"
    return f"{made_from}.{version}"


def prepare(bench: Bench) -> None:
    """Make the networks that are not there, each in a process of its own."""
    for network in bench.options.networks:
        folder = STORE / "networks" / network
        if not (folder / "logits.npy").is_file():
            quiet = {"GOMP_SPINCOUNT": "10000"} | dict(os.environ)  # torch's idle threads leave others the processor
            script = [sys.executable, str(HERE / "networks.py"), network, str(folder)]
            subprocess.run(script, check=True, env=quiet)


def quantize(bench: Bench, setting: str, network: str, draw: int, samples: int, out: Path) -> dict[str, Any]:
    """Run a quantizer in a fresh process under the limits; a row with its costs, or with its failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = STORE / "networks" / network
    spec = {"setting": setting, "network": str(folder), "draw": draw, "samples": samples, "out": str(out)}
    python = bench.options.nncf_python if setting.startswith("nncf") else sys.executable
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", HERE)))}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [python, str(HERE / "quantizers.py"), json.dumps(spec)], stdout=said, stderr=errors, env=environment
        )
        broken = watch(process, bench.options.max_seconds, bench.options.max_memory_gb * 1e9)
        said.seek(0), errors.seek(0)
        if broken or process.returncode:
            words = errors.read().decode("utf-8", "replace").strip().splitlines()
            return {"failure": broken or (words[-1] if words else f"exit status {process.returncode}")[:300]}
        row: dict[str, Any] = json.loads(said.read().decode().splitlines()[-1])
    files = [out, out.with_suffix(".bin")] if out.suffix == ".xml" else [out]
    return row | {"size_bytes": sum(file.stat().st_size for file in files), "samples": samples}


def watch(process: subprocess.Popen[bytes], seconds: float, most_bytes: float) -> str | None:
    """Wait for the end, or end it when a limit is broken: then the words for it."""
    started = time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        try:
            used = memory.read(process.pid).peak_bytes
        except OSError:
            continue
        late = time.monotonic() - started > seconds
        if late or used > most_bytes:
            process.kill()
            process.wait()
            return f"stopped after {seconds:g} s" if late else f"stopped at {most_bytes / 1e9:g} GB of memory"
    return None


def module(runtime: str) -> str | None:
    """What a Worker calls a runtime: its module, None for the default one."""
    return None if runtime == "onnxruntime" else runtime


def answers(path: Path, runtime: str, test: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a model file, one image at a time, as it is used: dynamic scales depend on what else is in a batch."""
    with Worker() as worker:
        worker.open(Model(path, "onnx", Record()), threads=1, runtime=module(runtime))
        return np.concatenate([worker.answer({"pixel_values": image[None]}) for image in test])


def alone(path: Path, network: str, test: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Logits with only the weights rounded, and with only the activations, where the file can be separated so."""
    quantized, original = onnx.load(str(path)), onnx.load(str(STORE / "networks" / network / "model.onnx"))
    parts = {"weights": weights_alone(quantized), "activations": activations_alone(quantized, original)}
    found = {}
    for name, model in parts.items():
        if model is not None:
            session = open_session(model)
            steps = range(0, len(test), 8)
            found[name] = np.concatenate([session.run(None, {"pixel_values": test[i : i + 8]})[0] for i in steps])
    return found


def judge(setting: str, network: str, draw: int) -> None:
    """Keep the test images' logits of a quantized file; of the first draw also in the other runtime and separated."""
    path, test = result_file(setting, network, draw), np.load(STORE / "networks" / network / "test.npy")
    own = "openvino" if path.suffix == ".xml" else "onnxruntime"
    kept = {own: answers(path, own, test)}
    if setting in BOTH_RUNTIMES and draw == 0:
        kept["openvino"] = answers(path, "openvino", test)
    if path.suffix == ".onnx" and not setting.startswith("nearest") and draw == 0:
        kept |= alone(path, network, test)
    np.savez(path.with_suffix(".npz"), **kept)  # type: ignore[arg-type]


def quality(bench: Bench) -> None:
    """Quantize with every setting on every draw, and keep the answers."""
    for network in bench.options.networks:
        for setting in filter(bench.wants, SETTINGS):
            for draw in bench.draws(setting):
                key, mark = f"quality/{network}/{setting}/{draw}", stamp(setting, network)
                if bench.late() or bench.results.get(key, mark) is not None:
                    continue
                out = result_file(setting, network, draw)
                made = bench.results.get(f"cost/{network}/{setting}/{SAMPLES[network]}", mark) if draw == 0 else None
                if made is None or not out.is_file():
                    made = quantize(bench, setting, network, draw, SAMPLES[network], out)
                row = dict(made)
                if "failure" not in row:
                    try:
                        judge(setting, network, draw)
                    except MicrobudgetError as error:
                        row["failure"] = str(error)[:300]
                bench.results.put(key, row, mark)


def timed_file(setting: str, network: str) -> Path:
    return STORE / "networks" / network / "model.onnx" if setting == "float" else result_file(setting, network, 0)


def latency(bench: Bench) -> None:
    """Each setting interleaved with our 8 bits in onnxruntime, the yardstick of all."""
    for network in bench.options.networks:
        rivals = [(s, "openvino" if timed_file(s, network).suffix == ".xml" else "onnxruntime") for s in TIMED]
        rivals += [(s, "openvino") for s in BOTH_RUNTIMES]
        for setting, runtime in rivals:
            for threads in (1, 2):
                key = f"latency/{network}/{setting}/{runtime}/{threads}"
                mark = f"{stamp('ours 8', network)}.{stamp(setting, network)}"
                known = bench.results.get(key, mark) is not None or not bench.wants(setting)
                if bench.late() or known or not timed_file(setting, network).is_file():
                    continue
                row = time_against(setting, runtime, network, threads, bench.options.seconds)
                bench.results.put(key, row, mark)


def time_against(setting: str, runtime: str, network: str, threads: int, seconds: float) -> dict[str, Any]:
    """`ratio`: our latency over the setting's, above 1 where the setting is faster."""
    image = {"pixel_values": np.load(STORE / "networks" / network / "test.npy", mmap_mode="r")[:1].copy()}
    try:
        with Worker() as us, Worker() as rival:
            us.open(Model(timed_file("ours 8", network), "onnx", Record()), threads=threads)
            rival.open(Model(timed_file(setting, network), "onnx", Record()), threads=threads, runtime=module(runtime))
            pair = time_pair(us, rival, image, seconds=seconds)
    except MicrobudgetError as error:
        return {"failure": str(error)[:300]}
    return {
        "ratio": pair.ratio,
        "low": pair.low,
        "high": pair.high,
        "ours_s": pair.reference.median_s,
        "latency_s": pair.candidate.median_s,
    }


def cost(bench: Bench) -> None:
    """Seconds and peak memory on a quiet machine, and over the number of samples."""
    jobs = [(COST_NETWORK, setting, SAMPLES[COST_NETWORK]) for setting in COST_SETTINGS]
    jobs += [(COST_NETWORK, setting, count) for setting in MANY_COUNTS for count in SAMPLE_COUNTS]
    jobs += [("resnet20", "ours 8 gptq", count) for count in SAMPLE_COUNTS]
    for network, setting, samples in dict.fromkeys(jobs):
        key, mark = f"cost/{network}/{setting}/{samples}", stamp(setting, network)
        known = bench.results.get(key, mark) is not None or not bench.wants(setting)
        if bench.late() or known or network not in bench.options.networks:
            continue
        kept = result_file(setting, network, 0)  # the same file serves `quality`
        with tempfile.TemporaryDirectory() as scratch:
            out = kept if samples == SAMPLES[network] else Path(scratch) / kept.name
            row = quantize(bench, setting, network, 0, samples, out)
        bench.results.put(key, row, mark)


def runtimes(bench: Bench) -> None:
    """Whether what `quantize()` makes by default answers alike in three runtimes that share no code."""
    for network in bench.options.networks:
        key, mark = f"runtimes/{network}", stamp("ours 8", network)
        if not (bench.late() or bench.results.get(key, mark) is not None or not bench.wants("ours 8")):
            try:
                row = answered_alike(STORE / "networks" / network, SAMPLES[network])
            except Exception as error:  # of onnx, OpenVINO or ours: the row says it
                row = {"failure": f"{type(error).__name__}: {error}"[:300]}
            bench.results.put(key, row, mark)


def answered_alike(folder: Path, samples: int) -> dict[str, Any]:
    """Answers to calibration images: in how many of them the top answers are all one, and how far logits differ."""
    from onnx.reference import ReferenceEvaluator

    from microbudget.methods.quantize.quantizing import quantize_graph
    from microbudget.runtimes.onnx.graph import opset
    from quantizers import BATCH, Job

    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        model = onnx.load(str(folder / "model.onnx"))
        if opset(model) < REFERENCE_OPSET:
            model = onnx.version_converter.convert_version(model, REFERENCE_OPSET)
        onnx.save(model, str(source))
        job = Job(folder, 0, samples, out)
        quantize_graph(source, job.calibration(BATCH), out, **ours_options("ours 8"))
        images = np.concatenate([batch["pixel_values"] for batch in Job(folder, 0, AGREEING, out).calibration()])
        logits = {runtime: answers(out, runtime, images) for runtime in ("onnxruntime", "openvino")}
        evaluator = ReferenceEvaluator(str(out))
        own = [evaluator.run(None, {"pixel_values": image[None]})[0] for image in images]
    logits["onnx"] = np.concatenate(own)
    top = np.stack([one.argmax(1) for one in logits.values()])
    span = float(np.abs(logits["onnx"]).max())
    return {
        "images": len(images),
        "alike": int((top == top[0]).all(axis=0).sum()),
        **{name: float(np.abs(logits[name] - logits["onnx"]).max() / span) for name in ("onnxruntime", "openvino")},
    }


def tables(bench: Bench) -> None:
    """Write the page, and the table at its head."""
    networks = made(bench.results)
    text = page(networks, goals(networks, bench.results), bench.results)
    print(text)
    if not bench.options.quick:
        write_between(RESULTS / "quantization.md", "quantize-summary", summary(bench.results))
        write_between(RESULTS / "quantization.md", "quantize", text)


PARTS: dict[str, Callable[[Bench], None]] = {
    "networks": prepare,
    "quality": quality,
    "latency": latency,
    "cost": cost,
    "runtimes": runtimes,
    "tables": tables,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="may be given again; default: all")
    parser.add_argument("--networks", nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--only", default="*", help="settings, as a shell pattern")
    parser.add_argument("--draws", type=int, default=3, help="of the calibration set")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each pair that is timed")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after this time")
    parser.add_argument("--max-seconds", type=float, default=900.0, help="of one quantization")
    parser.add_argument("--max-memory-gb", type=float, default=12.0, help="of one quantization")
    parser.add_argument("--nncf-python", default=sys.executable)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.networks, options.draws, options.seconds = ["resnet20"], 1, 2.0
    return options


def main() -> None:
    options = parse()
    bench = Bench(Results(STORE / "results.json"), options, time.monotonic() + 60 * options.minutes)
    for part in options.part or PARTS:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
