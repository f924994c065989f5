"""A Whisper's layers for CTranslate2, one at a time: memory holds one layer in float32, and what is rounded already.

CTranslate2's own loader wants the whole network, and rounds it when all of it is there: four times its int8 file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from ctranslate2.converters.transformers import WhisperLoader
from ctranslate2.specs.model_spec import OPTIONAL

from ..hf.checkpoint import Checkpoint, widen
from ..hf.whisper import load_network

IN_A_LAYER = re.compile(r"/layer_\d+/")  # and not decoder/layer_norm/gamma
SIDES = ("model.encoder", "model.decoder")


class Source:
    """A Whisper in a folder. `network` has all parameters but those of the layers, which come from the files."""

    def __init__(self, folder: Path) -> None:
        """Raises what `load_network` raises; a folder whose names are not the network's is opened as a whole."""
        self._checkpoint = Checkpoint(folder)
        self.network = self._bare(folder)
        self._whole = self.network is None
        if self.network is None:
            self.network = load_network(folder)

    def fill(self, module: Any, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """Read the parameters of a module whose names begin with the prefix, in float32."""
        for name, parameter in list(module.named_parameters()):
            if not parameter.is_meta or f"{prefix}{name}".startswith(skip):
                continue
            owner, _, last = name.rpartition(".")
            stored = self._checkpoint.read(f"{prefix}{name}")
            wide = widen(stored) if stored.dtype == np.uint16 else stored.astype(np.float32, copy=False)
            value = torch.nn.Parameter(torch.from_numpy(wide), requires_grad=False)
            setattr(module.get_submodule(owner), last, value)

    def layers(self, side: str, specs: Any, type: str) -> Iterator[Any]:
        """Each layer with its weights; before the next one, its specification is rounded and its weights are let go."""
        found = self.network.get_submodule(side).layers
        for place, spec in enumerate(specs):
            layer = found[place]
            self.fill(layer, f"{side}.layers.{place}.")
            yield layer
            spec.validate()
            spec._quantize(type)  # `optimize` would name equal tensors by their place in the layer
            if not self._whole:
                layer.to("meta")

    def _bare(self, folder: Path) -> Any:
        """The network without weights in its layers; None where the files have other names or shapes."""
        try:
            config = transformers.WhisperConfig.from_pretrained(str(folder), local_files_only=True)
            with torch.device("meta"):
                network = transformers.WhisperForConditionalGeneration(config)
        except (OSError, ValueError, TypeError):
            return None
        stored = self._checkpoint.tensors
        for name, parameter in network.named_parameters():
            if name not in stored or stored[name].shape != tuple(parameter.shape):
                return None
        self.fill(network, "", skip=tuple(f"{side}.layers." for side in SIDES))
        network.tie_weights()
        if (folder / "generation_config.json").is_file():
            network.generation_config = transformers.GenerationConfig.from_pretrained(str(folder))
        network.generation_config.forced_decoder_ids = None  # as `load_network` does
        return network.eval()


class Loader(WhisperLoader):  # type: ignore[misc] # ctranslate2 has no types
    """CTranslate2's loader, which reads the layers from a Source and rounds each when it is there."""

    def __init__(self, source: Source, type: str) -> None:
        super().__init__()
        self._source, self._type = source, type

    def set_encoder(self, spec: Any, encoder: Any) -> None:
        """As the base class."""
        layers = self._source.layers(SIDES[0], spec.layer, self._type)
        super().set_encoder(spec, _Streamed(encoder, layers))
        next(layers, None)  # the last layer is rounded too

    def set_decoder(self, spec: Any, decoder: Any) -> None:
        """As the base class."""
        layers = self._source.layers(SIDES[1], spec.layer, self._type)
        super().set_decoder(spec, _Streamed(decoder, layers))
        next(layers, None)

    def finished(self, spec: Any) -> None:
        """Check the whole specification, name equal tensors once and round what is in no layer."""
        spec.validate()
        spec._alias_variables()
        variables = spec.variables()
        for name, value in variables.items():
            weight = variables.get(name.removesuffix("_scale"))
            if name.endswith("_scale") and isinstance(value, str) and isinstance(weight, str) and weight != OPTIONAL:
                _owner(spec, name).weight_scale = OPTIONAL  # the alias of a weight stands for its scale too
        spec._quantize(self._type, lambda name: not IN_A_LAYER.search(name))


class _Streamed:
    """One side of the network with other `layers`."""

    def __init__(self, side: Any, layers: Iterator[Any]) -> None:
        self._side, self.layers = side, layers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)


def _owner(spec: Any, name: str) -> Any:
    from ctranslate2.specs.model_spec import index_spec

    return index_spec(spec, name.rpartition("/")[0])
