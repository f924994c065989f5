"""distill of a Whisper: which layers stay, what is trained, and that it can be killed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microbudget.errors import BadData, InvalidOption, UnsupportedModel
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.distill import spaced
from microbudget.methods import Context, Method
from microbudget.methods.distill import Distill
from microbudget.methods.finetune import Finetune
from microbudget.methods.lora import Lora
from microbudget.methods.prune import Prune
from microbudget.methods.trim import Trim
from microbudget.model import Model
from microbudget.recipes.build import build, build_step
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes import open_session
from microbudget.runtimes.hf.whisper import load_network
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_seq2seq import write_recordings, write_whisper

EASY: dict[str, Any] = {"max_wer": 1e9, "epochs": 2, "batch_size": 8}  # a random teacher writes nonsense


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("whisper") / "toy"
    write_whisper(folder, max_target_positions=16, max_source_positions=150)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["alignment_heads"] = [[0, 1], [1, 0], [3, 1]]
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return load(folder)


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("speech")
    task = TranscriptionTask.open(write_recordings(folder / "data", 24), DataOptions(cache=folder / "cache"))
    return Context(task, folder / "cache", threads=2)


@pytest.fixture(scope="session")
def student(whisper: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return build_step(whisper, Distill(decoder_layers=2, **EASY), context, tmp_path_factory.mktemp("store"))


@given(st.integers(1, 40), st.data())
def test_layers_that_stay_are_far_apart(layers: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, layers))
    kept = spaced(layers, wanted)
    assert len(set(kept)) == len(kept) == wanted
    assert kept == sorted(kept)
    assert kept[0] == 0
    if wanted > 1:
        assert kept[-1] == layers - 1
        gaps = np.diff(kept)
        assert max(gaps) - min(gaps) <= 1


def test_layers_of_the_paper() -> None:
    assert spaced(32, 2) == [0, 31]
    assert spaced(4, 1) == [0]
    assert spaced(4, None) == [0, 1, 2, 3]
    with pytest.raises(InvalidOption, match="has 4 layers, 5 cannot be kept"):
        spaced(4, 5)


def test_transformers_opens_the_student(student: Model) -> None:
    from transformers import WhisperForConditionalGeneration

    network = WhisperForConditionalGeneration.from_pretrained(str(student.path))
    assert (network.config.decoder_layers, network.config.encoder_layers) == (2, 2)
    assert len(network.model.decoder.layers) == 2
    generation = json.loads((student.path / "generation_config.json").read_text())
    assert generation["alignment_heads"] == [[0, 1], [1, 1]]  # of layers 0 and 3


def test_without_epochs_it_is_cut_alone(whisper: Model, context: Context, tmp_path: Path) -> None:
    cut = build_step(whisper, Distill(decoder_layers=1, epochs=0), context, tmp_path)
    before, after = load_network(whisper.path).state_dict(), load_network(cut.path).state_dict()
    for name, tensor in after.items():
        assert tensor.equal(before[name]), name
    assert not cut.record.seen
    assert cut.size_bytes < whisper.size_bytes


def test_encoder_and_embeddings_stay_as_they_are(whisper: Model, student: Model) -> None:
    before, after = load_network(whisper.path).state_dict(), load_network(student.path).state_dict()
    same = [name for name in after if ".encoder." in name or "embed" in name]
    assert all(after[name].equal(before[name]) for name in same)
    if student.record.history["distill"]["kept"]:
        assert not after["model.decoder.layers.1.fc1.weight"].equal(before["model.decoder.layers.3.fc1.weight"])


def test_the_teacher_hears_each_once(whisper: Model, context: Context, student: Model, tmp_path: Path) -> None:
    report = student.record.history["distill"]
    keys = {example.key for split in ("train", "validation") for example in context.task.examples(split)}
    recordings = len(keys)
    assert report["teacher_passes"] in (0, recordings)  # 0 where another test has asked before
    assert report["recordings"] == recordings
    again = build_step(whisper, Distill(decoder_layers=1, **EASY), context, tmp_path)
    assert again.record.history["distill"]["teacher_passes"] == 0
    assert set(student.record.seen) == keys


def test_the_loss_falls(whisper: Model, context: Context, tmp_path: Path) -> None:
    longer = Distill(decoder_layers=1, max_wer=1e9, epochs=30, learning_rate=1e-2, batch_size=8, patience=30)
    epochs = build_step(whisper, longer, context, tmp_path).record.history["distill"]["epochs"]
    assert min(row["validation_loss"] for row in epochs) < 0.9 * epochs[0]["validation_loss"]


def test_fewer_encoder_layers_train_the_encoder(whisper: Model, context: Context, tmp_path: Path) -> None:
    made = build_step(whisper, Distill(encoder_layers=1, **EASY), context, tmp_path)
    network = load_network(made.path)
    assert (network.config.encoder_layers, network.config.decoder_layers) == (1, 4)
    if made.record.history["distill"]["kept"]:
        before = load_network(whisper.path).state_dict()
        assert not network.state_dict()["model.encoder.conv1.weight"].equal(before["model.encoder.conv1.weight"])
    text = open_session(made).answer(context.task.collate(context.task.examples("train")[:1], {}))
    assert text.shape == (1,)


def test_the_same_seed_gives_the_same_student(whisper: Model, context: Context, student: Model, tmp_path: Path) -> None:
    again = build_step(whisper, Distill(decoder_layers=2, **EASY), context, tmp_path)
    a, b = (load_network(each.path).state_dict() for each in (student, again))
    assert all(a[name].equal(b[name]) for name in a)


def test_a_killed_training_goes_on(
    whisper: Model, context: Context, student: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microbudget.kinds.transcription import objective
    from microbudget.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    calls, loss = [0], objective.loss

    def failing(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(objective, "loss", failing)
    step = Distill(decoder_layers=2, **EASY)
    own = replace(context, checkpoints=None)
    with pytest.raises(KeyboardInterrupt):
        build_step(whisper, step, own, tmp_path)
    made = build_step(whisper, step, own, tmp_path)
    a, b = (load_network(each.path).state_dict() for each in (student, made))
    assert all(a[name].equal(b[name]) for name in a)


def test_transcripts_filter_what_is_learnt(whisper: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="differs from the transcript"):
        build_step(whisper, Distill(decoder_layers=1, epochs=1, max_wer=0.0), context, tmp_path)


def test_it_works_without_transcripts(whisper: Model, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_recordings(data / "unlabelled", 16, 1, transcribed=False)
    for seed, split in enumerate(("train", "validation", "test"), 2):
        write_recordings(data / split, 6, seed)
    context = Context(TranscriptionTask.open(data, DataOptions(cache=tmp_path / "cache")), tmp_path / "cache")
    made = build_step(whisper, Distill(decoder_layers=1, epochs=1, max_wer=0.0), context, tmp_path / "store")
    report = made.record.history["distill"]
    assert report["recordings"] == 16 + 6 + 6
    assert (report["train"], report["validation"]) == (16, 0)  # a random teacher gets nothing right
    assert report["left_out"] == {"the teacher differs from the transcript": 12}
    trimmed = build_step(whisper, Trim(), context, tmp_path / "store")
    assert trimmed.record.history["trim"]["texts"] == 16 + 6


def test_options_for_images_are_refused(whisper: Model, context: Context, tmp_path: Path) -> None:
    rest = [{"temperature": 2.0}, {"hard": 0.5}, {"features": 1.0}, {"views": 2}, {"curve": True}]
    for options in ({"depth": 0.5}, {"width": 0.5}, {"student": "x"}, {"teacher": "x"}, *rest):
        with pytest.raises(InvalidOption, match=r"is for image-classification.*; a Whisper"):
            build_step(whisper, Distill(**options), context, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="2 layers, 9 cannot be kept"):
        build_step(whisper, Distill(encoder_layers=9), context, tmp_path)


@pytest.mark.parametrize("method", [Prune(), Lora(), Finetune()], ids=lambda method: method.name())
def test_methods_of_other_kinds_name_this_one(method: Method, whisper: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=rf"{method.name()} does not support transcription.*distill\(decoder"):
        build_step(whisper, method, context, tmp_path / "s")


def test_all_levers_together(whisper: Model, context: Context, tmp_path: Path) -> None:
    recipe = f"window(seconds=3) > trim > distill(decoder_layers=1, epochs=1, max_wer={1e9}) > export(format='ct2')"
    pytest.importorskip("ctranslate2")
    made = build(whisper, Recipe.parse(recipe), context, tmp_path)[-1]
    assert made.format == "ct2"
    assert set(made.record.history) >= {"window", "trim", "distill", "export"}
    assert open_session(made).answer(context.task.collate(context.task.examples("train")[:2], {})).shape == (2,)
