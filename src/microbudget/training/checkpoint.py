"""Checkpoints: the changing tensors of a training on disk, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..machine.files import explain_full_disk, open_whole
from ..progress import Progress


def _changing(network: Module) -> dict[str, Tensor]:
    """The tensors that training changes, by name: what is trained, and the running statistics."""
    trained = {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}
    return {**trained, **dict(network.named_buffers())}


def weights_of(network: Module) -> dict[str, Tensor]:
    """Copies on the CPU of the tensors that training changes."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _changing(network).items()}


def put_weights(network: Module, weights: Mapping[str, Tensor]) -> None:
    """Write what `weights_of` returned into the network, in place."""
    with torch.no_grad():
        for name, tensor in _changing(network).items():
            tensor.copy_(weights[name])


def generators() -> list[Tensor]:
    """The states of torch's random generators: the CPU's, then each GPU's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_generators(states: Sequence[Tensor]) -> None:
    """Restore what `generators` returned; the GPUs' where there are as many."""
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and len(states) == 1 + torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(states[1:]))


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at once or not at all. Raises DiskFull, and the earlier one is still there."""
    full = (
        f"no space left for the checkpoint {path}: free some and give the same command again, it resumes from the"
        " earlier checkpoint"
    )
    with explain_full_disk(full), open_whole(path, durable=True) as stream:
        torch.save(state, stream)


def read(path: Path | None, progress: Progress, needed: Sequence[str] = ()) -> dict[str, Any] | None:
    """The checkpoint, or None; nothing in it is ever run.

    For one that a power cut damaged, or that lacks one of the `needed` names, there is a warning.
    """
    if path is None or not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := [name for name in needed if name not in state]:
            raise ValueError(f"it is of another version of microbudget and has no {', '.join(missing)}")
        return state
    except Exception as error:  # torch raises several kinds of its own
        progress.warn(f"the checkpoint {path} cannot be read ({error}): the training starts from the beginning")
        return None
