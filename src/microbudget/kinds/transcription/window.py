"""window of a Whisper: fewer seconds of audio at once, the same number for all recordings or for each its own.

The positions of the encoder and the front end's length change in the model's own files, so transformers opens the
folder as it is; a longer recording is cut to the window by the runtime. Vaswani et al. 2017: positions are independent
of each other, so the first ones stay what they were. Where each recording has its own window, the weights stay as they
are, and the front end's settings say how long a window is.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...audio.log_mel import FITTED, FittedWindow
from ...audio.sound import RATE_HZ
from ...errors import BadData, InvalidOption, UnsupportedModel
from ...methods import Context
from ...methods.window import EACH, Window
from ...model import Model, Record
from ...training.settings import Settings

OPTIONS = (
    "seconds", "shortest", "margin", "epochs", "patience", "learning_rate", "batch_size", "max_wer",
)  # fmt: skip
ADVICE = "a recording is as long as its seconds say"
FRONT_ENDS = ("preprocessor_config.json", "processor_config.json")
POSITIONS = "encoder.embed_positions.weight"
PER_SECOND = 50  # positions: 100 frames, and the second convolution takes every other


def apply(step: Window, model: Model, context: Context, out: Path) -> Record:
    """Write the model with the shorter window. Raises InvalidOption for a longer one than it has."""
    before = _window(model)
    if step.seconds == EACH:
        return _fit(step, model, context, before, out)
    seconds = _seconds(step, context, before)
    write(model, seconds, out)
    longer = sum(length > seconds for length in _lengths(context))
    report: dict[str, Any] = {
        "before_s": before, "after_s": seconds, "runtimes": list(_runtimes(seconds)), "longer": longer,
    }  # fmt: skip
    record = model.record
    if step.epochs:
        trained, keys = _finetune(step, model, context, seconds, out)
        report, record = report | trained, record.with_seen(keys)
    context.progress.detail(f"window    {before} s to {seconds} s; {longer} recordings are longer and will be cut")
    preprocessing = _front(record.preprocessing, seconds) if record.preprocessing else None
    return replace(record.with_report("window", report), preprocessing=preprocessing)


def _fit(step: Window, model: Model, context: Context, longest: int, out: Path) -> Record:
    """Write the model as it is, with a window that follows the recording."""
    if step.shortest >= longest:
        raise InvalidOption(
            f"window: the model's own window is {longest} s, and shortest={step.shortest} leaves nothing to save:"
            " take fewer seconds"
        )
    fitted = FittedWindow(step.shortest, step.margin)
    named = [file for file in model.files if file.name in FRONT_ENDS]
    if not named:
        raise UnsupportedModel(f"{model.path} has no preprocessor_config.json: save the feature extractor there")
    for file in model.files:
        if file in named:
            (out / file.name).write_text(json.dumps(_front(_read(file), fitted), indent=2), encoding="utf-8")
        else:
            shutil.copyfile(file, out / file.name)
    lengths = _lengths(context)
    windows = [min(longest, fitted.samples(round(length * RATE_HZ)) / RATE_HZ) for length in lengths]
    mean_s = sum(windows) / len(windows) if windows else None
    context.progress.detail(
        f"window    {longest} s to that of each recording"
        + (f", {mean_s:.1f} s on average of {len(windows)}" if mean_s is not None else "")
    )
    report = {
        "before_s": longest, **asdict(fitted), "mean_s": mean_s, "runtimes": list(_runtimes_of_fitted(longest)),
    }  # fmt: skip
    before = model.record.preprocessing
    record = model.record.with_report("window", report)
    return replace(record, preprocessing=_front(before, fitted) if before else None)


def _seconds(step: Window, context: Context, before: int) -> int:
    """The new length. Raises BadData where "auto" finds no recordings."""
    if isinstance(step.seconds, int):
        if step.seconds > before:
            raise InvalidOption(
                f"window: seconds={step.seconds} is longer than the model's {before}; it only makes shorter"
            )
        return step.seconds
    lengths = _lengths(context)
    if not lengths:
        raise BadData("window(seconds='auto') needs recordings: give data, or a number of seconds")
    return max(1, min(before, math.ceil(max(lengths))))


def _finetune(step: Window, model: Model, context: Context, seconds: int, out: Path) -> tuple[dict[str, Any], set[str]]:
    """Let the model with its new window learn its own transcripts with the old one. The report, and the keys seen."""
    from ...runtimes.hf.whisper import load_network
    from ...runtimes.speech.whisper import front_end
    from .teaching import teach, training_data

    network = load_network(out)
    data = training_data(model, context, max_wer=step.max_wer, longest_s=seconds)
    settings = Settings(step.epochs, step.learning_rate, step.batch_size, patience=step.patience)
    trained = teach(network, data, settings, context.execution("window"), front=front_end(out))
    path = out / "generation_config.json"
    config = path.read_bytes() if path.is_file() else None
    network.save_pretrained(str(out), safe_serialization=True)
    if config is not None:  # what transformers makes of it lacks settings of older files
        path.write_bytes(config)
    return {**data.report(), **trained.as_dict()}, data.keys


def write(model: Model, seconds: int, out: Path) -> None:
    """The files of the model with a window of so many seconds. Raises UnsupportedModel when it is no Whisper."""
    for file in model.files:
        if ".safetensors" not in file.name or file.name.endswith(".json"):
            shutil.copyfile(file, out / file.name)
    config = _read(model.path / "config.json")
    config["max_source_positions"] = PER_SECOND * seconds
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in FRONT_ENDS:
        if (model.path / name).is_file():
            changed = _front(_read(model.path / name), seconds)
            (out / name).write_text(json.dumps(changed, indent=2), encoding="utf-8")
    _write_positions(model.path, PER_SECOND * seconds, out)


def _window(model: Model) -> int:
    """The seconds of a model's window. Raises UnsupportedModel."""
    config = _read(model.path / "config.json")
    positions = config.get("max_source_positions")
    if config.get("model_type") != "whisper" or not isinstance(positions, int):
        raise UnsupportedModel(f"{model.path} is no Whisper ({config.get('model_type')}): window is for speech models")
    return positions // PER_SECOND


