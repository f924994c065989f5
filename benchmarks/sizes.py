"""Random networks of published shapes: time and peak memory of export and quantize against the direct tool.

    python benchmarks/sizes.py            everything that is not there yet; can be killed and goes on
    python benchmarks/sizes.py --tables   write docs/results/sizes.md from what is there

Every job is a process of its own, one after the other, ours and the other's in turn; its peak is VmHWM, which counts
its libraries too (torch and transformers take 0.4 GB). Processor time is given besides the time, since it depends less
on other work. Weights are random: neither time nor memory depends on them. Language models are in
`benchmarks/language_models.py`; no kind of microbudget is for BERT.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markdown import RESULTS, ROOT, provenance, table, write_between
from microbudget.machine.files import whole_folder
from microbudget.units import format_bytes, format_seconds
from results import Results

STORE = ROOT / "runs" / "sizes"
WHISPER = Path.home() / ".cache" / "microbudget-real" / "whisper-tiny.en"  # its tokenizer is that of all sizes
WHISPERS = {"whisper-small.en": (768, 12), "whisper-medium.en": (1024, 24)}  # width, layers of each side
CLASSIFIERS = {"ResNet-50": "ResNetConfig", "ConvNeXt-T": "ConvNextConfig", "ViT-B/16": "ViTConfig"}
CLASSES, PIXELS, PHOTOS = 1000, 224, 32
ROOM = 1_000_000_000  # bytes of a conversion beside the largest tensor in float32


def folder_of(shape: str) -> Path:
    """The Hugging Face folder of a shape, with random weights; made where it is missing."""
    whole = STORE / "models" / shape.replace("/", "-")
    if not whole.is_dir():
        with whole_folder(whole) as folder:
            (_write_whisper if shape in WHISPERS else _write_classifier)(shape, folder)
    return whole


def _write_whisper(shape: str, folder: Path) -> None:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    width, layers = WHISPERS[shape]
    changed: dict[str, Any] = {"d_model": width}
    for side in ("encoder", "decoder"):
        changed |= {f"{side}_layers": layers, f"{side}_attention_heads": width // 64, f"{side}_ffn_dim": 4 * width}
    config = WhisperConfig.from_pretrained(str(WHISPER))
    config.update(changed)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)  # as checkpoints of this size often are
    WhisperForConditionalGeneration(config).save_pretrained(str(folder))
    for file in WHISPER.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(file, folder / file.name)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    settings.pop("alignment_heads", None)
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _write_classifier(shape: str, folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, CLASSIFIERS[shape])(num_labels=CLASSES)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(str(folder))
    preprocessing = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": PIXELS, "width": PIXELS},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")


def photos() -> Path:
    """A folder of random photos of two classes."""
    whole = STORE / "photos"
    if not whole.is_dir():
        import numpy as np
        from PIL import Image

        coin = np.random.default_rng(0)
        with whole_folder(whole) as folder:
            for number in range(2 * PHOTOS):
                (folder / str(number % 2)).mkdir(exist_ok=True)
                pixels = coin.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)
                Image.fromarray(pixels).save(folder / str(number % 2) / f"{number}.png")
    return whole


def export_whisper(shape: str, out: Path) -> None:
    """Ours: the conversion alone, without the comparison of transcripts."""
    from microbudget.runtimes.ct2 import convert

    convert.convert(folder_of(shape), out, "int8")


def export_whisper_directly(shape: str, out: Path) -> None:
    """CTranslate2's converter, with its option for less memory."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder_of(shape)), load_as_float16=True, low_cpu_mem_usage=True)
    converter.convert(str(out), quantization="int8", force=True)


def export_classifier(shape: str, out: Path) -> None:
    """Ours: the step as a recipe has it, compared with the network on photos."""
    _step("export()", folder_of(shape), out)


def export_classifier_directly(shape: str, out: Path) -> None:
    """torch's exporter by tracing, as ours is."""
    import torch
    from transformers import AutoModelForImageClassification

    network = AutoModelForImageClassification.from_pretrained(str(folder_of(shape))).eval()
    network.config.return_dict = False
    with torch.inference_mode():
        torch.onnx.export(
            network, (torch.zeros(2, 3, PIXELS, PIXELS),), str(out / "model.onnx"), dynamo=False,
            input_names=["pixel_values"], output_names=["logits"], dynamic_axes={"pixel_values": {0: "batch"}},
        )  # fmt: skip


def quantize(shape: str, out: Path) -> None:
    """Ours: the step as a recipe has it: static for convolutions, dynamic for transformers, with corrections."""
    _step(f"quantize(samples={PHOTOS})", STORE / "export_classifier" / shape.replace("/", "-"), out)


