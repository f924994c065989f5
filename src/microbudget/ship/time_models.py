"""Time and check this kit's models here: python time_models.py [--threads N] [--seconds S] [--only NAME,NAME]

Writes timings.json, by which `microbudget shrink ... --timings timings.json` chooses. Each model runs in a process of
its own, in turns with one of them, the base. Needs NumPy and the runtime that kit.json names."""

import argparse
import difflib
import hashlib
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import random
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BLOCK_S, WARM_CALLS, FEWEST = 0.03, 3, 6  # calls of this time are a block; with fewer pairs of blocks nothing is sure


def open_onnxruntime(runtime, model, threads):
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # who waits leaves the processor to the other
    session = runtime.InferenceSession(str(HERE / model["open"]), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([model["output"]], inputs)[0].ravel()


OPENERS = {"onnxruntime": open_onnxruntime}  # each returns what answers one example


def memory_bytes(field):
    """Of this process, now (VmRSS) or at most so far (VmHWM); None where the system does not say it."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(each.split()[1]) * 1024 for each in lines if each.startswith(field)), None)


def checked(model, answers):
    """Whether they are as where the kit was made: the same top answer, or a difference within the tolerance."""
    expected = json.loads((HERE / model["answers"]).read_text(encoding="utf-8"))
    if model["tokens"]:  # the share of them that differs
        largest = np.array([1 - difflib.SequenceMatcher(None, *pair).ratio() for pair in zip(answers, expected)])
        same = largest == 0
    else:
        largest = np.abs(np.array(answers, np.float64) - expected).max(1)
        same = np.argmax(answers, 1) == np.argmax(expected, 1)
    agrees = np.isfinite(largest) & (same | (largest <= model["tolerance"]))
    return {"agrees": bool(agrees.all()), "same_top": int(same.sum()), "largest_difference": float(largest.max())}


def clock(call, inputs, count):
    times = [time.perf_counter()]
    for _ in range(count):
        call(inputs)
        times.append(time.perf_counter())
    return np.diff(times)


def serve(line, model, threads):
    """The process of one model: opens it, answers the examples, and times a block of calls as often as it is asked."""
    try:
        runtime = importlib.import_module(model["runtime"])
        inputs = [{name: np.load(HERE / path) for name, path in call.items()} for call in model["calls"]]
        before, started = memory_bytes("VmRSS"), time.perf_counter()
        call = OPENERS[model["runtime"]](runtime, model, threads)
        found = {"load_s": time.perf_counter() - started, "runtime": f"{model['runtime']} {runtime.__version__}"}
        answers = [call(each) for each in inputs]
        found["memory_bytes"] = before and memory_bytes("VmHWM") - before
        calls = max(1, min(1000, math.ceil(BLOCK_S / clock(call, inputs[0], 3).min())))
        line.send({**found, "examples": len(answers), **checked(model, answers)})
        while line.recv():
            times = clock(call, inputs[0], calls + WARM_CALLS if calls > 1 else 1)[-calls:]
            line.send({"seconds": float(np.median(times))})
    except Exception as error:  # the runtimes' errors share no class
        line.send({"failure": f"{type(error).__name__}: {error}"})


class Opened:
    """A model in a process of its own: its memory is its own, and a crash takes no other with it."""

    def __init__(self, model, threads):
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, model, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.found = self.received()

    def received(self):
        try:
            found = self.line.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"its process ended with status {self.process.exitcode}") from None
        if "failure" in found:
            raise RuntimeError(found["failure"])
        return found

    def block_s(self):
        self.line.send(True)
        return self.received()["seconds"]


def middle(values):
    """The median, and the order statistics that hold it at 95 % whatever the distribution (Conover 1999, 3.2)."""
    rank, tail = 0, 1
    while tail <= 0.025 * 2 ** len(values):
        rank += 1
        tail += math.comb(len(values), rank)
    return float(np.median(values)), sorted(values)[max(rank, 1) - 1], sorted(values)[-max(rank, 1)]


def timed(models, threads, seconds):
    """A row for each model, and the base's times. The first that runs is the base; one that fails has the reason."""
    rows, base, base_s = [], None, []
    for model in models:
        rows.append({key: model[key] for key in ("name", "recipe", "fingerprint", "files")})
        try:
            opened, pairs, end = Opened(model, threads), [], time.monotonic() + seconds
            base = base or opened
            while len(pairs) < FEWEST or time.monotonic() < end:  # in random order, so that both meet the same load
                block = {side: side.block_s() for side in random.sample([base, opened], 2)}
                pairs.append((block[base], block[opened]))
            base_s += [ours for ours, _ in pairs]
            speedup, low, high = middle([ours / theirs for ours, theirs in pairs])
            rows[-1] |= {**opened.found, "base": opened is base, "pairs": len(pairs)}
            rows[-1] |= {"speedup": speedup, "speedup_low": low, "speedup_high": high}
            if opened is not base:
                opened.process.terminate()
        except (RuntimeError, BrokenPipeError) as error:
            rows[-1]["failure"] = str(error)
        said = rows[-1].get("failure") or f"{speedup:.3g} times the base's speed, agrees: {rows[-1]['agrees']}"
        print(f"{model['name']}: {said}", flush=True)
    return rows, base_s


def machine():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    names = [each.partition(": ")[2] for each in info.splitlines() if each.startswith(("model name", "Model"))]
    cpu = (names or [platform.processor() or platform.machine()])[-1]
    system = {"architecture": platform.machine(), "platform": platform.platform(terse=True)}
    return {"cpu": cpu, "cores": cores, **system, "python": platform.python_version()}


def main():
    parser, here = argparse.ArgumentParser(description=__doc__), machine()
    parser.add_argument("--threads", type=int, default=here["cores"], help="of the runtime (default: all cores)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each model (default: 6)")
    parser.add_argument("--only", default="", help="these models, by their names in kit.json, and the base")
    options, kit = parser.parse_args(), json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    only = options.only.split(",") if options.only else [each["name"] for each in kit["models"]]
    models = [each for each in kit["models"] if each["name"] in [kit["models"][0]["name"], *only]]
    if unknown := set(only) - {each["name"] for each in models}:
        parser.error(f"--only: no model is called {min(unknown)}; kit.json has the names")
    for needed in {each["runtime"] for each in models}:
        if importlib.util.find_spec(needed) is None:
            parser.error(f"{needed} is not installed here: python -m pip install {needed}")
    for path, digest in [each for files in (kit, *models) for each in files["files"].items()]:
        if not (HERE / path).is_file() or hashlib.sha256((HERE / path).read_bytes()).hexdigest() != digest:
            parser.error(f"{path} is missing or has changed since the kit was made: copy the whole kit again")
    rows, base_s = timed(models, max(1, options.threads), options.seconds)
    for row in [each for each in rows if "speedup" in each]:
        latency, low, high = middle(base_s)
        row |= {"latency_s": latency / row["speedup"], "latency_low_s": low / row["speedup_high"]}
        row["latency_high_s"] = high / row["speedup_low"]
    found = {"version": 1, "run": kit["run"], "machine": here, "threads": options.threads, "models": rows}
    (HERE / "timings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"{HERE / 'timings.json'} is written: give it to microbudget shrink ... --timings timings.json")
    sys.exit(None if base_s else "error: none of the models runs here; timings.json has the reasons")


if __name__ == "__main__":
    main()
