"""The networks that quantizers are judged on, each with its calibration pool and its test images; made once and kept.

    python benchmarks/networks.py NAME FOLDER      model.onnx (float32), pool.npy, test.npy, labels.npy into FOLDER

`resnet20` and `resnet56` are the published CIFAR-10 networks. `mobilenet_v2` learns the flowers here: first a new head,
then a few epochs of the whole network, since the given weights lie on an int8 grid, on which rounding to 8 bits would
look free. `vit` is a small vision transformer that is trained here on CIFAR-10, taught by ResNet-56.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from markdown import ROOT
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.methods import Context
from microbudget.recipes.build import build
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.runtimes.onnx.session import OnnxSession
from microbudget.task import DataOptions

ASSETS = ROOT.parent / "shared" / "assets"
CIFAR10, FLOWERS = ASSETS / "images" / "cifar10", ASSETS / "images" / "flowers12"
CIFAR10_PIXELS = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
TRAIN_PER_CLASS, VALIDATION_PER_CLASS = 16, 4  # of 60 flowers of a class: 40 are left to judge on
WHOLE_EPOCHS, WHOLE_RATE = 4, 1e-4  # of MobileNetV2 after its new head
VIT_EPOCHS, VIT_RATE, VIT_BATCH = 16, 2e-3, 128

Pixels = NDArray[np.float32]


def inputs(task: ImageTask, splits: tuple[str, ...], preprocessing: dict[str, Any]) -> tuple[Pixels, NDArray[np.int64]]:
    """All inputs of the splits, (examples, 3, H, W), and their labels."""
    examples = [example for split in splits for example in task.examples(split)]  # type: ignore[arg-type]
    labels = np.array([-1 if example.label is None else example.label for example in examples])
    return task.collate(examples, preprocessing)["pixel_values"], labels


def save(folder: Path, pool: Pixels, test: Pixels, labels: NDArray[np.int64]) -> None:
    """What the quantizers read. The pool has no labels but for accuracy control, which is given them separately."""
    np.save(folder / "pool.npy", pool)
    np.save(folder / "test.npy", test)
    np.save(folder / "labels.npy", labels)


def cifar10(folder: Path) -> ImageTask:
    """The CIFAR-10 images as inputs in `folder`."""
    task = ImageTask.open(CIFAR10, DataOptions(cache=folder / "cache"))
    pool, pool_labels = inputs(task, ("train", "validation"), CIFAR10_PIXELS)
    save(folder, pool, *inputs(task, ("test",), CIFAR10_PIXELS))
    np.save(folder / "pool_labels.npy", pool_labels)
    return task


def resnet(depth: int) -> Callable[[Path], None]:
    """Make the folder of a published ResNet."""

    def make(folder: Path) -> None:
        cifar10(folder)
        shutil.copyfile(ASSETS / "models" / f"resnet{depth}_cifar10.onnx", folder / "model.onnx")

    return make


def split_flowers(folder: Path) -> None:
    """Copy the photos into train, validation and test: few to learn from, many to judge on."""
    coin = np.random.default_rng(0)
    for kind in sorted(path for path in FLOWERS.iterdir() if path.is_dir()):
        photos = sorted(kind.iterdir())
        order = coin.permutation(len(photos))
        for place, index in enumerate(order):
            split = "train" if place < TRAIN_PER_CLASS else "validation"
            split = split if place < TRAIN_PER_CLASS + VALIDATION_PER_CLASS else "test"
            target = folder / split / kind.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos[index], target)


def mobilenet_v2(folder: Path) -> None:
    """Transfer learning to the flowers: the head, then the whole network with batch norm's statistics as they are."""
    import torch

    from microbudget.runtimes.hf.image_classifier import load_network, onnx_bytes

    split_flowers(folder / "photos")
    task = ImageTask.open(folder / "photos", DataOptions(cache=folder / "cache"))
    with TemporaryDirectory() as scratch:
        context = Context(task, Path(scratch) / "cache", 0, 0)
        given = load(ASSETS / "models" / "mobilenet_v2")
        model = build(given, Recipe.parse("finetune()"), context, Path(scratch) / "models")[-1]
        network = load_network(model.path)
    preprocessing = model.record.preprocessing or {}
    x, y = inputs(task, ("train", "validation"), preprocessing)
    torch.manual_seed(0)
    learn(network, batches(x, y, 16, WHOLE_EPOCHS), WHOLE_RATE, WHOLE_EPOCHS * -(-len(x) // 16))
    (folder / "model.onnx").write_bytes(onnx_bytes(network, *x.shape[2:]))
    save(folder, x, *inputs(task, ("test",), preprocessing))
    np.save(folder / "pool_labels.npy", y)


def batches(x: Pixels, y: NDArray[Any], size: int, epochs: int) -> Iterator[tuple[Pixels, NDArray[Any]]]:
    """Shuffled batches, half of the images mirrored."""
    coin = np.random.default_rng(0)
    for _ in range(epochs):
        order = coin.permutation(len(x))
        for start in range(0, len(x), size):
            chosen = order[start : start + size]
            batch = x[chosen].copy()
            mirrored = coin.random(len(batch)) < 0.5
            batch[mirrored] = batch[mirrored, :, :, ::-1]
            yield batch, y[chosen]


def learn(network: Any, data: Iterator[tuple[Pixels, NDArray[Any]]], rate: float, steps: int) -> None:
    """AdamW on a cosine, batch norm in evaluation mode. Targets are classes, or a teacher's logits."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    for batch, target in data:
        logits = network(pixel_values=torch.from_numpy(batch)).logits
        wanted = torch.from_numpy(np.asarray(target))
        soft = wanted.softmax(-1) if wanted.ndim == 2 else wanted
        loss = functional.cross_entropy(logits, soft)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def shifted(x: Pixels, coin: np.random.Generator, most: int = 4) -> Pixels:
    """The batch moved by up to `most` pixels, zeros after it; in place of random crops."""
    padded = np.pad(x, ((0, 0), (0, 0), (most, most), (most, most)))
    moved = np.empty_like(x)
    for i, (down, right) in enumerate(coin.integers(0, 2 * most + 1, (len(x), 2))):
        moved[i] = padded[i, :, down : down + x.shape[2], right : right + x.shape[3]]
    return moved


def taught(x: Pixels, teacher: OnnxSession) -> Iterator[tuple[Pixels, NDArray[Any]]]:
    """Batches that are mirrored and moved, with the teacher's answers to the images as they were, computed once."""
    coin, seen = np.random.default_rng(1), np.concatenate([x, x[..., ::-1]])
    steps = range(0, len(seen), VIT_BATCH)
    answers = np.concatenate([teacher.answer({"pixel_values": seen[i : i + VIT_BATCH].copy()}) for i in steps])
    for _ in range(VIT_EPOCHS):
        rows = coin.permutation(len(x)) + len(x) * coin.integers(0, 2, len(x))
        for start in range(0, len(x), VIT_BATCH):
            chosen = rows[start : start + VIT_BATCH]
            yield shifted(seen[chosen], coin), answers[chosen]


def vit(folder: Path) -> None:
    """A transformer encoder of 0.3 million parameters, patches of 4 pixels, taught by ResNet-56 on the same images."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from microbudget.runtimes.hf.image_classifier import onnx_bytes

    cifar10(folder)
    x = np.load(folder / "pool.npy")
    torch.manual_seed(0)
    network = ViTForImageClassification(
        ViTConfig(
            image_size=32,
            patch_size=4,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )
    teacher = OnnxSession(ASSETS / "models" / "resnet56_cifar10.onnx", 2)
    learn(network, taught(x, teacher), VIT_RATE, VIT_EPOCHS * -(-len(x) // VIT_BATCH))
    (folder / "model.onnx").write_bytes(onnx_bytes(network, 32, 32))


NETWORKS: dict[str, Callable[[Path], None]] = {
    "resnet20": resnet(20),
    "resnet56": resnet(56),
    "mobilenet_v2": mobilenet_v2,
    "vit": vit,
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    NETWORKS[name](folder)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    onnx.checker.check_model(str(folder / "model.onnx"))
    session = OnnxSession(folder / "model.onnx", 2)
    test, labels = np.load(folder / "test.npy"), np.load(folder / "labels.npy")
    logits = np.concatenate([session.answer({"pixel_values": test[i : i + 64]}) for i in range(0, len(test), 64)])
    np.save(folder / "logits.npy", logits)
    print(f"{name}: {(logits.argmax(1) == labels).mean():.4f} on {len(test)} test images", file=sys.stderr)


if __name__ == "__main__":
    main()