def quantize_directly(shape: str, out: Path) -> None:
    """onnxruntime's quantizer: static by minimum and maximum for convolutions, dynamic for the transformer."""
    import numpy as np
    from onnxruntime import quantization as ort

    source, target = STORE / "export_classifier_directly" / shape.replace("/", "-") / "model.onnx", out / "model.onnx"
    if "ViT" in shape:
        ort.quantize_dynamic(str(source), str(target), per_channel=True)
        return

    class Photos(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            coin = np.random.default_rng(0)
            self.left = iter([coin.normal(size=(1, 3, PIXELS, PIXELS)).astype("f") for _ in range(PHOTOS)])

        def get_next(self) -> dict[str, Any] | None:
            pixels = next(self.left, None)
            return None if pixels is None else {"pixel_values": pixels}

    ort.quantize_static(str(source), str(target), Photos(), per_channel=True)


def _step(recipe: str, given: Path, out: Path) -> None:
    from microbudget.kinds.image_classification.data import ImageTask
    from microbudget.methods import Context
    from microbudget.recipes.build import build
    from microbudget.recipes.recipe import Recipe
    from microbudget.runtimes.loading import load
    from microbudget.task import DataOptions

    task = ImageTask.open(photos(), DataOptions(use="nothing" if "export" in recipe else "training", cache=STORE))
    (model,) = build(load(given), Recipe.parse(recipe), Context(task, out / "cache", threads=2), out / "models")
    for file in model.path.iterdir():
        shutil.move(file, out / file.name)


# What is compared: ours and the direct tool's, for which shapes.
WORK: dict[str, tuple[Callable[[str, Path], None], Callable[[str, Path], None], tuple[str, ...]]] = {
    "export to CTranslate2, int8": (export_whisper, export_whisper_directly, tuple(WHISPERS)),
    "export to ONNX": (export_classifier, export_classifier_directly, tuple(CLASSIFIERS)),
    "quantize to int8": (quantize, quantize_directly, tuple(CLASSIFIERS)),
}


def job(name: str, shape: str) -> dict[str, Any]:
    """Run a job in this process, and say what it took. Imports count: a user pays them too."""
    out = STORE / name / shape.replace("/", "-")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started = time.monotonic()
    globals()[name](shape, out)
    seconds, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    files = [out / file for file in ("model.onnx", "model.bin") if (out / file).is_file()]
    return {
        "seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": peak,
        "size_bytes": sum(file.stat().st_size for file in files),
    }  # fmt: skip


def spawned(name: str, shape: str) -> dict[str, Any]:
    """A job in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--job", name, shape]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        return {"failure": ended.stderr.strip().splitlines()[-1][:300] if ended.stderr.strip() else "killed"}
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def largest(shape: str) -> int:
    """Bytes of the largest tensor in float32."""
    from safetensors import safe_open

    with safe_open(str(folder_of(shape) / "model.safetensors"), "np") as stored:
        return 4 * max(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118


def write_tables(results: Results) -> None:
    """The page, from what is there."""
    rows, missed, absent = [], [], []
    for work, (ours, direct, shapes) in WORK.items():
        for shape in shapes:
            found = [results.get(f"{way.__name__}/{shape}") for way in (ours, direct)]
            if any(row is None or "failure" in row for row in found):
                ours_only = found[0] if found[0] and "failure" not in found[0] else None
                alone = f" (ours alone: {format_bytes(ours_only['peak_bytes'])})" if ours_only else ""
                absent.append(f"{shape}, {work}{alone}")
                continue
            goal = largest(shape) + ROOM
            rows.append([
                f"{shape}, {work}", format_bytes(folder_of(shape).joinpath("model.safetensors").stat().st_size),
                *(format_bytes(row["size_bytes"]) for row in found),
                *(f"{format_seconds(row['seconds'])} ({row['cpu_s']:.0f})" for row in found),
                *(format_bytes(row["peak_bytes"]) for row in found), format_bytes(goal),
            ])  # fmt: skip
            if found[0]["peak_bytes"] > goal:
                missed.append(f"{shape}, {work} ({format_bytes(found[0]['peak_bytes'])})")
    head = ["shape, work", "weights", "ours", "direct", "time, ours", "time, direct", "peak, ours", "peak, direct"]
    text = [
        table([*head, "goal"], rows),
        "Sizes of the files made, seconds (processor seconds in brackets), peak memory of the process with all its"
        " libraries. Goal: the largest tensor in float32 and 1 GB. "
        + (f"Missed: {'; '.join(missed)}." if missed else "Reached by all.")
        + (f" Not measured in this run: {'; '.join(absent)}." if absent else ""),
        provenance("sizes.py"),
    ]
    write_between(RESULTS / "sizes.md", "sizes", "\n\n".join(text))


def main() -> None:
    """See the docstring of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", nargs=2, metavar=("NAME", "SHAPE"))
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(*options.job)))
        return
    results, deadline = Results(STORE / "results.json"), time.monotonic() + 60 * options.minutes
    if not options.tables:
        photos()
        for ours, direct, shapes in WORK.values():
            for shape in shapes:
                folder_of(shape)
                for way in (ours, direct):
                    results.fill(
                        f"{way.__name__}/{shape}", lambda way=way, shape=shape: spawned(way.__name__, shape), deadline
                    )  # type: ignore[misc]
    write_tables(results)


if __name__ == "__main__":
    main()
