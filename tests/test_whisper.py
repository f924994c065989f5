"""Whisper in torch and in CTranslate2: the same tokens, the same front end, languages, damaged and foreign folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.errors import InvalidOption, ModelNotFound, UnsafeModel, UnsupportedModel
from microbudget.kinds.transcription.data import TranscriptionTask, rows
from microbudget.kinds.transcription.network import open_speech
from microbudget.methods import Context
from microbudget.methods.export import Export
from microbudget.model import Model
from microbudget.runtimes import open_session
from microbudget.runtimes.loading import load
from microbudget.runtimes.speech.whisper import LOOPS, SENTENCE, has_loop, without_loop
from microbudget.task import DataOptions
from toy_seq2seq import LANGUAGES, special_tokens, write_recordings, write_whisper

for name in ("torch", "transformers", "ctranslate2", "soundfile", "jiwer"):
    pytest.importorskip(name)

SMALL = {"max_source_positions": 100, "max_target_positions": 32}  # windows of two seconds, 16 tokens of each


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of two languages and a window of 2 s. Do not write into it."""
    folder = write_whisper(tmp_path_factory.mktemp("whisper") / "toy", **SMALL)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "is_multilingual": True}))
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"), 12)


@pytest.fixture(scope="session")
def task(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> TranscriptionTask:
    return TranscriptionTask.open(recordings, DataOptions(cache=tmp_path_factory.mktemp("cache")))


def export(folder: Path, task: TranscriptionTask, out: Path, **options: Any) -> Model:
    out.mkdir(parents=True)
    record = Export(format="ct2", **options).apply(load(folder), Context(task, out / "cache", threads=1), out)
    record.save(out)
    return load(out)


@pytest.fixture(scope="session")
def exported(folder: Path, task: TranscriptionTask, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return export(folder, task, tmp_path_factory.mktemp("ct2") / "float32", type="float32")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def test_folders_are_known_for_what_they_are(folder: Path, exported: Model) -> None:
    given = load(folder)
    assert (given.format, given.task, given.labels) == ("hf", "transcription", None)
    assert (exported.format, exported.task) == ("ct2", "transcription")
    names = {file.name for file in exported.files}
    assert names >= {"model.bin", "config.json", "tokenizer.json", "preprocessor_config.json", "vocabulary.json"}
    assert "microbudget.json" not in names
    assert exported.record.history["export"]["same_texts"] == 1.0


@pytest.mark.parametrize("language", ["en", "de"])
def test_both_runtimes_write_the_same(folder: Path, exported: Model, language: str | None) -> None:
    """Float32, greedy: the same text for the same sound, of every length."""
    torch_session = open_speech(load(folder), threads=1, language=language)
    ct2_session = open_speech(exported, threads=1, language=language)
    for length in (0.01, 0.5, 2.0, 5.0):
        inputs = rows([noise(length, seed) for seed in range(2)])
        texts = torch_session.answer(inputs)
        assert texts.dtype.kind == "U"
        assert texts.tolist() == ct2_session.answer(inputs).tolist()
    assert torch_session.runtime.startswith("torch ")
    assert ct2_session.runtime.startswith("ctranslate2 ")


def test_a_beam_is_the_runtimes_own(folder: Path, exported: Model) -> None:
    """As CTranslate2 itself searches with five hypotheses; torch takes the option too."""
    import ctranslate2

    session, waveform = open_speech(exported, threads=1, language="en", beam=5), noise(1.0)
    prompt, features = session._prompt, session._front(waveform)
    (found,) = session.whisper._network.generate(  # type: ignore[attr-defined]
        ctranslate2.StorageView.from_array(features[None]), [prompt.tokens()], beam_size=5,
        max_length=2 * prompt.longest, suppress_tokens=[-1, *prompt.suppressed(session.whisper._tokens)],  # type: ignore[attr-defined]
    )  # fmt: skip
    written = without_loop(found.sequences_ids[0], prompt.longest, session._vocabulary.text)
    assert session.text(waveform) == session._vocabulary.text(written)
    assert open_speech(load(folder), threads=1, language="en", beam=5).text(waveform)


def test_as_transformers_generates(folder: Path) -> None:
    """The session against transformers' own way, from the feature extractor to `generate`."""
    import torch
    import transformers

    extractor = transformers.WhisperFeatureExtractor.from_pretrained(str(folder))
    network = transformers.WhisperForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    session = open_speech(load(folder), threads=1, language="en")
    for seed in range(4):
        waveform = noise(1.3, seed)
        features = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features
        prompt = [[f"<|{name}|>" for name in ("startoftranscript", "en", "transcribe", "notimestamps")]]
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(prompt[0])])
        with torch.inference_mode():
            tokens = network.generate(features, decoder_input_ids=ids, do_sample=False, num_beams=1, max_new_tokens=16)
        written = without_loop(tokens[0].tolist(), 16, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
        expected = tokenizer.decode(written, skip_special_tokens=True).strip()
        assert session.text(waveform) == expected


def spelled(tokens: Sequence[int]) -> str:
    return " ".join(f"word{token}" for token in tokens)


@given(
    said=st.lists(st.integers(0, 9), max_size=20),
    unit=st.lists(st.integers(10, 19), min_size=1, max_size=5, unique=True),
    longest=st.integers(45, 100),
)
def test_a_loop_is_said_once(said: list[int], unit: list[int], longest: int) -> None:
    endless = (said + unit * longest)[:longest]
    assert without_loop(endless, longest, spelled) == said + unit
    ended = said + unit * 4
    assert without_loop(ended, longest, spelled) == ended, "the model ended it itself"


@given(tokens=st.lists(st.integers(0, 2), max_size=60))
def test_the_shortest_text_that_a_loop_was_made_of(tokens: list[int]) -> None:
    """Against the equation: the loop that reaches back farthest."""
    reach = [
        max(at for at in range(len(tokens) - period + 1) if tokens[-at:] == tokens[-at - period : -period] or not at)
        for period in range(1, len(tokens) // LOOPS + 1)
    ]
    looped = [at for period, at in enumerate(reach, 1) if at >= (LOOPS - 1) * period]
    written = without_loop(tokens, len(tokens), lambda _: "")
    assert written == tokens[: len(tokens) - max(looped, default=0)]


def test_a_loop_that_wanders_ends_where_it_begins() -> None:
    """As whisper-words with one decoder layer writes: no, eight, no, eight, eight, no, and so on to the end."""
    said, coin = [1, 2, 3, 3, 3, 3, 4], np.random.default_rng(0)
    wandering = [token for _ in range(80) for token in ([5, 6] if coin.random() < 0.7 else [6])]
    tokens = said + wandering
    assert without_loop(tokens, len(tokens), spelled) == [*said, *wandering[: wandering.index(5) + 2]]
    assert without_loop(tokens, len(tokens) + 1, spelled) == tokens
    varied = coin.integers(0, 50_000, 224).tolist()
    assert without_loop(varied, 224, spelled) == varied, "a window may be as full as that"


@given(tokens=st.lists(st.integers(0, 2), max_size=40))
def test_loops_are_found_anywhere(tokens: list[int]) -> None:
    """Against the definition: a sentence twice in a row, or something shorter four times."""
    found = any(
        tokens[at : at + period] * times == tokens[at : at + period * times]
        for period in range(1, len(tokens) + 1)
        for times in [2 if period >= SENTENCE else LOOPS]
        for at in range(len(tokens) - period * times + 1)
    )
    assert has_loop(tokens) == found


def test_a_session_writes_no_loop(exported: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_speech(exported, threads=1, language="en")
    loop = [ord("!"), ord("?")] * 16
    monkeypatch.setattr(type(session.whisper), "generate", lambda *_: loop)
    looped = session.text(noise(1.0))
    monkeypatch.setattr(type(session.whisper), "generate", lambda *_: loop[:2])
    assert looped == session.text(noise(1.0)) != ""


def test_a_file_is_read_as_its_waveform(folder: Path, exported: Model, tmp_path: Path) -> None:
    import soundfile

    waveform = np.concatenate([part for seed in range(4) for part in (noise(0.8, seed), np.zeros(12_000, np.float32))])
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    session = open_speech(exported, threads=1)
    by_file = session.answer({"file": np.array([str(tmp_path / "a.wav")])})
    assert by_file.tolist() == session.answer(rows([waveform])).tolist()


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.zeros(40_000, np.float32)])
def test_silence_says_nothing(exported: Model, waveform: np.ndarray) -> None:
    assert open_speech(exported, threads=1).answer(rows([waveform])).tolist() == [""]


def test_languages(folder: Path, exported: Model) -> None:
    """Detected where none is given; one that the tokenizer lacks is refused."""
    from microbudget.audio.log_mel import LogMel
    from microbudget.runtimes.ct2.session import Ct2Whisper
    from microbudget.runtimes.hf.whisper import TorchWhisper
    from microbudget.runtimes.speech.whisper import Prompt, Vocabulary, front_end

    vocabulary = Vocabulary(folder)
    assert set(vocabulary.languages()) == set(LANGUAGES)
    prompt = Prompt.of(folder, vocabulary, multilingual=False)  # the folder tells
    assert prompt.languages == vocabulary.languages()
    german = Prompt.of(folder, vocabulary, multilingual=False, language="<|de|>")
    for name in ("de", "German", "german", " DE "):
        assert Prompt.of(folder, vocabulary, multilingual=False, language=name) == german
    names = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert german.tokens() == [vocabulary.special(name) for name in names]
    assert front_end(folder) == LogMel(80, 32_000)
    features, torch_whisper = LogMel(80, 32_000)(noise(1.0)), TorchWhisper(folder, 1)
    spoken = torch_whisper.detect_language(features, prompt)
    assert spoken in prompt.languages.values()
    assert torch_whisper.generate(features, prompt) == torch_whisper.generate(
        features, replace(prompt, language=spoken)
    )
    with pytest.raises(InvalidOption, match="only with Whisper's whole vocabulary, not with 462 tokens"):
        Ct2Whisper(exported.path, 1).generate(features, prompt)
    settled = exported.record.history["export"]["language"]  # at export, from the calibration recordings
    assert Prompt.of(exported.path, vocabulary, multilingual=False).language == vocabulary.languages()[settled]
    for model in (load(folder), exported):
        with pytest.raises(InvalidOption, match="does not know the language 'fr'; it knows de, en"):
            open_speech(model, language="fr")


def test_a_language_is_detected_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` detects it again, for nothing, where it is not given what is in the prompt."""
    from microbudget.runtimes.hf.whisper import TorchWhisper

    passes: list[int] = []
    session = open_speech(load(folder), threads=1)
    session.whisper.network.model.decoder.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[attr-defined]
    assert isinstance(session.whisper, TorchWhisper)  # type: ignore[attr-defined]
    session.text(noise(1.0))
    detected = len(passes)
    code = session.language([rows([noise(1.0)])])
    passes.clear()
    found_session = open_speech(load(folder), threads=1, language=code)
    found_session.whisper.network.model.decoder.register_forward_hook(lambda *_: passes.append(1))  # type: ignore[attr-defined]
    found_session.text(noise(1.0))
    assert detected == len(passes) + 1


def test_names_of_languages() -> None:
    """As transformers knows them."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as CODES
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    from microbudget.runtimes.speech.languages import NAMES, code_of, name_of

    assert {name: code for name, code in TO_LANGUAGE_CODE.items() if NAMES.get(name) != code} == {}
    assert {code: name_of(code).lower() for code in CODES} == CODES
    assert (code_of("<|de|>"), code_of("Klingon"), name_of("xx")) == ("de", "klingon", "xx")


def test_a_folder_of_faster_whispers_tells_its_mels_by_its_network(exported: Model, tmp_path: Path) -> None:
    """Those that are on the hub have no preprocessor_config.json, and take 30 s."""
    from microbudget.audio.log_mel import LogMel
    from microbudget.runtimes.speech.whisper import WhisperSession

    theirs = shutil.copytree(exported.path, tmp_path / "theirs")
    for name in ("preprocessor_config.json", "microbudget.json"):
        (theirs / name).unlink()
    session = open_speech(load(theirs), threads=1, language="en")
    assert isinstance(session, WhisperSession)
    assert session._front == LogMel(80)
    assert session.window_s == 30
    assert session.answer(rows([noise(3.0)])).shape == (1,)


def test_a_settled_language_is_used(folder: Path, task: TranscriptionTask, tmp_path: Path) -> None:
    """A trimmed vocabulary takes from CTranslate2 the means to tell languages: the export says which it takes."""
    import io

    from microbudget.progress import Progress

    said, out = io.StringIO(), tmp_path / "ct2"
    out.mkdir()
    context = Context(task, tmp_path / "cache", threads=1, progress=Progress(said))
    report = Export(format="ct2").apply(load(folder), context, out).history["export"]
    assert report["language"] in LANGUAGES
    assert f"({report['language']}), the language of most of the recordings" in report["runtimes"]
    assert f"warning: {report['runtimes']}" in said.getvalue()


def test_whispers_whole_vocabulary(task: TranscriptionTask, tmp_path: Path) -> None:
    """With 51,865 tokens CTranslate2 detects languages itself, and faster-whisper loads the folder and agrees."""
    faster_whisper = pytest.importorskip("faster_whisper")
    from microbudget.runtimes.ct2.session import Ct2Whisper
    from microbudget.runtimes.hf.whisper import TorchWhisper
    from microbudget.runtimes.speech.whisper import Prompt, Vocabulary, front_end

    # With the window of all Whispers: faster-whisper detects a language from 30 s, whatever the front end says.
    folder = write_whisper(tmp_path / "whole", whole=True, older=False, max_target_positions=16)
    model = export(folder, task, tmp_path / "ct2", type="float32")
    assert model.record.history["export"]["tokens"] == 51_865
    assert "language" not in model.record.history["export"], "nothing is settled: it is detected"
    vocabulary, front = Vocabulary(folder), front_end(folder)
    theirs, ours = TorchWhisper(folder, 1), Ct2Whisper(model.path, 1)
    assert ours.multilingual
    prompt = Prompt.of(model.path, vocabulary, multilingual=True)
    assert (len(prompt.languages), prompt.language) == (99, None)
    foreign = faster_whisper.WhisperModel(str(model.path), device="cpu", cpu_threads=1)
    assert foreign.model.is_multilingual
    names = {token: name for name, token in prompt.languages.items()}
    for seed in range(3):
        waveform = noise(2.0, seed)
        features = front(waveform)
        spoken = ours.detect_language(features, prompt)
        assert spoken == theirs.detect_language(features, prompt)
        assert ours.generate(features, prompt) == [t for t in theirs.generate(features, prompt) if t != prompt.end]
        language, *_ = foreign.detect_language(waveform)
        assert language == names[spoken]
    segments, info = foreign.transcribe(waveform, beam_size=1, temperature=0.0, max_new_tokens=8)
    assert info.language == names[spoken]
    assert all(0 <= segment.start <= segment.end <= 30 for segment in segments)


def test_a_whole_vocabulary_without_the_empty_token_is_settled_too(tmp_path: Path) -> None:
    """By which CTranslate2 knows a multilingual model depends on its version: both must hold, or a language is set."""
    from microbudget.runtimes.ct2.convert import needs_language

    (tmp_path / "generation_config.json").write_text(json.dumps({"is_multilingual": True}))
    for tokens, settled in (([""] * 51_865, False), (["a"] * 51_865, True), (["", "a"], True)):
        (tmp_path / "vocabulary.json").write_text(json.dumps(tokens))
        assert needs_language(tmp_path) == settled


def test_an_english_model_takes_no_language(folder: Path, tmp_path: Path) -> None:
    english = shutil.copytree(folder, tmp_path / "en")
    settings = json.loads((english / "generation_config.json").read_text())
    settings["is_multilingual"] = False
    (english / "generation_config.json").write_text(json.dumps(settings))
    session = open_speech(load(english), threads=1)
    assert session.text(noise(0.5)) == open_speech(load(english), threads=1, language="en").text(noise(0.5))
    with pytest.raises(InvalidOption, match="writes English only, not 'de'"):
        open_speech(load(english), language="de")


@pytest.mark.parametrize("type", ["int8", "int8_float16", "int8_float32", "float32"])
def test_types(folder: Path, task: TranscriptionTask, tmp_path: Path, type: str) -> None:
    """Every byte of the file is in the ledger; integers take about a quarter."""
    from microbudget.judge.ledger import ledger

    model = export(folder, task, tmp_path / type, type=type)
    counted = ledger(model)
    assert counted.size_bytes == model.size_bytes
    assert sum(row.numbers for row in counted.weights if len(row.shape) > 1) == matrix_numbers(folder)
    if type == "float32":
        assert counted.bits_per_weight == 32
    else:  # vectors, positions and convolutions stay float
        assert 8 < (counted.bits_per_weight or 0) < 28
        assert any(row.type == "I8" and row.scale_bytes == 4 * row.shape[0] for row in counted.weights)
    assert open_session(model, threads=1).answer(rows([noise(0.5)])).shape == (1,)


def matrix_numbers(folder: Path) -> int:
    """Of the torch model, the table of positions continued to 30 seconds. Equal vectors (here of zeros) are stored once
    by CTranslate2, so they are not counted."""
    from microbudget.runtimes.hf.whisper import load_network

    network = load_network(folder)
    longer = (1500 - network.config.max_source_positions) * network.config.d_model
    return sum(parameter.numel() for parameter in network.parameters() if parameter.ndim > 1) + longer


def test_what_cannot_be_exported(folder: Path, task: TranscriptionTask, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "a")
    front = json.loads((broken / "preprocessor_config.json").read_text())
    (broken / "preprocessor_config.json").write_text(json.dumps({**front, "chunk_length": 3}))
    with pytest.raises(UnsupportedModel, match="both must have the same window"):
        export(broken, task, tmp_path / "out")
    short = shutil.copytree(folder, tmp_path / "b")
    tokenizer = json.loads((short / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["Ġextra"] = 5000
    (short / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModel, match="the tokenizer is not this model's"):
        export(short, task, tmp_path / "out2")


def test_options_of_other_formats(folder: Path, task: TranscriptionTask, onnx_model: Path, tmp_path: Path) -> None:
    context = Context(task, tmp_path)
    with pytest.raises(InvalidOption, match="exported with format='ct2', not 'onnx'"):
        Export().apply(load(folder), context, tmp_path)
    with pytest.raises(InvalidOption, match="type is for format='ct2'"):
        Export(type="int8").apply(load(onnx_model), context, tmp_path)
    photos = load(onnx_model).with_record(task="image-classification")
    with pytest.raises(InvalidOption, match="an image classifier is exported with format='onnx', not 'ct2'"):
        Export(format="ct2").apply(photos, context, tmp_path)


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").unlink()


def no_front_end(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def foreign_tokenizer(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|startoftranscript|>", "<|begin|>"))


def missing_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(str(path)).items() if "layers.1" not in name}
    save_file(tensors, str(path), metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_tokenizer, r"has no tokenizer\.json, nor vocab\.json and merges\.txt"),
        (no_front_end, "has no preprocessor_config.json"),
        (foreign_tokenizer, "the tokenizer has no <|startoftranscript|>"),
        (missing_weights, "lacks .* weights of its architecture"),
    ],
)
def test_damaged_folders(folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    damaged = shutil.copytree(folder, tmp_path / "a")
    damage(damaged)
    with pytest.raises(UnsupportedModel, match=message):
        open_session(load(damaged), threads=1)


@pytest.mark.parametrize("name", ["Wav2Vec2ForCTC", "T5ForConditionalGeneration", "WhisperForAudioClassification"])
def test_other_architectures(folder: Path, tmp_path: Path, name: str) -> None:
    other = shutil.copytree(folder, tmp_path / "a")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(
        UnsupportedModel, match=f"is of the architecture {name}, which no kind knows.*WhisperForConditionalGeneration"
    ):
        load(other)


def test_other_ct2_folders(exported: Model, tmp_path: Path) -> None:
    other = shutil.copytree(exported.path, tmp_path / "a")
    (other / "microbudget.json").unlink()
    assert load(other).task == "transcription", "a folder of faster-whisper's"
    data = (other / "model.bin").read_bytes()
    (other / "model.bin").write_bytes(data.replace(b"WhisperSpec\0", b"MarianXSpec\0", 1))
    with pytest.raises(UnsupportedModel, match="of the kind MarianXSpec"):
        load(other)
    (other / "model.bin").write_bytes(data[: len(data) // 2])
    from microbudget.judge.ledger import ledger

    with pytest.raises(UnsupportedModel, match="no whole CTranslate2 model"):
        ledger(load(other))
    with pytest.raises(UnsupportedModel, match="ctranslate2 cannot open"):
        open_session(load(other))
    (other / "model.bin").write_bytes(b"\x80\x02}q\x00.")  # a pickle of that name
    with pytest.raises((ModelNotFound, UnsafeModel)):
        load(other)


def test_serving_needs_no_torch(exported: Model, recordings: Path) -> None:
    """Measuring and transcribing a ct2 model where neither torch nor transformers is installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "from pathlib import Path; from microbudget.kinds.transcription.transcribing import Transcriber, recordings;"
        "from microbudget.task import TO_JUDGE, open_data;"
        f"task = open_data({str(recordings)!r}, 'transcription', TO_JUDGE);"
        f"writer = Transcriber({str(exported.path)!r}, threads=1);"
        f"print([writer.transcript(path).text for _, path in recordings(Path({str(recordings)!r}))][:2])"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_waiting_threads_do_not_spin(exported: Model) -> None:
    """Half a second behind an answer the process has used little of the time that threads take which never rest."""
    code = (
        "import os, time, numpy as np; os.sched_setaffinity(0, range(os.cpu_count()));"  # the tests keep to one core
        "from microbudget.runtimes.loading import load; from microbudget.runtimes import open_session;"
        f"session = open_session(load({str(exported.path)!r}), threads=2);"
        "x = {'waveform': np.ones((1, 16000), np.float32), 'length': np.array([16000])};"
        "session.answer(x); started = time.process_time(); time.sleep(0.5); print(time.process_time() - started)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("GOMP_SPINCOUNT", None)

    def used_s(**more: str) -> float:
        command, both = [sys.executable, "-c", code], {**environment, **more}
        return float(subprocess.run(command, check=True, env=both, capture_output=True, text=True).stdout)

    assert used_s() < 0.5 * used_s(GOMP_SPINCOUNT="1000000000000")


def test_special_tokens_are_not_text(folder: Path) -> None:
    from microbudget.runtimes.speech.whisper import Vocabulary

    vocabulary = Vocabulary(folder)
    spoken = vocabulary._tokenizer.encode(" seven", add_special_tokens=False).ids
    tokens = [vocabulary.special(name) for name in special_tokens()]
    stamp = vocabulary.special("<|0.00|>")
    assert vocabulary.text([tokens[0], stamp, *spoken, stamp, *tokens]) == "seven"


def test_real_words_made_smaller(assets: Path, tmp_path: Path) -> None:
    """Window, vocabulary and integers at once: faster-whisper loads the folder and writes the words."""
    faster_whisper = pytest.importorskip("faster_whisper")
    from microbudget.audio import sound
    from microbudget.kinds.transcription.transcripts import basic, count
    from microbudget.recipes.build import build
    from microbudget.recipes.recipe import Recipe

    task = TranscriptionTask.open(assets / "speech/words", DataOptions(cache=tmp_path / "cache"))
    recipe = Recipe.parse("window(seconds=10) > trim() > export(format='ct2', type='int8')")
    given = load(assets / "models/whisper-words")
    model = build(given, recipe, Context(task, tmp_path / "cache", threads=2), tmp_path / "models")[-1]
    assert model.size_bytes < 0.25 * given.size_bytes
    foreign = faster_whisper.WhisperModel(str(model.path), device="cpu", cpu_threads=2)
    wrong = words = 0
    for example in task.examples("test")[:8]:
        waveform = sound.read(task.path_of(example))
        segments, _ = foreign.transcribe(waveform, beam_size=1, without_timestamps=True, temperature=0.0)
        said = basic(task.text(example) or "")
        words += len(said.split())
        wrong += count(said, basic(" ".join(segment.text for segment in segments))).word_errors
    assert words > 30
    assert wrong <= 0.15 * words


def test_real_words(assets: Path, tmp_path: Path) -> None:
    """The trained model: int8 writes the words, and faster-whisper loads the same folder and writes them too."""
    faster_whisper = pytest.importorskip("faster_whisper")
    from microbudget.audio import sound
    from microbudget.kinds.transcription.transcripts import basic, count

    task = TranscriptionTask.open(assets / "speech/words/validation", DataOptions(splits=False))
    task._splits["train"] = task.examples("test")[-2:]
    model = export(assets / "models/whisper-words", task, tmp_path / "ct2", type="int8")
    session = open_speech(model, threads=2)
    foreign = faster_whisper.WhisperModel(str(model.path), device="cpu", cpu_threads=2)
    wrong = {"ours": 0, "theirs": 0, "apart": 0}
    examples, words = task.examples("test")[:8], 0
    started = time.process_time()
    for example in examples:
        waveform = sound.read(task.path_of(example))
        segments, _ = foreign.transcribe(waveform, beam_size=1, without_timestamps=True, temperature=0.0)
        ours, theirs = basic(session.text(waveform)), basic(" ".join(segment.text for segment in segments))
        said = basic(task.text(example) or "")
        words += len(said.split())
        for name, pair in (("ours", (said, ours)), ("theirs", (said, theirs)), ("apart", (ours, theirs))):
            wrong[name] += count(*pair).word_errors
    assert words > 30
    assert wrong["ours"] <= 0.15 * words
    assert wrong["theirs"] <= 0.15 * words
    assert wrong["apart"] <= 0.05 * words, "both write the same words"
    assert time.process_time() - started < 120, "of the processor: a busy machine changes nothing"
