"""Widths: networks whose shapes their config cannot describe, as `prune` leaves them, built from the record's state.

`dropped` names modules that are skipped. `widths` has two parts: `tensors`, the shape of each tensor, with null for a
size that the config has too; `attributes`, the numbers that each module's code reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...errors import UnsupportedModel, what_it_said
from ...model import weight_files

ATTRIBUTES = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "nx", "nf")
ADAPTER = "adapter_"  # the beginning of the names of files without weights of the network itself
State = Mapping[str, Any]


class SkippedBlock(torch.nn.Module):
    """In the place of a dropped block: returns its first input."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """hidden: of any shape."""
        return hidden


def special(state: State) -> bool:
    """Whether a folder with this state needs this module."""
    return bool(state.get("widths") or state.get("dropped"))


def load(auto: Any, folder: Path, state: State, without: tuple[str, ...] = ()) -> Any:
    """The network in a folder at the state's widths, in float32 and eval mode. auto: transformers' class for the task.

    without: names of its parts that the folder does not have. Raises UnsupportedModel.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        network = build(auto, config, state)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UnsupportedModel(
            f"{folder} cannot be opened at the widths in its microbudget.json: {what_it_said(error)}"
        ) from error
    for name in without:
        if hasattr(network, name):
            setattr(network, name, None)
    read_weights(network, folder)
    return network.eval()


def build(auto: Any, config: Any, state: State) -> Any:
    """The network of a config, with random weights, at the state's widths. auto: as of `load`."""
    with torch.random.fork_rng(devices=[]):
        network = auto.from_config(config, dtype=torch.float32)
    drop(network, state.get("dropped", ()))
    narrow(network, state.get("widths", {}))
    mark(network)
    return network


def mark(network: Any) -> None:
    """Note that the config does not describe the network, so that `save` writes the names that `load` reads."""
    network.has_own_widths = True


def save(network: Any, folder: Path) -> None:
    """Write the network with transformers, in float32.

    For some architectures it writes the names of older versions, which only its own loader can map back.
    """
    network.to(memory_format=torch.contiguous_format)
    own = getattr(network, "has_own_widths", False)
    network.save_pretrained(str(folder), safe_serialization=True, save_original_format=not own)


def drop(network: Any, names: Any) -> None:
    """Replace the named modules by `SkippedBlock`s."""
    for name in names:
        network.set_submodule(name, SkippedBlock())


def narrow(network: Any, widths: Mapping[str, Any]) -> None:
    """Give the network's tensors their shapes; their values are lost. A tensor that layers share stays one."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the old tensor, so that its id is not reused
    for name, shape in widths.get("tensors", {}).items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        before = getattr(module, leaf)
        sizes = [given or size for given, size in zip(shape, before.shape, strict=True)]
        after = torch.zeros(sizes, dtype=before.dtype)
        made = torch.nn.Parameter(after) if isinstance(before, torch.nn.Parameter) else after
        setattr(module, leaf, done.setdefault(id(before), (before, made))[1])
    for path, numbers in widths.get("attributes", {}).items():
        for name, value in numbers.items():
            setattr(network.get_submodule(path), name, value)


def read_weights(network: Any, folder: Path) -> None:
    """Fill the network from the folder's safetensors. Raises UnsupportedModel where they do not fit."""
    files = sorted(
        file for file in weight_files(folder) if file.suffix == ".safetensors" and not file.name.startswith(ADAPTER)
    )
    tensors = {name: one for file in files for name, one in load_file(file).items()}
    try:
        missing, unknown = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"the weights in {folder} do not have the widths in its microbudget.json: {str(error).splitlines()[-1]}"
        ) from error
    tied = set(getattr(network, "all_tied_weights_keys", None) or ())
    missing = [name for name in missing if name not in tied and not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise UnsupportedModel(
            f"{folder} lacks {len(missing)} weights of its network and has {len(unknown)} others, such as"
            f" {(missing or unknown)[0]!r}: it does not belong to the widths in its microbudget.json"
        )
    network.tie_weights()


def widths_of(network: Any, dropped: Any = ()) -> dict[str, Any]:
    """The widths that the network's config does not describe; empty for an ordinary network."""
    with torch.device("meta"):
        ordinary = type(network)(network.config)
    drop(ordinary, dropped)
    shapes = {name: tuple(tensor.shape) for name, tensor in ordinary.state_dict(keep_vars=True).items()}
    tensors = {
        name: [None if size == usual else size for size, usual in zip(tensor.shape, shapes[name], strict=True)]
        for name, tensor in network.state_dict(keep_vars=True).items()
        if tuple(tensor.shape) != shapes[name]
    }
    modules = dict(ordinary.named_modules())
    attributes = {
        name: changed for name, module in network.named_modules() if (changed := _changed(module, modules[name]))
    }
    return {"tensors": tensors, "attributes": attributes} if tensors else {}


def _changed(module: Any, ordinary: Any) -> dict[str, int]:
    found = {name: getattr(module, name) for name in ATTRIBUTES if isinstance(getattr(module, name, None), int)}
    return {name: value for name, value in found.items() if getattr(ordinary, name, None) != value}
