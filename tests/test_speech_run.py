"""A speech model through the whole program: measure, compare, run, the ladder, the report with its players."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import MadeOnce
from microbudget.errors import InvalidOption
from microbudget.judge import compare, judging, measure
from microbudget.judge.budget import Budget
from microbudget.judge.judging import judging_of
from microbudget.judge.measuring import open_task
from microbudget.judge.options import MeasureOptions
from microbudget.kinds.transcription.amount import ENOUGH_S, OFTEN, Amount
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.judging import TIMEOUT_S
from microbudget.kinds.transcription.players import encoded, marked
from microbudget.kinds.transcription.search_space import SearchSpace, fewer_layers, window_s
from microbudget.methods import Context
from microbudget.recipes.recipe import Recipe
from microbudget.runtimes.loading import load
from microbudget.search.result import Shrunk
from microbudget.search.shrink import run_recipe
from microbudget.task import SPLITS, DataOptions
from microbudget.units import Drop
from quick import QUICK
from toy_seq2seq import write_recordings, write_whisper

for name in ("torch", "transformers", "ctranslate2", "soundfile", "jiwer"):
    pytest.importorskip(name)

INT8 = "export(format='ct2', type='int8_float16')"


@pytest.fixture(scope="session")
def folder(made_once: MadeOnce) -> Path:
    """A random Whisper with a window of 6 s, which writes at most 16 tokens. Do not write into it."""
    shape = {"max_source_positions": 300, "max_target_positions": 16}
    return made_once("speech-toy", lambda folder: write_whisper(folder, **shape))


@pytest.fixture(scope="session")
def recordings(made_once: MadeOnce) -> Path:
    return made_once("speech-recordings", lambda folder: write_recordings(folder, 24))


@pytest.fixture(scope="session")
def ran(folder: Path, recordings: Path, made_once: MadeOnce) -> Shrunk:
    """One recipe, through build, judge, choice, delivery and report. Do not write into its folder."""

    def make(place: Path) -> None:
        place.mkdir()
        options = {"out": place / "run", "threads": 1, "durations": QUICK}
        result = run_recipe(folder, "export(format='ct2')", recordings, Budget(max_drop=Drop(0.5)), **options)
        (place / "result").write_bytes(pickle.dumps(result))

    found: Shrunk = pickle.loads((made_once("speech-run", make) / "result").read_bytes())
    return found


def test_the_recipe_ships(ran: Shrunk) -> None:
    assert ran.best is not None
    assert ran.best.measurement is not None
    measured = ran.best.measurement
    assert (measured.format, measured.metric, measured.task) == ("ct2", "wer", "transcription")
    assert measured.extra["normalizer"] == "basic"
    assert measured.extra["rtf"] == pytest.approx(measured.latency_s / measured.extra["sample_s"])  # type: ignore[operator]
    assert ran.best.test is not None
    assert ran.best.test.extra["audio_s"] > 0
    best = load(ran.folder)
    assert best.format == "ct2"
    assert {file.name for file in best.files} >= {"model.bin", "tokenizer.json", "preprocessor_config.json"}
    card = (ran.folder / "best/README.md").read_text(encoding="utf-8")
    assert "library_name: ctranslate2" in card
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert "microbudget transcribe RECORDING" in card


def test_texts_are_kept_and_judged_in_pairs(ran: Shrunk) -> None:
    stored = [np.load(path) for path in (ran.folder / "answers").glob("*.validation.npy")]
    assert len(stored) == 2
    assert all(texts.dtype.kind == "U" for texts in stored)
    assert ran.best is not None
    assert ran.best.verdict is not None
    assert ran.best.verdict.decision in ("within", "not shown")
    assert json.loads((ran.folder / "result.json").read_text())["best"]["measurement"]["metric"] == "wer"


def test_the_report_has_players(ran: Shrunk) -> None:
    page = (ran.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<audio controls") >= 1
    assert re.search(r'src="data:audio/(mpeg|flac);base64,[A-Za-z0-9+/=]{200}', page)
    assert "media-src data:" in page
    assert "Recordings, and what each model transcribes" in page
    assert "photo" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower()
    assert "faster_whisper" in page
    assert re.search(r"<b>(seven|eleven|fox)</b>", page)
    assert len(page) < 6_000_000


def test_long_audio_is_judged_too(ran: Shrunk) -> None:
    """Of what ships and of its reference, in the card and on the page."""
    assert ran.best is not None
    assert ran.best.test is not None
    assert ran.reference.test is not None
    ours, theirs = (row.test.extra["long_form"] for row in (ran.best, ran.reference))  # type: ignore[union-attr]
    assert ours["joined"] == theirs["joined"] == ran.best.test.examples
    card = (ran.folder / "best/README.md").read_text(encoding="utf-8")
    cells = re.search(r"\| wer on long audio, test \((\d+) utterances joined, .*\) \| ([\d.]+) \| ([\d.]+) \|", card)
    assert cells is not None
    assert cells.groups() == (str(ours["joined"]), f"{ours['wer']:.4f}", f"{theirs['wer']:.4f}")
    assert "On long audio" in (ran.folder / "report.html").read_text(encoding="utf-8")


def test_the_card_tells_what_runtimes_take(folder: Path, recordings: Path, ran: Shrunk, tmp_path: Path) -> None:
    from microbudget.recipes.build import build
    from microbudget.runs.run import Run
    from microbudget.ship import deliver

    task = TranscriptionTask.open(recordings)
    recipe = Recipe.parse("window(seconds=3) > trim() > export(format='ct2')")
    model = build(load(folder), recipe, Context(task, tmp_path / "cache", threads=1), tmp_path / "models")[-1]
    assert ran.best is not None
    run = Run(shutil.copytree(ran.folder, tmp_path / "run"))
    card = (deliver(run, model, ran.best, Budget(), task) / "README.md").read_text(encoding="utf-8")
    for note in (
        "CTranslate2 takes features of 3 s as it is",
        "fills every piece up to 30 s",
        "faster-whisper calls a model multilingual by its 51,865 entries",
        "the language of most of the recordings",
    ):
        assert card.count(note) == 1, note


def test_measure_and_compare(folder: Path, recordings: Path, ran: Shrunk) -> None:
    measured = measure(ran.folder / "best", recordings, threads=1, seconds=0.2, ledger=True)
    assert measured.examples == 24
    assert measured.extra["long_form"]["joined"] == 24
    assert measured.extra["long_form"]["words"] == 24
    assert measured.extra["ledger"]["size_bytes"] == measured.size_bytes
    json.dumps(measured.as_dict())
    both = compare(folder, ran.folder / "best", recordings, threads=1, seconds=0.2, max_drop=Drop(0.5))
    assert both.a.metric == "wer"
    assert both.size_ratio > 1
    assert both.extra["kl"] is None
    assert 0 <= both.extra["same_top1"] <= 1
    assert both.quality_change == pytest.approx(both.a.quality - both.b.quality)


def test_the_english_normalizer_must_be_asked_for(recordings: Path, ran: Shrunk) -> None:
    models = [load(ran.folder)]
    tasks = [open_task(recordings, models), open_task(recordings, models, MeasureOptions(normalizer="english"))]
    assert [task.normalizer for task in tasks] == ["basic", "english"]  # type: ignore[attr-defined]
    assert tasks[0].fingerprint != tasks[1].fingerprint


def test_patience_grows_with_the_recordings(recordings: Path) -> None:
    """What takes twice as long as the longest recording has hung; half an hour is waited at least."""
    task = TranscriptionTask.open(recordings)
    assert judging_of(task).timeout_s == TIMEOUT_S
    task._seconds[task.examples("test")[0].name] = 36_000.0
    assert judging_of(task).timeout_s == 72_000.0


def test_a_long_recording_is_asked_for_alone(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as many; the short ones beside it are not read from their files because of it."""
    task = TranscriptionTask.open(recordings)
    examples = task.examples("train")[:7]
    for place in (0, 3, 6):
        task._seconds[examples[place].name] = 3600.0
    monkeypatch.setattr(judging, "LARGEST_CHUNK", 2)
    parts = [[examples.index(example) for example in part] for part in judging_of(task).chunks([], examples)]
    monkeypatch.undo()
    assert parts == [[0], [1, 2], [3], [4, 5], [6]]
    longest = max(task.seconds(example) for example in examples if task.seconds(example) < 60)
    short = [example for example in task.examples("train") if task.seconds(example) < 60]
    size = len(judging_of(task).chunks([], short * 64)[0])
    longest = max(task.seconds(example) for example in short)
    assert size * longest * 16_000 * 4 <= 2_500_000 < (size + 1) * longest * 16_000 * 4


