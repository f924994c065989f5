"""LoRA on a small language model: one module's style of text, against full fine-tuning; and ten tasks on one backbone.

    python benchmarks/lora.py --all                    all that is missing, then docs/lora.md: under 20 minutes
    python benchmarks/lora.py --all --minutes 5        stops in time; the next call goes on
    python benchmarks/lora.py --way full               one way (see WAYS); results are kept in runs/lora/
    python benchmarks/lora.py --module unittest        a small adapter for another module's text (see MODULES)
    python benchmarks/lora.py --table                  writes docs/lora.md

The text is the source of a package of the standard library that the model has not been trained on, cut into train,
validation and test by the task; the table says how many of its lines are in the model's training text all the same. All
ways use the same loop, rows, batch and seed, each at the best of its learning rates and epochs by validation; bits per
byte are of the test split, judged as `measure` does. Memory, in a process of its own: the peak during the training
(VmHWM, set back just before it) less what the process took before, and the weights, which it took before; the
prediction before the start covers the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from markdown import ROOT, provenance, table, write_between

ASSETS = ROOT.parent / "shared" / "assets"
MODEL = ASSETS / "models" / "lm-python"
RUNS = ROOT / "runs" / "lora"
TRAINED_ON = ASSETS / "text" / "python" / "train.txt"
MODULE = "unittest"
MODULES = (
    "unittest", "logging", "html", "lib2to3", "concurrent", "collections", "idlelib", "dbm", "json", "venv",
)  # fmt: skip
LARGEST = 200_000  # bytes of a module's text: 6 trainings in 20 minutes
TELLING = 25  # characters of a line that does not stand in every file
PATIENCE, BATCH, LENGTH = 3, 8, 256
# Learning rates and epochs to try, each at the best by validation: adapters want higher rates and more steps.
TRIES = {
    "full": ((3e-4, 3), (1e-3, 3), (2e-3, 3), (1e-3, 12)),
    "lora, rank 4": ((5e-3, 3), (3e-3, 12), (1e-2, 12)),
    "lora, rank 32": ((3e-3, 6),),
}
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, checkpointing": {"checkpointing": True, "as": "full"},
    "lora, rank 4": {"rank": 4},
    "lora, rank 4, checkpointing": {"rank": 4, "checkpointing": True, "as": "lora, rank 4"},
    "lora, rank 32": {"rank": 32},
}


def source(module: str, largest: int = LARGEST) -> Path:
    """The module's source as one text, its tests included: they are its style too."""
    try:
        folder = Path(importlib.import_module(module).__path__[0])
    except ImportError as error:
        raise SystemExit(f"this Python has no {module} ({error}): take another of {', '.join(MODULES)}") from error
    files = sorted(folder.rglob("*.py"))
    path = RUNS / "text" / f"{module}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    path.write_text(text[:largest], encoding="utf-8")
    return path


def known(path: Path) -> float:
    """Share of the telling lines of a text that stand in the model's training text."""
    trained, own = (
        [line.strip() for line in text.read_text(encoding="utf-8").splitlines() if len(line.strip()) > TELLING]
        for text in (TRAINED_ON, path)
    )
    there = set(trained)
    return sum(line in there for line in own) / max(len(own), 1)


def forget_the_peak() -> None:
    """VmHWM counts again from here."""
    Path("/proc/self/clear_refs").write_text("5")