def _front(config: dict[str, Any], window: int | FittedWindow) -> dict[str, Any]:
    """A feature extractor's configuration for the window, also nested in a processor's. window: seconds, or fitted."""
    if isinstance(config.get("feature_extractor"), dict):
        return {**config, "feature_extractor": _front(config["feature_extractor"], window)}
    if isinstance(window, FittedWindow):
        return {**config, FITTED: asdict(window)}
    config = {key: value for key, value in config.items() if key != FITTED}
    rate, hop = config.get("sampling_rate", 16_000), config.get("hop_length", 160)
    samples = window * rate
    return {**config, "chunk_length": window, "n_samples": samples, "nb_max_frames": samples // hop}


def _write_positions(folder: Path, positions: int, out: Path) -> None:
    """The weights with the first rows of the encoder's position table."""
    from safetensors.torch import load_file, save_file

    found = False
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(str(file))
        for name in tensors:
            if name.endswith(POSITIONS):
                found, tensors[name] = True, tensors[name][:positions].contiguous()
        save_file(tensors, str(out / file.name), metadata={"format": "pt"})
    if not found:
        raise UnsupportedModel(f"{folder} has no tensor {POSITIONS}: it is no Whisper of transformers")


def _lengths(context: Context) -> list[float]:
    """The seconds of the recordings to train on and to validate with."""
    task: Any = context.task
    return [task.seconds(each) for split in ("train", "unlabelled", "validation") for each in task.examples(split)]


def _runtimes(seconds: int) -> tuple[str, ...]:
    """What takes the shorter window as it is, for the card."""
    return (
        f"transformers opens the window of {seconds} s as it is; CTranslate2 takes features of {seconds} s as it is",
        "faster-whisper opens the export to ct2, but fills every piece up to 30 s and takes the time of 30 s; for"
        f" windows of {seconds} s see docs/whisper.md, or use `microbudget transcribe`",
    )


def _runtimes_of_fitted(longest: int) -> tuple[str, ...]:
    """What takes the window of each recording, for the card."""
    return (
        "microbudget takes a window of each recording's length, in torch and in CTranslate2",
        f"transformers and faster-whisper open the model too, with its whole window of {longest} s and the time that it"
        " takes; for shorter windows see docs/whisper.md",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    return found