def test_an_export_is_compared_on_short_recordings(recordings: Path, tmp_path: Path) -> None:
    task = TranscriptionTask.open(recordings)
    context = Context(task, tmp_path)
    examples = task.examples("train")
    task._seconds[examples[0].name] = 3600.0
    from microbudget.kinds.transcription.export import recordings as compared

    used = compared(context, 6.0)
    assert len(used) == min(16, len(examples) - 1)
    for example in examples:
        task._seconds[example.name] = 3600.0
    used = compared(context, 0.25)  # the beginning, of so much as a window holds
    assert len(used) == min(16, len(examples))
    assert all(one["waveform"].shape == (1, 4000) for one in used)
    judged = TranscriptionTask.open(
        recordings, DataOptions(use="nothing")
    )  # all are evidence: those to choose by serve
    assert len(compared(Context(judged, tmp_path), 6.0)) == len(judged.examples("validation"))


def test_players_play_the_beginning_of_what_is_long(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microbudget.kinds.transcription import players

    task = TranscriptionTask.open(recordings)
    example = next(each for each in task.examples("train") if task.seconds(each) > 1.5)
    whole = players._Room().audio(task, example)
    monkeypatch.setattr(players, "LONGEST_S", 0.5)
    begin = players._Room().audio(task, example)
    assert whole is not None
    assert begin is not None
    assert len(begin) < 0.6 * len(whole)


def ladder(model: Path, task: TranscriptionTask) -> list[str]:
    return [recipe.short() for recipe in SearchSpace(load(model), task).recipes(())]


def test_what_is_tried_with_few_recordings(folder: Path, recordings: Path, ran: Shrunk) -> None:
    """Nothing that trains layers: minutes of speech do not teach a decoder, and that is said before the start."""
    task = TranscriptionTask.open(recordings)
    space = SearchSpace(load(folder), task)
    assert ladder(folder, task) == [INT8, f"trim(keep='auto') > {INT8}"]
    (line,) = space.forecast(1)
    count = sum(len(task.examples(split)) for split in SPLITS)
    assert line.startswith(f"nothing is trained: {count} recordings of ")
    assert "give 60.0 min or more of your own audio" in line
    with pytest.raises(InvalidOption, match="is exported already"):
        list(SearchSpace(load(ran.folder), task).recipes(()))


def test_what_is_tried_with_enough_to_learn_from(folder: Path, recordings: Path) -> None:
    """Hours of audio, or few words that are said often: then shorter windows and fewer layers are taught too."""
    task = TranscriptionTask.open(recordings)
    task._texts = dict.fromkeys(task._texts, "yes no " * OFTEN)
    recipes = ladder(folder, task)
    assert not list(SearchSpace(load(folder), task).forecast(1))
    assert any("window(seconds=3)" in recipe for recipe in recipes), "the longest utterance lasts 2.5 s"
    assert any("window(seconds=3, epochs=5)" in recipe for recipe in recipes)
    taught = [text for text in recipes if "distill" in text]
    assert len(taught) == 2
    assert all(text.startswith("window(seconds=3) > trim > distill(") for text in taught)
    assert all("epochs=60" in text and "batch_size=16" in text for text in taught)
    for text in recipes:
        assert Recipe.parse(text).formats("hf")[-1] == "ct2"
    assert window_s(load(folder), task) == 3
    assert fewer_layers(load(folder)) == [2, 1]


def test_an_hour_of_audio_is_enough(recordings: Path) -> None:
    task = TranscriptionTask.open(recordings)
    assert not Amount.of(task).teaches
    task._seconds = dict.fromkeys(task._seconds, ENOUGH_S / len(task.examples("train")) + 1)
    assert Amount.of(task).teaches


def test_short_recordings_get_windows_of_their_own(recordings: Path, tmp_path: Path) -> None:
    """Of Whisper's 30 s. Where a limit is broken so, the whole window and floats are tried in addition."""
    whole = write_whisper(tmp_path / "whole", max_source_positions=1500)
    task = TranscriptionTask.open(recordings)
    first, trimmed = ladder(whole, task)
    assert first == f"window(seconds='each') > {INT8}"
    assert trimmed == f"window(seconds='each') > trim(keep='auto') > {INT8}"
    space = SearchSpace(load(whole), task)
    fallbacks = [recipe.short() for recipe in space.fallbacks(Recipe.parse(first))]
    assert fallbacks == [INT8, "window(seconds='each') > export(format='ct2', type='float32')"]
    assert space.fallbacks(Recipe.parse(trimmed)) == ()
    task._seconds = dict.fromkeys(task._seconds, 28.0)
    assert ladder(whole, task)[0] == INT8, "windows of 29 s save too little"


def test_one_long_recording_does_not_decide_the_window(folder: Path, recordings: Path) -> None:
    task = TranscriptionTask.open(recordings)
    example = max(task.examples("train"), key=task.seconds)
    task._seconds[example.name] = 25.0
    assert window_s(load(folder), task) == 3
    for other in task.examples("validation"):
        task._seconds[other.name] = 4.2
    assert window_s(load(folder), task) == 0, "5 of 6 seconds save too little"


def test_a_window_that_saves_too_little_is_not_tried(recordings: Path, tmp_path: Path) -> None:
    near = write_whisper(tmp_path / "near", max_source_positions=150)
    assert window_s(load(near), TranscriptionTask.open(recordings)) == 0


def test_a_model_without_photos_is_refused_photos(folder: Path, photos: Path, capsys: Any) -> None:
    from microbudget.cli import main

    assert main(["measure", str(folder), "--data", str(photos)], durations=QUICK) == 2
    assert "holds no recordings" in capsys.readouterr().err


@pytest.mark.usefixtures("without_plots")
def test_a_report_outlives_its_data(ran: Shrunk, recordings: Path, tmp_path: Path) -> None:
    from microbudget.report import write_report

    moved = shutil.copytree(ran.folder, tmp_path / "run")
    settings = (moved / "run.toml").read_text(encoding="utf-8")
    (moved / "run.toml").write_text(settings.replace(str(recordings), str(tmp_path / "gone")), encoding="utf-8")
    page = write_report(moved).read_text(encoding="utf-8")
    assert "No recordings are shown: the data " in page


def test_marked_words() -> None:
    kinds = [(words.kind, words.text, words.reference) for words in marked("yes no up down", "yes now up up down go")]
    assert kinds[0] == ("equal", "yes", "")
    assert ("substitute", "now", "no") in kinds
    assert [kind for kind, _, _ in kinds].count("insert") == 2
    assert [(words.kind, words.reference) for words in marked("yes no", "yes")] == [("equal", ""), ("delete", "no")]


def test_players_are_small() -> None:
    """A second of speech takes less than the 32 kB of its samples, and is what it was when it is decoded."""
    import io

    import soundfile

    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)
    kind, data = encoded(tone, 16_000)
    assert kind in ("audio/mpeg", "audio/flac")
    assert len(data) < 20_000
    decoded, rate = soundfile.read(io.BytesIO(data))
    assert rate == 16_000
    assert np.sqrt(np.mean(decoded**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
