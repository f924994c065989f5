"""Keras's MobileNetV2 on flowers: the notebook's way against what ships, F1 on true float32 weights; part of `real.py`.

    python benchmarks/real_transfer.py                  three seeds; can be killed and goes on (about ten minutes)
    python benchmarks/real_transfer.py --part tables    print the table

The backbone is frozen, photos have 160 pixels. The notebook's way: a head of two layers on the backbone in torch, 25
epochs of Adam, the best by validation; its features are computed once, which gives the same head as computing them at
every epoch. Ours: `finetune(head="mlp")`, which writes an `.onnx`, in float and in integers. All are scored on a test
split that none has seen. Needs ../shared/assets and the weights of `../shared/real/make.py mobilenet-v2-keras`, which
need h5py. Runs in runs/real_transfer/.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from markdown import ROOT, table
from microbudget.judge.judging import Opening, judging_of
from microbudget.judge.timing import time_pair
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.machine.files import whole_folder
from microbudget.methods import Context
from microbudget.metrics import classification_report
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from results import Results

STORE = ROOT / "runs" / "real_transfer"
WEIGHTS = Path.home() / ".cache" / "microbudget-real" / "mobilenet-v2-keras"
PHOTOS = ROOT.parent / "shared" / "assets" / "images" / "flowers12"
SEEDS, EPOCHS, BATCH, SECONDS = 3, 25, 32, 4.0
NOTEBOOK, FLOAT, INTEGER = "the notebook's way, torch", "finetune, float, ONNX", "finetune, 8 bits, ONNX"
TEACH = "finetune(head='mlp', views=2)"
WAYS = {FLOAT: TEACH, INTEGER: f"{TEACH} > quantize()"}


def model() -> Path:
    """The backbone with a head of random weights: a classifier, as `from_pretrained(..., num_labels=12)` makes it."""
    folder = STORE / "model"
    if not folder.is_dir():
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        network = AutoModelForImageClassification.from_pretrained(WEIGHTS, num_labels=12)
        with whole_folder(folder) as partial:
            network.save_pretrained(partial)
            AutoImageProcessor.from_pretrained(WEIGHTS).save_pretrained(partial)
    return folder


def notebook(task: ImageTask, seed: int) -> NDArray[Any]:
    """The logits of the test split after training the notebook's way."""
    import torch
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(WEIGHTS).eval()
    preprocessing = load(model()).record.preprocessing or {}
    data = {}
    for split in ("train", "validation", "test"):
        examples = task.examples(split)  # type: ignore[arg-type]
        pixels = torch.from_numpy(task.collate(examples, preprocessing)["pixel_values"])
        with torch.inference_mode():
            found = torch.cat([backbone(part).pooler_output for part in torch.split(pixels, BATCH)])
        data[split] = found.clone(), torch.tensor([example.label for example in examples])
    torch.manual_seed(seed)
    layers = (torch.nn.Linear(1280, 256), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(256, 12))
    head = torch.nn.Sequential(*layers)
    optimizer, best, best_right = torch.optim.Adam(head.parameters(), lr=1e-3), head.state_dict(), -1
    for _ in range(EPOCHS):
        head.train()
        features, labels = data["train"]
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            loss = torch.nn.functional.cross_entropy(head(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.inference_mode():
            right = int((head(data["validation"][0]).argmax(1) == data["validation"][1]).sum())
        if right > best_right:
            best, best_right = {name: value.clone() for name, value in head.state_dict().items()}, right
    head.load_state_dict(best)
    with torch.inference_mode():
        return np.asarray(head(data["test"][0]).numpy())


def measured(seed: int) -> dict[str, Any]:
    """For each way its scores on the test split; of ours the size, and how much faster integers are."""
    task = ImageTask.open(PHOTOS, DataOptions(seed=seed, cache=STORE / "index"))
    judging, test = judging_of(task), task.examples("test")
    labels = np.array([example.label for example in test])
    logits, found, sizes, made = {NOTEBOOK: notebook(task, seed)}, {}, {}, []
    for name, recipe in WAYS.items():
        started = time.monotonic()
        context = Context(task, STORE / f"cache{seed}", seed, threads=1)
        built = build(load(model()), Recipe.parse(recipe), context, STORE / "models")[-1]
        print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        sizes[name] = built.size_bytes
        made.append(built)
        with judging.opened(built, None, Opening(1)) as worker:
            logits[name] = judging.answers(built, test, worker)
    with judging.opened(made[0], None, Opening(1)) as one, judging.opened(made[1], None, Opening(1)) as other:
        inputs = [judging.timing_input(each, test) for each in made]
        pair = time_pair(one, other, *inputs, seconds=SECONDS)
    for name, rows in logits.items():
        found[name] = {key: float(value) for key, value in classification_report(rows.argmax(1), labels, 12).items()}
    same = float((logits[FLOAT].argmax(1) == logits[INTEGER].argmax(1)).mean())
    speedup = [pair.ratio, pair.low, pair.high]
    return {"scores": found, "size_bytes": sizes, "speedup": speedup, "same": same, "examples": len(test)}


def summary(results: Results) -> str:
    """The table in Markdown; `real.py` puts it on its page."""
    parts = [results.rows[f"seed {seed}"] for seed in range(SEEDS)]

    def score(name: str, key: str) -> float:
        return 100 * float(np.mean([part["scores"][name][key] for part in parts]))

    size = {name: float(np.mean([part["size_bytes"][name] for part in parts])) for name in WAYS}
    rows = []
    for name in (NOTEBOOK, *WAYS):
        f1 = score(name, "f1")
        mb = f"{size[name] / 1e6:.2f}" if name in size else "-"
        each = ", ".join(f"{100 * part['scores'][name]['f1']:.1f}" for part in parts)
        faster = f"{np.mean([part['speedup'][0] for part in parts]):.1f}" if name == INTEGER else "-"
        change = f"{f1 - score(NOTEBOOK, 'f1'):+.1f}"
        rows.append([name, mb, f"{f1:.1f}", each, change, f"{score(name, 'accuracy'):.1f}", faster])
    head = ("way", "MB", "F1 %", "of each seed", "points", "accuracy %", "times as fast as float")
    count = sum(part["examples"] for part in parts)
    same = 100 * float(np.mean([part["same"] for part in parts]))
    return (
        f"{table(head, rows)}\n\nflowers12 at 160 pixels, macro F1 on {count} test photos in {SEEDS} seeds. Goal: F1"
        " holds on true float32 weights, against the notebook's way. Integers and float agree on"
        f" {same:.1f} % of the photos."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tables",))
    options = parser.parse_args()
    if not (WEIGHTS.is_dir() and PHOTOS.is_dir()):
        sys.exit(f"needs {WEIGHTS} (../shared/real/make.py mobilenet-v2-keras) and {PHOTOS}")
    STORE.mkdir(parents=True, exist_ok=True)
    results = Results(STORE / "results.json")
    for seed in range(SEEDS) if options.part is None else ():
        results.fill(f"seed {seed}", lambda seed=seed: measured(seed), float("inf"))
    print(summary(results))


if __name__ == "__main__":
    main()
