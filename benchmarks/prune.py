"""Pruning channels of MobileNetV2 on flowers12: accuracy against latency and size, beside Torch-Pruning and NNCF.

    python benchmarks/prune.py --part ours --step 0    one point (see POINTS); what is measured stands in runs/prune/
    python benchmarks/prune.py --latency               times all ONNX files in turns (run it alone)
    python benchmarks/prune.py --table                 writes docs/prune.md

Everybody starts from the same network (`resize(pixels=160) > finetune()`, then two epochs through all layers), removes
channels, and trains as many epochs with the same loop, rates, photos and seed; the same export for all. Ours:
`prune(size=...)` as it is. Torch-Pruning: `MetaPruner` with its group magnitude importance, one ranking of
all channels, widths in eights, the share searched to keep as many parameters; `--part uniform` is the same with
one rate for all layers. NNCF's structured filter pruning is gone since version 3; what it has sets single weights to
zero (`--part nncf`), which keeps every byte and every multiplication of the ONNX file.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from typing import Any

import numpy as np

from markdown import ROOT, provenance, table, write_between
from microbudget.build import build
from microbudget.loading import load
from microbudget.methods import Context
from microbudget.methods.prune.surgery import kept_share
from microbudget.model import Model
from microbudget.progress import Progress
from microbudget.recipe import Recipe
from microbudget.tasks.images import ImageTask

ASSETS = ROOT.parent / "shared" / "assets"
MODEL, PHOTOS = ASSETS / "models" / "mobilenet_v2", ASSETS / "images" / "flowers12"
RUNS = ROOT / "runs" / "prune"
START = "resize(pixels=160) > finetune() > finetune(unfreeze='all', deep_epochs=2)"
POINTS = (0.7, 0.5, 0.35, 0.25)  # share of the parameters that stays
PARTS = ("ours", "torch-pruning", "uniform", "nncf")
EPOCHS = 5
RATE = 1e-3  # of the head; a tenth for the rest


def context() -> Context:
    cache = RUNS / "cache"
    return Context(ImageTask.open(PHOTOS, cache=cache), cache, threads=2, progress=Progress())


def start(about: Context) -> Model:
    return build(load(MODEL), Recipe.parse(START), about, RUNS / "models")[-1]


def ours(model: Model, about: Context, share: float) -> Any:
    from microbudget.methods.prune import Prune
    from microbudget.runtimes.torch import load_network

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


def nncf_zeros(network: Any, share: float) -> Any:
    """The smallest weights of all layers to zero."""
    import torch

    weights = [m.weight for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    import nncf

    pruned = nncf.prune(
        network,
        mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
        ratio=1 - share,
        examples_inputs={"pixel_values": torch.zeros(1, 3, 160, 160)},
    )
    del weights
    return pruned


def retrain(network: Any, about: Context, preprocessing: dict[str, Any]) -> list[dict[str, Any]]:
    """The same for everybody: EPOCHS through all layers, batch norm frozen, the best epoch on validation kept."""
    from microbudget import classifiers, lessons
    from microbudget.train import Settings, frozen_norms, train

    groups = classifiers.groups(network, only_last_block=False, share=0.1)
    settings = Settings(EPOCHS, RATE, patience=None)
    lesson = lessons.labelled(about.task, preprocessing, views=2)
    done = train(
        classifiers.for_training(network), lesson, settings, groups=groups, mode=frozen_norms, threads=2,
        what="retrain", progress=about.progress,
    )  # fmt: skip
    return done.epochs


def accuracy(network: Any, about: Context, preprocessing: dict[str, Any], split: Any) -> float:
    from microbudget import lessons

    examples = about.task.examples(split)
    logits = lessons.answers(network, about.task, preprocessing, examples)
    return float(about.task.score(logits, examples).value)


def point(part: str, share: float) -> dict[str, Any]:
    """One row: accuracy before and after the training, parameters, and an ONNX file to be timed."""
    import torch

    from microbudget.runtimes.torch import load_network, onnx_bytes

    about = context()
    model = start(about)
    preprocessing = model.record.preprocessing or {}
    whole = load_network(model.path)
    pixels = torch.from_numpy(about.task.collate(about.task.examples("train")[:2], preprocessing)["pixel_values"])
    began = time.monotonic()
    if part == "ours":
        network = ours(model, about, share)
    elif part == "nncf":
        network = nncf_zeros(copy.deepcopy(whole), share)
    elif part == "whole":
        network = copy.deepcopy(whole)
    else:
        network = torch_pruning(whole, pixels, share, everywhere=part == "uniform")
    pruned_s = time.monotonic() - began
    before = accuracy(network.eval(), about, preprocessing, "test")
    epochs = retrain(network, about, preprocessing)
    row = {
        "part": part,
        "share": share,
        "parameters_left": kept_share(whole, network),
        "pruning_s": pruned_s,
        "untrained": before,
        "validation": max(row["validation_accuracy"] for row in epochs),
        "test": accuracy(network, about, preprocessing, "test"),
        "examples": len(about.task.examples("test")),
    }
    path = RUNS / f"{part}-{share}.onnx"
    path.write_bytes(onnx_bytes(network.to(memory_format=torch.contiguous_format), *pixels.shape[2:]))
    (RUNS / f"{part}-{share}.json").write_text(json.dumps(row | {"bytes": path.stat().st_size}), encoding="utf-8")
    return row


def latency() -> None:
    """Every file in turns with the unpruned one; the median ratio."""
    from microbudget.methods.prune.targets import time_ratio

    about = context()
    pixels = np.zeros((1, 3, 160, 160), np.float32)
    reference = (RUNS / "whole-1.0.onnx").read_bytes()
    del about
    for path in sorted(RUNS.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        row["time_left"] = time_ratio(reference, path.with_suffix(".onnx").read_bytes(), pixels, 2)
        path.write_text(json.dumps(row), encoding="utf-8")
        print(row)


def write_table() -> None:
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS.glob("*.json")]
    order = {name: index for index, name in enumerate(("whole", *PARTS))}
    rows.sort(key=lambda row: (order[row["part"]], -row["share"]))
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
        "MobileNetV2 at 160 pixels on flowers12; `whole` trains as long without a cut. Time: one image in ONNX Runtime,"
        " float32, 2 threads, in turns with `whole`. torch-pruning: one ranking of all channels; uniform: Torch-Pruning"
        " with one rate for all layers; nncf: single weights, whose zeros save nothing in the file or in time."
    )
    write_between(ROOT / "docs" / "prune.md", "prune", f"{table(head, body)}\n\n{note} {provenance('prune.py')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("whole", *PARTS))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if options.part:
        print(point(options.part, options.share))
    if options.latency:
        latency()
    if options.table:
        write_table()


if __name__ == "__main__":
    main()
