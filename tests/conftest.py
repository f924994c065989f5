"""What many tests need: tiny real models and photos, made on the spot, and the real ones beside the checkout."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

import preloaded
from microbudget.machine import child_process

os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's load
settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with Ctrl-C ignored
# As many workers as cores run the tests: threads of torch and BLAS that wait for each other in turns of the scheduler
# make a training several times slower. What a test asks for by name (`threads=2`) it still gets.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as in every worker: those of the tests are forks of one process
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each test process and its children keep to cores of their own: two whose threads wait for each other by spinning
    # make a training of one second take thirty.
    _number, _count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, _cores[_number % len(_cores) :: _count])
ASSETS = Path(__file__).parents[2] / "shared" / "assets"
SCALES = (1.0, 6 / 7)  # of the input sizes of the run that is shared
PIXELS = 32
CONFIG = {
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
START = child_process.start
# Long tests, and those that a process begins slowly with: ggml takes half a minute for the tables of its IQ types.
FIRST = ("test_gguf_rewrite.py", "test_finetune_deep.py", "test_speech_run.py", "test_deadline.py")
MadeOnce = Callable[[str, Callable[[Path], object]], Path]
COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real weights and data; tests that need them are skipped where they are missing."""
    if not ASSETS.is_dir():
        pytest.skip("../shared/assets is not there: real weights and photos are not tested")
    return ASSETS


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures of modules too: not the user's cache, and what the machine can do is measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROBUDGET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _preloaded_workers() -> Iterator[None]:
    """Workers are forks of a process that has imported torch: a fresh one spends up to eight seconds on imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_process, "start", preloaded.Worker)
        yield


@pytest.fixture
def fresh_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers as users have them, for tests of a worker's memory, time, start and end."""
    monkeypatch.setattr(child_process, "start", START)


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages as where matplotlib is not installed: drawing takes most of a page's time."""
    monkeypatch.setattr("microbudget.report.plots.available", lambda: False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files in FIRST come first, the others as they were: what is left at the end is shared out test by test."""
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(FIRST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What the imports have made stays for good: no later collection of garbage needs to walk over it, nor come often.

    And the server of the workers begins here, with all that is imported.
    """
    gc.collect()
    gc.freeze()
    preloaded.fork_server()
    gc.set_threshold(20_000, 20, 20)


def write_photos(folder: Path, per_class: int = 20, size: int = PIXELS, seed: int = 0) -> Path:
    """Class folders of noisy plain colours: easy, but not so easy that every model is right."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = np.array(colour) + rng.normal(0, 70, (size, size, 3)) + rng.normal(0, 40, 3)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index:03}.png")
    return folder


def write_hf_model(folder: Path, labels: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> Path:
    """A tiny MobileNetV2 with random weights, as transformers saves it."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(seed)
    config = MobileNetV2Config(
        image_size=PIXELS,
        depth_multiplier=0.25,
        min_depth=4,
        tf_padding=False,
        num_channels=3,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    network = MobileNetV2ForImageClassification(config).train()
    for module in network.modules():  # with untrained statistics activations would die out on the way
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(pixel_values=torch.randn(16, 3, PIXELS, PIXELS))
    network.save_pretrained(str(folder), safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def resnet_config(**changes: object) -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(**{"embedding_size": 16, "layer_type": "basic", "downsample_in_first_stage": True, **changes})


def write_resnet(folder: Path, labels: tuple[str, ...] | None = None) -> Path:
    """Random weights and, unless named, two classes that are not the photos'; many times as fast as a MobileNet."""
    import torch
    from transformers import ResNetForImageClassification

    torch.manual_seed(0)
    named = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    )
    config = resnet_config(hidden_sizes=[16, 32], depths=[2, 1], **named)
    ResNetForImageClassification(config).save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def write_onnx_model(hf_model: Path, folder: Path) -> Path:
    """The same network as an ONNX Model: no torch is needed to measure it."""
    from microbudget.runtimes.hf.image_classifier import load_network, onnx_bytes
    from microbudget.runtimes.loading import load
    from microbudget.runtimes.onnx.session import write_metadata

    folder.mkdir(parents=True)
    model = load(hf_model)
    proto = onnx.load_from_string(onnx_bytes(load_network(hf_model), PIXELS, PIXELS))
    write_metadata(proto, model.labels, model.record.preprocessing)
    onnx.save(proto, str(folder / "model.onnx"))
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """made_once(name, make): the path that `make(path)` creates, in the first of the test processes that needs it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made"
    shared.mkdir(exist_ok=True)

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a test process that failed half-way
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def photos(made_once: MadeOnce) -> Path:
    """60 photos of 3 classes. Do not write into it."""
    return made_once("photos", write_photos)


@pytest.fixture(scope="session")
def onnx_model(hf_model: Path, made_once: MadeOnce) -> Path:
    """`hf_model` as an ONNX Model. Do not write into it."""
    return made_once("tiny-onnx", lambda folder: write_onnx_model(hf_model, folder))


@pytest.fixture(scope="session")
def hf_model(made_once: MadeOnce) -> Path:
    """A Hugging Face classifier of other labels than the photos'. Do not write into it."""
    return made_once("tiny", write_hf_model)


@pytest.fixture(scope="session")
def resnet(made_once: MadeOnce) -> Path:
    """A Hugging Face classifier of few layers, and of other labels than the photos'. Do not write into it."""
    return made_once("resnet", write_resnet)


@pytest.fixture(scope="session")
def resnet_onnx(resnet: Path, made_once: MadeOnce) -> Path:
    """`resnet` as an ONNX Model. Do not write into it."""
    return made_once("resnet-onnx", lambda folder: write_onnx_model(resnet, folder))


@pytest.fixture(scope="session")
def finished(resnet: Path, photos: Path, made_once: MadeOnce) -> Path:
    """A complete run of `shrink`. Do not write into it."""

    from microbudget import cli
    from microbudget.kinds.image_classification import search_space
    from quick import QUICK

    def make(folder: Path) -> None:
        command = ["shrink", str(resnet), "--data", str(photos), "--out", str(folder)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search_space, "SCALES", SCALES)
            patch.setattr(search_space, "PRUNED", ())
            patch.setattr(search_space, "FEWER_BITS", ())
            assert cli.main([*command, "--max-drop", "90pt"], durations=QUICK) == 0

    return made_once("finished", make)


@pytest.fixture
def images_answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images of every call that features and teachers make to ONNX Runtime."""
    from microbudget.training.features import OnnxSession

    calls: list[int] = []
    answer = OnnxSession.answer

    def counted(self: OnnxSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
        calls.append(len(next(iter(inputs.values()))))
        return answer(self, inputs)

    monkeypatch.setattr(OnnxSession, "answer", counted)
    return calls
