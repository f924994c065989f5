"""window: hear fewer seconds at once. Whisper's encoder works on 30 seconds, of which a short utterance fills three.

The positions of the encoder and the front end's length change in the model's own files, so transformers opens the
folder as it is; a longer recording is cut to the window by the runtime. Vaswani et al. 2017: positions are independent
of each other, so the first ones stay what they were.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..errors import BadData, InvalidOption, UnsupportedModel
from ..model import Model, Record
from . import Context, Method, option

AUTO = "auto"
LONGEST_S = 30
FRONT_ENDS = ("preprocessor_config.json", "processor_config.json")
POSITIONS = "encoder.embed_positions.weight"
PER_SECOND = 50  # positions: 100 frames, and the second convolution takes every other


@dataclass(frozen=True)
class Window(Method):
    """Hear a shorter window than Whisper's 30 seconds: most of the time of a small model is spent on silence."""

    formats: ClassVar[dict[str, str]] = {"hf": "hf"}

    seconds: int | str = option(10, "length in whole seconds, or 'auto': of the longest recording", always_shown=True)
    epochs: int = option(0, "passes of a fine-tuning on what the model writes with its old window", low=0, high=1000)
    patience: int = option(3, "epochs without a better validation loss before it stops", low=1, high=1000)
    learning_rate: float = option(1e-4, "of AdamW after the warm-up", low=1e-8, high=1.0)
    batch_size: int = option(16, "recordings in a step at most", low=1, high=4096)
    max_wer: float = option(
        0.3, "the model's word error rate on a recording above which it is not learnt from", low=0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds != AUTO and not (isinstance(self.seconds, int) and 1 <= self.seconds <= LONGEST_S):
            raise InvalidOption(
                f"window: seconds must be a whole number in [1, {LONGEST_S}] or {AUTO!r}, not {self.seconds!r}"
            )

    def apply(self, model: Model, context: Context, out: Path) -> Record:
        """Write the model with the shorter window. Raises InvalidOption for a longer one than it has."""
        before = _window(model)
        seconds = self._seconds(context, before)
        write(model, seconds, out)
        report: dict[str, Any] = {"before_s": before, "after_s": seconds, "runtimes": list(_runtimes(seconds))}
        report["longer"] = _longer(context, seconds)
        seen = set(model.record.seen)
        if self.epochs:
            trained, keys = self._finetune(model, context, seconds, out)
            report, seen = report | trained, seen | keys
        context.progress.say(
            f"window    {before} s to {seconds} s; {report['longer']} recordings are longer and will be cut"
        )
        history = {**model.record.history, "window": report}
        preprocessing = _front(model.record.preprocessing, seconds) if model.record.preprocessing else None
        return replace(model.record, preprocessing=preprocessing, seen=tuple(sorted(seen)), history=history)

    def _seconds(self, context: Context, before: int) -> int:
        """The new length. Raises BadData where "auto" finds no recordings."""
        if isinstance(self.seconds, int):
            if self.seconds > before:
                raise InvalidOption(
                    f"window: seconds={self.seconds} is longer than the model's {before}; it only makes shorter"
                )
            return self.seconds
        lengths = _lengths(context)
        if not lengths:
            raise BadData("window(seconds='auto') needs recordings: give data, or a number of seconds")
        return max(1, min(before, math.ceil(max(lengths))))

    def _finetune(self, model: Model, context: Context, seconds: int, out: Path) -> tuple[dict[str, Any], set[str]]:
        """Let the model with its new window learn what it writes with the old one."""
        from ..kinds.transcription import teaching
        from ..runtimes.hf.whisper import load_network
        from ..runtimes.speech.whisper import front_end
        from ..training.train import Settings

        network = load_network(out)
        chosen = teaching.material(
            model,
            context.task,
            context.cache,
            max_wer=self.max_wer,
            longest_s=seconds,
            threads=context.threads,
            deadline=context.deadline,
            progress=context.progress,
        )
        trained = teaching.teach(
            network,
            chosen,
            context.task,
            Settings(self.epochs, self.learning_rate, self.batch_size, patience=self.patience),
            front=front_end(out),
            seed=context.seed,
            threads=context.threads,
            checkpoint=context.checkpoint("window"),
            deadline=context.deadline,
            what="window",
            progress=context.progress,
        )
        told = (out / "generation_config.json").read_bytes() if (out / "generation_config.json").is_file() else None
        network.save_pretrained(str(out), safe_serialization=True)
        if told is not None:  # what transformers makes of it lacks settings of older files
            (out / "generation_config.json").write_bytes(told)
        return {**chosen.report(), **trained.as_dict()}, teaching.keys([*chosen.train, *chosen.validation])


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
    """The seconds that a model hears at once. Raises UnsupportedModel."""
    config = _read(model.path / "config.json")
    positions = config.get("max_source_positions")
    if config.get("model_type") != "whisper" or not isinstance(positions, int):
        raise UnsupportedModel(f"{model.path} is no Whisper ({config.get('model_type')}): window is for speech models")
    return positions // PER_SECOND


def _front(config: dict[str, Any], seconds: int) -> dict[str, Any]:
    """A feature extractor's configuration for the window, also nested in a processor's."""
    if isinstance(config.get("feature_extractor"), dict):
        return {**config, "feature_extractor": _front(config["feature_extractor"], seconds)}
    rate, hop = config.get("sampling_rate", 16_000), config.get("hop_length", 160)
    samples = seconds * rate
    return {**config, "chunk_length": seconds, "n_samples": samples, "nb_max_frames": samples // hop}


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
    task: Any = context.task
    if not hasattr(task, "seconds"):
        return []
    return [task.seconds(each) for split in ("train", "unlabelled", "validation") for each in task.examples(split)]


def _longer(context: Context, seconds: int) -> int:
    return sum(length > seconds for length in _lengths(context))


def _runtimes(seconds: int) -> tuple[str, ...]:
    """What takes the shorter window as it is, for the card."""
    return (
        f"transformers opens the window of {seconds} s as it is; CTranslate2 takes features of {seconds} s as it is",
        "faster-whisper opens the export to ct2, but fills every piece up to 30 s and takes the time of 30 s; to hear"
        f" {seconds} s at a time see docs/whisper.md, or use `microbudget transcribe`",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    return found
