"""Pruning channels of MobileNetV2 on flowers12: accuracy, latency and size, compared with Torch-Pruning and NNCF.

    python benchmarks/prune.py --all                   every point that is missing, the timing, the table: 20 minutes
    python benchmarks/prune.py --all --minutes 5       stops in time; the next call goes on
    python benchmarks/prune.py --part ours --share 0.5 one point alone (see PARTS, POINTS)
    python benchmarks/prune.py --latency               times all ONNX files interleaved (run it alone)
    python benchmarks/prune.py --table                 writes docs/prune.md

Results are kept in runs/prune/. Everybody starts from the same network (`resize(pixels=128) > finetune()`),
removes channels, gets the statistics of its batch norm estimated again on the same photos, and trains as many epochs
with the same loop, rates, photos and seed; the same export for all. Ours: `prune(size=...)` as it is. Torch-Pruning:
`MetaPruner` with its group magnitude importance, one ranking of all channels, widths in eights, the share searched to
keep as many parameters; `uniform` is the same with one rate for all layers. NNCF's structured filter pruning is gone
since version 3; what it has sets single weights to zero, which keeps every byte and every multiplication of the file
(it wants torchao: `pip install torchao`).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from markdown import ROOT, provenance, table, write_between
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.methods.prune.surgery import kept_share
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions, Example

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
RUNS = ROOT / "runs" / "prune"
PIXELS = 128
START = f"resize(pixels={PIXELS}) > finetune()"
POINTS = (0.5, 0.35)  # share of the parameters that stays
PARTS = ("ours", "torch-pruning", "uniform", "nncf")
JOBS = [("whole", 1.0), *((part, share) for share in POINTS for part in PARTS)]
EPOCHS = 5
RATE, HEAD_SHARE = 3e-4, 1 / 3  # of the backbone; of that for the head, which reads 1,280 raw features
SAMPLES = 64  # photos that the norms' statistics are estimated on, and int8 is calibrated with
SPLIT = 1  # of the photos; the rates of `finetune` were chosen with split 0 seen


def context(threads: int) -> Context:
    cache = RUNS / "cache"
    return Context(
        ImageTask.open(PHOTOS, DataOptions(seed=SPLIT, cache=cache)), cache, SPLIT, threads=threads, progress=Progress()
    )


def start(about: Context) -> Model:
    return build(load(MODEL), Recipe.parse(START), about, RUNS / "models")[-1]


def ours(model: Model, about: Context, share: float) -> Any:
    from microbudget.methods.prune import Prune
    from microbudget.runtimes.hf.image_classifier import load_network

    pruned = build(model, Recipe((Prune(size=f"{share}x"),)), about, RUNS / "models")[-1]
    return load_network(pruned.path)


def torch_pruning(network: Any, pixels: Any, share: float, *, everywhere: bool) -> Any:
    """Its share of channels is searched by bisection, so that it keeps as many parameters."""
    import torch
    import torch_pruning as tp

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(pixel_values=x).logits

    low, high, best = 0.0, 0.95, None
    for _ in range(7):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(network)
        wrapped = Wrapped(candidate)
        pruner = tp.pruner.MetaPruner(
            wrapped,
            pixels,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            global_pruning=not everywhere,
            max_pruning_ratio=1.0 if everywhere else 0.9,
            round_to=8,
            ignored_layers=[candidate.classifier],
        )
        pruner.step()
        if kept_share(network, candidate) <= share:
            best, high = candidate, ratio
        else:
            low = ratio
    assert best is not None
    return best


def nncf_zeros(network: Any, share: float, pixels: Any) -> Any:
    """The smallest weights of all layers to zero."""
    import nncf

    return nncf.prune(
        network,
        mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
        ratio=1 - share,
        examples_inputs={"pixel_values": pixels},
    )


def nncf_stripped(network: Any) -> Any:
    """The network with its zeros in the weights, and nothing of NNCF left in it."""
    import nncf

    return nncf.strip(network, do_copy=False, strip_format=nncf.StripFormat.IN_PLACE)


def spread(examples: Sequence[Example]) -> list[Example]:
    """SAMPLES of them, evenly; the same for everybody."""
    return [examples[index] for index in np.linspace(0, len(examples) - 1, SAMPLES, dtype=int)]


def new_statistics(network: Any, about: Context, preprocessing: dict[str, Any]) -> None:
    """Of each batch norm: those of the same photos for everybody, in one batch. The last step of a cut."""
    import torch

    from microbudget.training import objectives
    from microbudget.training.modes import fresh_norms

    fresh_norms(network)
    with torch.no_grad():
        network(**objectives.inputs(about.task, spread(about.task.examples("train")), preprocessing))
    network.eval()


def retrain(network: Any, about: Context, preprocessing: dict[str, Any]) -> float:
    """The same for everybody: through all layers, the best epoch kept; its accuracy on validation."""
    from microbudget.training import classifiers, objectives
    from microbudget.training.modes import frozen_norms
    from microbudget.training.settings import Execution, Settings
    from microbudget.training.train import train

    groups = classifiers.groups(network, only_last_block=False, factor=1 / HEAD_SHARE)
    settings = Settings(EPOCHS, RATE * HEAD_SHARE, patience=None)
    objective = objectives.labelled(about.task, preprocessing, views=2)
    done = train(
        classifiers.for_training(network),
        objective,
        settings,
        Execution(threads=about.threads, name="retrain", progress=about.progress),
        groups=groups,
        mode=frozen_norms,
    )
    scores = done.epochs[done.kept - 1] if done.kept else {"validation_accuracy": (done.before or {})["accuracy"]}
    return float(scores["validation_accuracy"])


def accuracy(network: Any, about: Context, preprocessing: dict[str, Any], split: Any) -> float:
    from microbudget.training.objectives import answers

    examples = about.task.examples(split)
    return float(about.task.score(answers(network, about.task, preprocessing, examples), examples).value)


def row_path(part: str, share: float) -> Path:
    return RUNS / f"{part}-{share}.json"


def point(part: str, share: float, threads: int) -> dict[str, Any]:
    """Cut, train, export; what was measured."""
    import torch

    from microbudget.runtimes.hf.image_classifier import load_network, onnx_bytes

    about = context(threads)
    model = start(about)
    preprocessing = model.record.preprocessing or {}
    whole = load_network(model.path)
    pixels = torch.from_numpy(about.task.collate(about.task.examples("train")[:2], preprocessing)["pixel_values"])
    began = time.monotonic()
    if part == "ours":
        network = ours(model, about, share)
    elif part == "nncf":
        network = nncf_zeros(copy.deepcopy(whole), share, pixels)
    elif part == "whole":
        network = copy.deepcopy(whole)
    else:
        network = torch_pruning(whole, pixels, share, everywhere=part == "uniform")
    pruned_s = time.monotonic() - began
    if part != "whole":
        new_statistics(network, about, preprocessing)
    before = accuracy(network.eval(), about, preprocessing, "test")
    validation = retrain(network, about, preprocessing)
    if part == "nncf":
        network = nncf_stripped(network)
    row = {
        "part": part,
        "share": share,
        "parameters_left": kept_share(whole, network),
        "pruning_s": pruned_s,
        "untrained": before,
        "validation": validation,
        "test": accuracy(network, about, preprocessing, "test"),
        "examples": len(about.task.examples("test")),
    }
    path = row_path(part, share).with_suffix(".onnx")
    path.write_bytes(onnx_bytes(network.to(memory_format=torch.contiguous_format), *pixels.shape[2:]))
    row["bytes"] = path.stat().st_size
    row_path(part, share).write_text(json.dumps(row), encoding="utf-8")
    return row


def latency() -> None:
    """Every file that was not timed, interleaved with the unpruned one; the median ratio."""
    from microbudget.methods.prune.latency import time_ratio

    path = row_path("whole", 1.0).with_suffix(".onnx")
    if not path.is_file():
        raise SystemExit("the unpruned network is not there: --part whole, or --all")
    reference, pixels = path.read_bytes(), np.zeros((1, 3, PIXELS, PIXELS), np.float32)
    for path in sorted(RUNS.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        if "time_left" not in row:
            pruned = path.with_suffix(".onnx").read_bytes()
            row["time_left"] = time_ratio(reference, pruned, {"pixel_values": pixels}, 2).times
            path.write_text(json.dumps(row), encoding="utf-8")
            print(row)


def everything(minutes: float, threads: int) -> None:
    """The points that are missing, then the timing and the table, as far as the time goes."""
    deadline = time.monotonic() + minutes * 60
    for part, share in JOBS:
        if row_path(part, share).is_file():
            continue
        if time.monotonic() > deadline:
            print("time is up: the same call goes on", file=sys.stderr)
            return
        print(point(part, share, threads), flush=True)
    latency()
    write_table()


def write_table() -> None:
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob("*.json")]
    order = {name: index for index, name in enumerate(("whole", *PARTS))}
    rows.sort(key=lambda row: (-row["share"], order[row["part"]]))
    head = [
        "",
        "parameters left",
        "time left",
        "size",
        "right after the cut",
        f"after {EPOCHS} epochs: validation",
        "test",
    ]
    body = [
        [
            row["part"],
            f"{row['parameters_left']:.0%}",
            f"{row['time_left']:.0%}" if "time_left" in row else "not timed",
            f"{row['bytes'] / 1e6:.2f} MB",
            f"{row['untrained']:.1%}",
            f"{row['validation']:.1%}",
            f"{row['test']:.1%} of {row['examples']}",
        ]
        for row in rows
    ]
    note = (
        f"MobileNetV2 at {PIXELS} pixels on flowers12; `whole` trains as long without a cut. Time: one image in ONNX"
        " Runtime, float32, 2 threads, interleaved with `whole`. torch-pruning: one ranking of all channels; uniform:"
        " Torch-Pruning with one rate for all layers; nncf: single weights, whose zeros save nothing in the file or in"
        " time."
    )
    write_between(ROOT / "docs" / "prune.md", "prune", f"{table(head, body)}\n\n{note} {provenance('prune.py')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--part", choices=("whole", *PARTS))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2, help="of what is not timed")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if options.all:
        everything(options.minutes, options.threads)
    if options.part:
        print(point(options.part, options.share, options.threads))
    if options.latency:
        latency()
    if options.table:
        write_table()


if __name__ == "__main__":
    main()
