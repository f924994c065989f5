"""Whisper: a student with fewer layers learns from what the given model writes, and how sure it is of each word.

Gandhi et al. 2023, arXiv:2311.00430. The student keeps the encoder, frozen, and maximally spaced decoder layers. The
teacher hears each recording once; its encoder's states, its words and their probabilities are read from the disk from
then on, so that an epoch costs a few decoder layers and a CPU is enough.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidOption
from ...methods import Context
from ...model import Model, Record

if TYPE_CHECKING:
    from ...methods.distill import Distill
    from ...training.train import Settings

STACKS = ("decoder", "encoder")


def extra_inputs(options: Distill, context: Context) -> dict[str, str]:
    """Nothing: the teacher is the given model."""
    del options, context
    return {}


def distilled(options: Distill, model: Model, context: Context, out: Path) -> Record:
    """Write the student. Raises InvalidOption for more layers than there are, BadData without usable recordings."""
    from ...runtimes.hf.whisper import load_network
    from ...runtimes.speech.whisper import front_end
    from . import teaching

    network = load_network(model.path)
    kept = {name: spaced(getattr(network.config, f"{name}_layers"), _wanted(options, name)) for name in STACKS}
    whole = len(kept["encoder"]) == network.config.encoder_layers
    for name in STACKS:
        cut(network, name, kept[name])
    history: dict[str, Any] = {"kept_layers": kept}
    seen = set(model.record.seen)
    if options.epochs:
        front = front_end(model.path)
        chosen = teaching.material(
            model,
            context.task,
            context.cache,
            max_wer=options.max_wer,
            longest_s=front.seconds,
            threads=context.threads,
            deadline=context.deadline,
            progress=context.progress,
        )
        trained = teaching.teach(
            network,
            chosen,
            context.task,
            _settings(options),
            front=None if whole else front,
            seed=context.seed,
            threads=context.threads,
            checkpoint=context.checkpoint("student"),
            deadline=context.deadline,
            what="distill",
            progress=context.progress,
        )
        history |= {**chosen.report(), **trained.as_dict()}
        seen |= teaching.keys([*chosen.train, *chosen.validation])
    write(model, network, kept["decoder"], out)
    told = {**model.record.history, "distill": history}
    return replace(model.record, task=context.task.kind, seen=tuple(sorted(seen)), history=told)


def _settings(options: Distill) -> Settings:
    from ...training.train import Settings

    return Settings(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        patience=options.patience,
    )


def _wanted(options: Distill, name: str) -> int | None:
    wanted: int | None = getattr(options, f"{name}_layers")
    return wanted


def spaced(layers: int, wanted: int | None) -> list[int]:
    """The numbers of `wanted` of the layers, as far from each other as can be: the first and the last among them.

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
    told = json.loads(path.read_text(encoding="utf-8"))
    heads = [[decoder.index(layer), head] for layer, head in told.get("alignment_heads") or () if layer in decoder]
    told.pop("alignment_heads", None)  # without any, runtimes take the upper half of the layers
    path.write_text(json.dumps({**told, **({"alignment_heads": heads} if heads else {})}, indent=2), encoding="utf-8")
