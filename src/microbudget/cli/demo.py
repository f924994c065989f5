"""demo: the main job on scikit-learn's digits (1,797 scans of handwritten digits), offline, in about six minutes.

A small network is trained on the digits 0 to 4. It plays the pretrained model; the user's folder of images holds the
digits 5 to 9, which it has never seen. What follows is the ordinary `shrink`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import MissingExtra
from ..judge.budget import Budget
from ..machine.files import whole_folder
from ..search.options import RunKeywords, read_keywords
from ..search.result import Shrunk
from ..search.shrink import shrink
from ..units import Drop

PIXELS = 32  # the scans are 8 x 8; too few for networks that halve their input five times
EPOCHS = 12
BATCH = 32
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PRETRAINED = 5  # the digits below are the network's, the others the user's


def demo(out: Path, **options: Unpack[RunKeywords]) -> Shrunk:
    """Make the network and the folder of images, then shrink the one for the other.

    options: the fields of RunOptions. Raises MissingExtra.
    """
    how, _ = read_keywords(None, options)
    progress = how.progress
    try:
        import torch  # noqa: F401
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("the demo needs torch and scikit-learn: pip install 'microbudget[demo]'") from error
    scans, digits = load_digits(return_X_y=True)
    scans = (scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    model, photos = out / "digits-network", out / "digits-photos"
    if how.force:
        shutil.rmtree(out, ignore_errors=True)
    if not (model / "preprocessor_config.json").is_file():
        progress.say("training a small network on the digits 0 to 4")
        mine = digits < PRETRAINED
        accuracy = train_network(scans[mine], digits[mine], model, how.seed)
        progress.say(f"trained: {accuracy:.1%} of its own training digits are right; the photos to learn are 5 to 9")
    if not photos.is_dir():
        write_photos(scans, digits, photos)
    budget = Budget(max_drop=Drop(0.01))
    run = out / "run"
    return shrink(model, photos, budget, out=run, **options)


def write_photos(scans: NDArray[np.uint8], digits: NDArray[np.int64], folder: Path) -> None:
    """The user's digits as PNG files in class folders, moved into place when all are written."""
    with whole_folder(folder) as partial:
        for index, (scan, digit) in enumerate(zip(scans, digits, strict=True)):
            if digit >= PRETRAINED:
                path = partial / NAMES[digit] / f"scan-{index:04}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(scan).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(path)


def train_network(scans: NDArray[np.uint8], digits: NDArray[np.int64], folder: Path, seed: int) -> float:
    """Train a small ResNet and save it as a Hugging Face folder; its accuracy on what it was trained on.

    scans: (examples, 8, 8); digits: (examples,), below `PRETRAINED`.
    """
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    labels = NAMES[:PRETRAINED]
    config = ResNetConfig(
        num_channels=3,
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    network = ResNetForImageClassification(config)
    X, y = _pixel_values(scans), torch.from_numpy(digits)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs=EPOCHS, steps_per_epoch=-(-len(X) // BATCH))
    network.train()
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(X)), BATCH):
            loss = network(pixel_values=_shifted(X[rows]), labels=y[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        accuracy = float((network(pixel_values=X).logits.argmax(1) == y).float().mean())
    network.save_pretrained(str(folder), safe_serialization=True)
    config_text = json.dumps(_PREPROCESSING, indent=1)
    (folder / "preprocessor_config.json").write_text(config_text, encoding="utf-8")
    return accuracy


_PREPROCESSING: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": PIXELS, "width": PIXELS},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def _pixel_values(scans: NDArray[np.uint8]) -> Any:
    """scans (examples, 8, 8) -> torch tensor (examples, 3, PIXELS, PIXELS) in -1..1."""
    import torch

    large = [np.asarray(Image.fromarray(scan).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)) for scan in scans]
    pixels = torch.from_numpy(np.stack(large)).float() / 127.5 - 1
    return pixels[:, None].expand(-1, 3, -1, -1).contiguous()


def _shifted(batch: Any) -> Any:
    """The batch moved by up to three pixels in each direction, the same for all: a little augmentation."""
    import torch

    rows, columns = torch.randint(-3, 4, (2,)).tolist()
    return torch.roll(batch, (rows, columns), (2, 3))