def status(name: str) -> int:
    """Bytes of this process: VmHWM or VmRSS."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(rows[name].split()[0]) * 1024


def train_once(way: str, rate: float, epochs: int, threads: int) -> dict[str, Any]:
    """In a process of its own: train, note the peak, judge on validation and test."""
    from microbudget.kinds.language_modelling.text import TextTask
    from microbudget.kinds.language_modelling.token_rows import token_rows
    from microbudget.methods import Context
    from microbudget.methods.lora import adapting, memory
    from microbudget.progress import Progress
    from microbudget.runtimes.hf.causal import load_network, load_tokenizer
    from microbudget.training.next_tokens import next_tokens
    from microbudget.training.settings import Execution, Settings
    from microbudget.training.train import train

    spec = WAYS[way]
    about = Context(TextTask.open(source(MODULE)), RUNS / "cache", threads=threads, progress=Progress())
    tokenizer, network = load_tokenizer(MODEL), load_network(MODEL)
    rows, held_out = (token_rows(about.task, split, tokenizer, LENGTH) for split in ("train", "validation"))
    learner, checkpointing = network, spec.get("checkpointing", False)
    if "rank" in spec:
        names = adapting.chosen(network, None, None)
        learner = adapting.adapted(network, names, spec["rank"], 2.0 * spec["rank"], None, 0)
    objective = next_tokens(rows, held_out)
    batch = objective.batch(np.array([0]), 0)
    kept, largest = memory.saved_bytes(learner.train(), lambda one: objective.loss(one, batch))
    if checkpointing:
        adapting.enable_checkpointing(network)
        outside, _ = memory.saved_bytes(learner, lambda one: objective.loss(one, batch))
        config = network.config
        kept = memory.checkpointed(kept, outside, config.num_hidden_layers, 4 * LENGTH * config.hidden_size)
    estimate = memory.training_bytes(learner, 1 if checkpointing else BATCH, kept, largest)
    trained, everything = adapting.parameter_counts(learner)
    forget_the_peak()
    before, began = status("VmRSS"), time.monotonic()
    settings = Settings(epochs, rate, BATCH, patience=PATIENCE, parts=BATCH if checkpointing else 1)
    done = train(learner, objective, settings, Execution(threads=threads, name=way, progress=about.progress))
    peak = status("VmHWM")
    seconds = time.monotonic() - began
    final = learner.merge_and_unload() if "rank" in spec else learner
    return {
        "way": way,
        "rate": rate,
        "epochs": epochs,
        "best_epoch": done.kept,
        "trained": trained,
        "parameters": everything,
        "validation": min(row["validation_loss"] for row in done.epochs),
        "test": bits(final, tokenizer, about.task),
        "known": known(source(MODULE)),
        "peak": peak,
        "memory": peak - before + memory.BYTES * everything,
        "estimate": estimate,
        "seconds": seconds,
        "threads": threads,
    }


def bits(network: Any, tokenizer: Any, task: Any) -> float:
    """Bits per byte of the test split, as `measure` judges: saved and opened as a Model."""
    from tempfile import TemporaryDirectory

    from microbudget.runtimes import open_session
    from microbudget.runtimes.loading import load

    with TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        session, examples = open_session(load(folder), threads=2), task.examples("test")
        return float(task.score(session.answer(task.collate(examples, {})), examples).value)


def way_path(way: str, rate: float, epochs: int) -> Path:
    return RUNS / f"way-{way.replace(', ', '-').replace(' ', '')}-{rate:g}-{epochs}.json"


def tries(way: str) -> tuple[tuple[float, int], ...]:
    """Learning rates and epochs to try; with checkpointing the best without, which the result does not depend on."""
    alike = WAYS[way].get("as")
    if alike is None:
        return TRIES[way]
    rows = [row for row in ways() if row["way"] == alike]
    if not rows:
        raise SystemExit(f"{way} takes the best rate and epochs of {alike}: run that first")
    best = min(rows, key=lambda row: row["validation"])
    return ((best["rate"], best["epochs"]),)


def ways() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("way-*.json"))]


def run_way(way: str, rate: float, epochs: int, threads: int) -> None:
    path = way_path(way, rate, epochs)
    if path.exists():
        return
    command = [sys.executable, __file__, "--once", way, str(rate), str(epochs), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    path.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
    print(done.stdout.splitlines()[-1])


def adapter(module: str, threads: int) -> None:
    """A kept adapter for a module's text: its bytes, and bits per byte before and with it."""
    from microbudget.kinds.language_modelling.text import TextTask
    from microbudget.methods import Context
    from microbudget.methods.lora import Lora
    from microbudget.progress import Progress
    from microbudget.recipes.build import build_step
    from microbudget.runtimes import open_session
    from microbudget.runtimes.loading import load

    task = TextTask.open(source(module, 100_000))
    about = Context(task, RUNS / "cache", threads=threads, progress=Progress())
    given = load(MODEL)
    kept = build_step(given, Lora(rank=4, epochs=3, learning_rate=5e-3, merge=False), about, RUNS / "adapters")
    examples = task.examples("test")
    found = [
        float(task.score(open_session(one, threads=2).answer(task.collate(examples, {})), examples).value)
        for one in (given, kept)
    ]
    size = sum(file.stat().st_size for file in kept.path.iterdir() if file.name.startswith("adapter"))
    row = {"module": module, "before": found[0], "after": found[1], "bytes": size, "backbone": given.size_bytes}
    (RUNS / f"adapter-{module}.json").write_text(json.dumps(row), encoding="utf-8")
    print(row)


