"""distill for Whisper: a student with fewer layers learns the teacher's transcripts and top-k log-probabilities.

Gandhi et al. 2023, arXiv:2311.00430. The student keeps the encoder, frozen, and maximally spaced decoder layers. The
teacher is the given model. It transcribes each recording once; its encoder's states, its tokens and their probabilities
are read from the disk from then on, so that an epoch costs a few decoder layers and a CPU is enough.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidOption
from ...methods import Context
from ...methods.distill import Distill
from ...model import Model, Record
from ...training.settings import Settings

TAKES = ("hf",)
OPTIONS = ("decoder_layers", "encoder_layers", "max_wer", "epochs", "patience", "learning_rate", "batch_size")
ADVICE = "a Whisper is taught by itself and cut with decoder_layers= and encoder_layers="
STACKS = ("decoder", "encoder")


def extra_inputs(step: Distill, context: Context) -> dict[str, str]:
    """Nothing: the teacher is the given model."""
    del step, context
    return {}


def apply(step: Distill, model: Model, context: Context, out: Path) -> Record:
    """Write the student. Raises InvalidOption for more layers than there are, BadData without usable recordings."""
    from ...runtimes.hf.whisper import load_network
    from ...runtimes.speech.whisper import front_end
    from .teaching import teach, training_data

    network = load_network(model.path)
    kept = {name: spaced(getattr(network.config, f"{name}_layers"), _wanted(step, name)) for name in STACKS}
    whole = len(kept["encoder"]) == network.config.encoder_layers
    for name in STACKS:
        cut(network, name, kept[name])
    history: dict[str, Any] = {"kept_layers": kept}
    record = model.record
    learning = step.learning()
    if learning.epochs:
        front = front_end(model.path)
        data = training_data(model, context, max_wer=step.max_wer, longest_s=front.seconds)
        settings = Settings(learning.epochs, learning.learning_rate, step.batch_size, patience=learning.patience)
        trained = teach(network, data, settings, context.execution("distill"), front=None if whole else front)
        history |= {**data.report(), **trained.as_dict()}
        record = record.with_seen(data.keys)
    write(model, network, kept["decoder"], out)
    return replace(record.with_report("distill", history), task=context.task.kind)


def _wanted(step: Distill, name: str) -> int | None:
    wanted: int | None = getattr(step, f"{name}_layers")
    return wanted


def spaced(layers: int, wanted: int | None) -> list[int]:
    """The numbers of `wanted` layers, evenly spaced: the first and the last are among them.

    Shleifer and Rush 2020, arXiv:2010.13002. One alone is the first: it takes embeddings as they come, and learnt more
    of whisper-words than the last. Raises InvalidOption for more than there are.
    """
    if wanted is None:
        return list(range(layers))
    if wanted > layers:
        raise InvalidOption(f"distill: the model has {layers} layers, {wanted} cannot be kept: ask for fewer")
    places: list[int] = np.linspace(0, layers - 1, wanted).round().astype(int).tolist()
    return places


def cut(network: Any, name: str, kept: list[int]) -> None:
    """Keep these layers of the "encoder" or "decoder", in place."""
    import torch

    stack = getattr(network.model, name)
    stack.layers = torch.nn.ModuleList(stack.layers[index] for index in kept)
    for place, layer in enumerate(stack.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where it keeps its past
                module.layer_idx = place
    network.config = copy.deepcopy(network.config)
    for part in (network, network.model, network.model.encoder, network.model.decoder):
        part.config = network.config
    setattr(network.config, f"{name}_layers", len(kept))
    if name == "encoder":
        network.config.num_hidden_layers = len(kept)


def write(model: Model, network: Any, decoder: list[int], out: Path) -> None:
    """The student's weights and config; everything else is the teacher's, with the attention heads that are left."""
    network.save_pretrained(str(out), safe_serialization=True)
    for file in model.files:
        if file.name != "config.json" and ".safetensors" not in file.name:
            shutil.copyfile(file, out / file.name)
    path = out / "generation_config.json"
    if not (model.path / path.name).is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    heads = [[decoder.index(layer), head] for layer, head in config.get("alignment_heads") or () if layer in decoder]
    config.pop("alignment_heads", None)  # without any, runtimes take the upper half of the layers
    path.write_text(json.dumps({**config, **({"alignment_heads": heads} if heads else {})}, indent=2), encoding="utf-8")
