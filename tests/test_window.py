"""window: a shorter window in the model's own files, the same answers for what it holds, and a fine-tuning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from microbudget.audio.sound import RATE_HZ
from microbudget.errors import InvalidOption, UnsupportedModel
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.methods import Context
from microbudget.methods.window import Window
from microbudget.model import Model
from microbudget.recipes.build import build_step
from microbudget.runtimes import open_session
from microbudget.runtimes.hf.whisper import load_network
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_seq2seq import write_recordings, write_whisper


@pytest.fixture(scope="session")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_whisper(tmp_path_factory.mktemp("whisper") / "toy", max_source_positions=500))


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("speech")
    task = TranscriptionTask.open(write_recordings(folder / "data"), DataOptions(cache=folder / "cache"))
    return Context(task, folder / "cache", threads=2)


@pytest.fixture(scope="session")
def short(whisper: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return build_step(whisper, Window(seconds=4), context, tmp_path_factory.mktemp("store"))


def test_transformers_opens_the_folder_as_it_is(short: Model) -> None:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    front = WhisperFeatureExtractor.from_pretrained(str(short.path))
    assert (front.chunk_length, front.n_samples, front.nb_max_frames) == (4, 64_000, 400)
    network = WhisperForConditionalGeneration.from_pretrained(str(short.path))
    features = front(np.zeros(RATE_HZ, np.float32), sampling_rate=RATE_HZ, return_tensors="pt").input_features
    assert features.shape == (1, 80, 400)
    assert network.model.encoder(features).last_hidden_state.shape == (1, 200, 32)


def test_the_first_positions_stay_and_nothing_else_changes(whisper: Model, short: Model) -> None:
    before, after = load_network(whisper.path).state_dict(), load_network(short.path).state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        rows = 200 if name.endswith("encoder.embed_positions.weight") else len(tensor)
        assert after[name].equal(tensor[:rows]), name
    others = {file.name for file in whisper.files} - {"config.json", "preprocessor_config.json", "model.safetensors"}
    for name in others:
        assert (short.path / name).read_bytes() == (whisper.path / name).read_bytes()


def test_the_encoder_answers_as_one_that_hears_no_more(whisper: Model, short: Model) -> None:
    """Against the plain equations: the same layers over the first 200 positions."""
    import torch

    network, small = load_network(whisper.path), load_network(short.path)
    features = torch.randn(1, 80, 400)
    with torch.inference_mode():
        encoder = network.model.encoder
        hidden = torch.nn.functional.gelu(encoder.conv1(features))
        hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            answer = layer(hidden, None)
            hidden = answer[0] if isinstance(answer, tuple) else answer
        expected = encoder.layer_norm(hidden)
        assert torch.allclose(small.model.encoder(features).last_hidden_state, expected, atol=1e-5)


def test_the_record_tells_the_window_and_who_takes_it(short: Model) -> None:
    report = short.record.history["window"]
    assert (report["before_s"], report["after_s"], report["longer"]) == (10, 4, 0)
    assert any("CTranslate2" in line for line in report["runtimes"])
    assert (short.record.preprocessing or {})["chunk_length"] == 4


def test_auto_fits_the_longest_recording(whisper: Model, context: Context, tmp_path: Path) -> None:
    fitted = build_step(whisper, Window(seconds="auto"), context, tmp_path)
    assert fitted.record.history["window"]["after_s"] == 3  # the longest of the toy recordings has 2.5 seconds
    assert fitted.record.history["window"]["longer"] == 0


def test_what_is_longer_is_reported_and_cut_by_the_runtime(whisper: Model, context: Context, tmp_path: Path) -> None:
    tiny = build_step(whisper, Window(seconds=1), context, tmp_path)
    assert tiny.record.history["window"]["longer"] > 0
    session = open_session(tiny)
    assert session.window_s == 1  # type: ignore[attr-defined]
    example = context.task.median(context.task.examples("train"))  # type: ignore[attr-defined]
    assert session.answer(context.task.collate([example], {})).shape == (1,)


@pytest.mark.parametrize("frames", [400, 3000])
def test_ctranslate2_takes_the_short_window_and_the_whole_one(short: Model, tmp_path: Path, frames: int) -> None:
    """faster-whisper fills every piece up to 30 seconds: the exported table of positions is long enough for that."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    from microbudget.runtimes.ct2 import convert as convert_ct2

    convert_ct2.convert(short.path, tmp_path, "float32")
    network = ctranslate2.models.Whisper(str(tmp_path), device="cpu")
    features = np.random.default_rng(0).normal(size=(1, 80, frames)).astype(np.float32)
    encoded = np.array(network.encode(ctranslate2.StorageView.from_array(features)))
    assert encoded.shape == (1, frames // 2, 32)


def test_the_continued_positions_are_transformers_own(short: Model) -> None:
    from transformers.models.whisper.modeling_whisper import sinusoids

    from microbudget.runtimes.ct2.convert import lengthen

    network = load_network(short.path)
    assert lengthen(network) == 1500
    continued = network.model.encoder.embed_positions.weight.detach()
    assert np.allclose(continued, sinusoids(1500, 32), atol=1e-4)


def test_learnt_positions_are_not_continued(short: Model) -> None:
    import torch

    from microbudget.runtimes.ct2.convert import lengthen

    network = load_network(short.path)
    with torch.no_grad():
        network.model.encoder.embed_positions.weight += 0.1
    assert lengthen(network) == 200


def test_fine_tuning_trains_the_encoder_and_not_the_embeddings(
    whisper: Model, context: Context, tmp_path: Path
) -> None:
    tuned = build_step(whisper, Window(seconds=3, epochs=2, max_wer=1e9), context, tmp_path)
    report = tuned.record.history["window"]
    assert len(report["epochs"]) >= 1
    assert report["teacher_passes"] == report["recordings"] == len(set(tuned.record.seen))
    before, after = load_network(whisper.path).state_dict(), load_network(tuned.path).state_dict()
    assert after["model.decoder.embed_tokens.weight"].equal(before["model.decoder.embed_tokens.weight"])
    if report["kept"]:
        assert not after["model.encoder.conv1.weight"].equal(before["model.encoder.conv1.weight"])
    generation = json.loads((tuned.path / "generation_config.json").read_text())
    assert generation == json.loads((whisper.path / "generation_config.json").read_text())


@pytest.mark.parametrize("seconds", [0, 31, -1, 2.5, "long", True, None])
def test_odd_lengths_are_refused(seconds: Any) -> None:
    with pytest.raises(InvalidOption, match="seconds must be"):
        Window(seconds=seconds)


def test_it_only_makes_shorter(short: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="longer than the model's 4"):
        build_step(short, Window(seconds=5), context, tmp_path)


def test_auto_needs_recordings(whisper: Model, photos: Path, tmp_path: Path) -> None:
    from microbudget.kinds.image_classification.data import ImageTask

    images = Context(ImageTask.open(photos, DataOptions(cache=tmp_path / "cache")), tmp_path / "cache")
    with pytest.raises(UnsupportedModel, match="window does not support image-classification, which these data"):
        build_step(whisper, Window(seconds="auto"), images, tmp_path)


def test_another_architecture_is_refused(hf_model: Path, context: Context, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="window does not support image-classification, which this model is for"):
        build_step(load(hf_model), Window(), context, tmp_path)


def test_a_front_end_nested_in_a_processor_is_changed_too(whisper: Model, context: Context, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whisper.path, tmp_path / "nested"))
    front = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    nested = {"feature_extractor": front, "processor_class": "WhisperProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    small = build_step(load(folder), Window(seconds=2), context, tmp_path / "store")
    written = json.loads((small.path / "processor_config.json").read_text())
    assert written["feature_extractor"]["nb_max_frames"] == 200
    assert open_session(small).window_s == 2  # type: ignore[attr-defined]


def test_recordings_of_the_toy_are_sound(context: Context) -> None:
    example = context.task.examples("train")[0]
    samples, rate = soundfile.read(context.task.path_of(example))  # type: ignore[attr-defined]
    assert rate == RATE_HZ
    assert 0.5 * RATE_HZ <= len(samples) <= 2.5 * RATE_HZ


@pytest.fixture(scope="session")
def fitted(whisper: Model, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A window of each recording's length, 2 s at least, of the model's own 10 s."""
    return build_step(whisper, Window(seconds="each", shortest=2), context, tmp_path_factory.mktemp("store"))


def test_a_window_for_each_recording_leaves_the_weights_alone(whisper: Model, fitted: Model) -> None:
    """Every library opens the folder as it is, with the whole window; the record says what the tool takes."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    for file in whisper.files:
        if file.name != "preprocessor_config.json":
            assert (fitted.path / file.name).read_bytes() == file.read_bytes(), file.name
    front = WhisperFeatureExtractor.from_pretrained(str(fitted.path))
    assert (front.chunk_length, front.nb_max_frames) == (10, 1000)
    WhisperForConditionalGeneration.from_pretrained(str(fitted.path))
    report = fitted.record.history["window"]
    assert (report["before_s"], report["shortest_s"], report["margin_s"]) == (10, 2, 1)
    assert 2 <= report["mean_s"] <= 3.5, "the toy recordings have 0.5 to 2.5 seconds"
    assert (fitted.record.preprocessing or {})["fitted_window"] == {"shortest_s": 2, "margin_s": 1}


def test_both_runtimes_take_the_window_of_each_recording(fitted: Model, tmp_path: Path) -> None:
    """As the plain window of that length does, whose weights are cut; recordings longer than all are cut at pauses."""
    from microbudget.kinds.transcription.network import open_speech
    from microbudget.kinds.transcription.window import write
    from microbudget.runtimes.ct2 import convert as convert_ct2

    for folder in (tmp_path / "cut", tmp_path / "ct2"):
        folder.mkdir()
    convert_ct2.convert(fitted.path, tmp_path / "ct2", "float32")
    torch_session = open_speech(fitted, threads=1, language="en")
    ct2_session = open_speech(load(tmp_path / "ct2"), threads=1, language="en")
    for length_s in (0.5, 4.0, 14.0):
        waveform = np.random.default_rng(0).normal(0, 0.1, int(length_s * RATE_HZ)).astype(np.float32)
        assert torch_session.text(waveform) == ct2_session.text(waveform)
    write(fitted, 5, tmp_path / "cut")
    plain = open_speech(load(tmp_path / "cut"), threads=1, language="en")
    assert torch_session.text(waveform[: 4 * RATE_HZ]) == plain.text(waveform[: 4 * RATE_HZ])


def test_a_text_that_repeats_itself_is_written_again_with_the_whole_window(
    fitted: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = open_session(fitted)
    frames: list[int] = []

    def generate(features: np.ndarray, _prompt: Any) -> list[int]:
        frames.append(features.shape[1])
        return [ord("!"), ord("?")] * (16 if features.shape[1] < 1000 else 1)

    monkeypatch.setattr(session.whisper, "generate", generate)
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    once = session.text(noise)
    assert frames == [200, 1000], "longer than anyone speaks in a second, or repeated"
    assert session.second_tries() == 1
    whole = np.random.default_rng(0).normal(0, 0.1, 10 * RATE_HZ).astype(np.float32)
    assert session.text(whole) == once
    assert frames[2:] == [1000], "the whole window has no second try"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": "each", "epochs": 2}, "leave epochs out"),
        ({"seconds": 10, "shortest": 5}, "are for seconds='each'"),
        ({"seconds": "all"}, "must be a whole number"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Window(**options)


def test_a_window_that_is_short_already_is_refused(short: Model, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="take fewer seconds"):
        build_step(short, Window(seconds="each"), context, tmp_path)