def write_table() -> None:
    from microbudget.kinds.language_modelling.text import TextTask
    from microbudget.runtimes.hf.causal import load_network, load_tokenizer

    rows = ways()
    best = [
        min((row for row in rows if row["way"] == way), key=lambda row: row["validation"])
        for way in WAYS
        if any(row["way"] == way for row in rows)
    ]
    full = next((row for row in best if row["way"] == "full"), None)
    if full is None:
        raise SystemExit("full fine-tuning, which all is compared with, was not run: --way full")
    head = [
        "",
        "trained",
        "bits per byte",
        "against full",
        "memory of the training",
        "against full",
        "predicted",
        "whole process",
        "time",
    ]
    untrained = bits(load_network(MODEL), load_tokenizer(MODEL), TextTask.open(source(MODULE)))
    body = [["as it is", "0%", f"{untrained:.4f}", f"{untrained / full['test'] - 1:+.2%}", "", "", "", "", ""]]
    body += [
        [
            f"{row['way']} (rate {row['rate']:g}, {row['epochs']} epochs)",
            f"{row['trained'] / full['parameters']:.2%}",
            f"{row['test']:.4f}",
            f"{row['test'] / full['test'] - 1:+.2%}",
            f"{row['memory'] / 1e6:.0f} MB",
            f"{row['memory'] / full['memory']:.0%}",
            f"{row['estimate'] / 1e6:.0f} MB ({row['estimate'] / row['memory'] - 1:+.0%})",
            f"{row['peak'] / 1e6:.0f} MB",
            f"{row['seconds']:.0f} s",
        ]
        for row in best
    ]
    note = (
        f"Text: the source of `{MODULE}`, of whose lines {full['known']:.1%} stand in the model's training text. Goal:"
        " bits per byte within 2 % of full fine-tuning, at most 2 % of the parameters trained, half the peak memory."
        f" {_reached(best, full)} Time: {full['threads']} thread{'s' * (full['threads'] > 1)}, with other work on the"
        " machine."
    )
    parts = [table(head, body), note, _adapters(), provenance("lora.py")]
    write_between(ROOT / "docs" / "lora.md", "lora", "\n\n".join(part for part in parts if part))


def _reached(best: list[dict[str, Any]], full: dict[str, Any]) -> str:
    """The goals one by one, of the smallest adapters with checkpointing."""
    row = next((row for row in best if row["way"] == "lora, rank 4, checkpointing"), None)
    if row is None:
        return ""
    found = {
        f"bits per byte {row['test'] / full['test'] - 1:+.1%}": row["test"] <= 1.02 * full["test"],
        f"{row['trained'] / full['parameters']:.2%} trained": row["trained"] <= 0.02 * full["parameters"],
        f"{row['memory'] / full['memory']:.0%} of the memory": row["memory"] <= 0.5 * full["memory"],
    }
    listed = ", ".join(f"{what} ({'reached' if there else 'missed'})" for what, there in found.items())
    return f"With rank 4 and checkpointing: {listed}."


def _adapters() -> str:
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("adapter-*.json"))]
    if not rows:
        return ""
    small, backbone = sum(row["bytes"] for row in rows), rows[0]["backbone"]
    gains = [1 - row["after"] / row["before"] for row in rows]
    return (
        f"{len(rows)} tasks ({', '.join(row['module'] for row in rows)}), an adapter each for one backbone:"
        f" {backbone / 1e6:.1f} + {small / 1e6:.1f} MB, where {len(rows)} models would take"
        f" {len(rows) * backbone / 1e6:.0f} MB. Bits per byte of each one's held-out text fell by {min(gains):.1%} to"
        f" {max(gains):.1%}."
    )


def everything(minutes: float, threads: int) -> None:
    """All ways and adapters that are missing, then the table, as far as the time goes."""
    deadline = time.monotonic() + minutes * 60
    for way in WAYS:
        for rate, epochs in tries(way):
            if time.monotonic() > deadline:
                print("time is up: the same call goes on", file=sys.stderr)
                return
            run_way(way, rate, epochs, threads)
    for module in MODULES:
        if (RUNS / f"adapter-{module}.json").exists():
            continue
        if time.monotonic() > deadline:
            print("time is up: the same call goes on", file=sys.stderr)
            return
        adapter(module, threads)
    write_table()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--way", choices=tuple(WAYS))
    parser.add_argument("--once", nargs=3, metavar=("WAY", "RATE", "EPOCHS"))
    parser.add_argument("--module", choices=MODULES)
    parser.add_argument("--table", action="store_true")
    parser.add_argument(
        "--threads", type=int, default=2, help="of the training: memory and quality do not depend on it"
    )
    options = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if options.once:
        way, rate, epochs = options.once
        print(json.dumps(train_once(way, float(rate), int(epochs), options.threads)))
    if options.all:
        everything(options.minutes, options.threads)
    if options.way:
        for rate, epochs in tries(options.way):
            run_way(options.way, rate, epochs, options.threads)
    if options.module:
        adapter(options.module, options.threads)
    if options.table:
        write_table()


if __name__ == "__main__":
    main()
