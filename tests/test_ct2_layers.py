"""A Whisper is converted layer by layer into the bytes that CTranslate2's own loader makes of the whole network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ctranslate2.converters.transformers import WhisperLoader

from microbudget.runtimes.ct2 import convert
from microbudget.runtimes.ct2.layers import Source
from microbudget.runtimes.hf.whisper import load_network
from toy_seq2seq import write_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No two of its tensors are equal, as in a trained one."""
    made = write_whisper(tmp_path_factory.mktemp("whisper"))
    network = load_network(made)
    coin = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=coin)
    settings = (made / "generation_config.json").read_bytes()
    network.save_pretrained(str(made))
    (made / "generation_config.json").write_bytes(settings)
    return made


def whole(folder: Path, out: Path, type: str) -> bytes:
    """By CTranslate2's loader, from the whole network."""
    network = load_network(folder)
    convert.lengthen(network)
    spec = WhisperLoader().get_model_spec(network)
    spec.register_vocabulary(convert.vocabulary(folder, network.config.vocab_size))
    spec.validate()
    spec.optimize(quantization=type)
    spec.save(str(out))
    return (out / "model.bin").read_bytes()


@pytest.mark.parametrize("type", convert.TYPES)
@pytest.mark.parametrize("named", [True, False])
def test_the_bytes_are_those_of_the_whole_network(
    folder: Path, tmp_path: Path, type: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the files have other names than the network, which is then opened as a whole."""
    if not named:
        monkeypatch.setattr(Source, "_bare", lambda *_: None)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    convert.convert(folder, ours, type)
    assert (ours / "model.bin").read_bytes() == whole(folder, theirs, type)


def test_layers_come_from_the_files_one_at_a_time(folder: Path) -> None:
    source, whole_network = Source(folder), load_network(folder)
    encoder = source.network.model.encoder
    assert all(parameter.is_meta for parameter in encoder.layers.parameters())
    assert not any(p.is_meta for name, p in source.network.named_parameters() if ".layers." not in name)
    layer = encoder.layers[0]
    source.fill(layer, "model.encoder.layers.0.")
    assert torch.equal(layer.fc1.weight, whole_network.model.encoder.layers[0].fc1.weight)
