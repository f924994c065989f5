"""Hugging Face folders as transformers' own modules, opened without remote code and with all weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from ...errors import UnsupportedModel, what_it_said
from ...model import Record, backbone_of
from . import widths
from .heads import set_classes


def silence() -> None:
    """Switch off the warnings and progress bars of transformers: what matters we raise."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def open_network(auto: Any, folder: Path, what: str, state: Mapping[str, Any] | None = None) -> Any:
    """The network in a folder, in float32 and eval mode: an ordinary one, a pruned one, or a backbone with an adapter.

    auto: transformers' class for the task. what: for errors, such as "a language model". state: of the record, where it
    is not in the folder yet; it has the widths of a pruned network. Raises what `open_pretrained` and `widths.load` do.
    """
    silence()
    record = Record.read(folder) if state is None else Record(state=dict(state))
    backbone = backbone_of(folder)
    if backbone is not None:
        return _open_adapted(auto, folder, what, backbone, record or Record())
    if record is not None and widths.special(record.state):
        return widths.load(auto, folder, record.state)
    return open_pretrained(auto, folder, what)


def _open_adapted(auto: Any, folder: Path, what: str, backbone: Path, record: Record) -> Any:
    """The backbone, a classifier with the head of `record`'s labels, and the adapter of `folder` merged into it."""
    from .adapters import merged

    own = backbone == folder  # then transformers would add the adapter by itself, without the head
    network = widths.load(auto, folder, record.state) if own else open_network(auto, backbone, what)
    if record.labels is not None:
        with torch.random.fork_rng(devices=[]):  # the adapter's folder replaces these random weights
            set_classes(network, record.labels, None)
    return merged(network, folder)


def open_pretrained(
    auto: Any, folder: Path, what: str, offload: Path | None = None, optional: tuple[str, ...] = ()
) -> Any:
    """The network in a folder, in float32 and eval mode. auto: a class of transformers; what: "a language model".

    offload: a folder for what the weights' own files cannot serve; then each layer is read when it is computed, and the
    memory is that of one layer. optional: how the names of weights begin that may be missing.
    Only safetensors are read, remote code is not run, and weights that are missing or of another shape are an error:
    transformers would initialize them randomly and go on. Raises UnsupportedModel.
    """
    silence()
    try:
        network, info = auto.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below, which transformers does in its log only
            **({} if offload is None else {"device_map": {"": "disk"}, "offload_folder": str(offload)}),
        )
    except MemoryError:
        raise
    except Exception as error:  # transformers, huggingface_hub and safetensors each raise classes of their own
        raise UnsupportedModel(f"transformers cannot open {folder} as {what}: {what_it_said(error)}") from error
    if mismatched := sorted(info["mismatched_keys"], key=str):
        name, stored, configured = mismatched[0]
        raise UnsupportedModel(
            f"{folder}: {len(mismatched)} weights have other shapes than config.json says, such as {name}: it is"
            f" {list(stored)}, and {list(configured)} by config.json. Is that the config.json of these weights?"
        )
    if missing := sorted(name for name in map(str, info["missing_keys"]) if not name.startswith(optional)):
        raise UnsupportedModel(f"{folder} lacks {len(missing)} weights of its architecture, such as {missing[0]!r}")
    return network.eval()
