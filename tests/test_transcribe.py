"""transcribe: long audio to text, JSON and subtitles, from the command line; bad input has a clear end."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microbudget.cli import main
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.transcribing import Segment, clock, lines, target_paths
from microbudget.methods import Context
from microbudget.methods.export import Export
from microbudget.runtimes.loading import load
from microbudget.task import DataOptions
from toy_seq2seq import write_recordings, write_whisper

for name in ("torch", "transformers", "ctranslate2", "soundfile", "jiwer"):
    pytest.importorskip(name)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of 2 s in CTranslate2. Do not write into it."""
    place = tmp_path_factory.mktemp("transcribe")
    hf = write_whisper(place / "hf", max_source_positions=100)
    settings = json.loads((hf / "generation_config.json").read_text())
    (hf / "generation_config.json").write_text(json.dumps({**settings, "is_multilingual": True}))
    task = TranscriptionTask.open(write_recordings(place / "data", 8), DataOptions(cache=place / "cache"))
    out = place / "ct2"
    out.mkdir()
    Export(format="ct2").apply(load(hf), Context(task, place / "cache", threads=1), out).save(out)
    return out


def speak(path: Path, seconds: float = 7.0, rate: int = 16_000) -> Path:
    """Bursts of noise with pauses."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate))
    wave[np.arange(len(wave)) / rate % 1.5 > 1.0] = 0
    soundfile.write(path, wave, rate)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["transcribe", *map(str, arguments), "--threads", "1"])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_text_and_json_and_subtitles_agree(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    audio = speak(tmp_path / "a.wav", rate=22_050)
    status, text, _ = run(capsys, audio, "--model", model)
    assert status == 0
    _, document, _ = run(capsys, audio, "--model", model, "--json")
    parsed = json.loads(document)
    assert text.split() == parsed["text"].split()
    assert parsed["seconds"] == pytest.approx(7.0)
    assert parsed["rtf"] > 0
    _, srt, _ = run(capsys, audio, "--model", model, "--format", "srt")
    _, vtt, _ = run(capsys, audio, "--model", model, "--format", "vtt")
    times = re.findall(r"(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n(.*)\n\n", srt)
    assert [(clock(one["start_s"], ","), clock(one["end_s"], ","), one["text"]) for one in parsed["segments"]] == times
    assert len(times) >= 3
    assert vtt.startswith("WEBVTT\n\n")
    assert vtt.count(" --> ") == len(times)


def test_a_folder_to_a_folder(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    speak(tmp_path / "in/a.wav", 1.0)
    speak(tmp_path / "in/deep/b.flac", 1.0)
    (tmp_path / "in/c.wav").write_text("no sound", encoding="utf-8")
    (tmp_path / "in/phone.m4a").write_bytes(b"....ftypM4A ")
    out = tmp_path / "out"
    status, _, messages = run(capsys, tmp_path / "in", "--model", model, "--out", out, "--format", "srt")
    assert status == 0
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.srt")) == ["a.srt", "deep/b.srt"]
    assert "warning:" in messages
    assert "c.wav is no sound file" in messages
    assert "not read (left out): 1 .m4a; convert them" in messages
    assert not list(out.rglob("*.partial"))
    status, _, messages = run(capsys, tmp_path / "in", "--model", model, "--out", out, "--format", "srt")
    assert status == 2
    assert "already exists" in messages
    assert run(capsys, tmp_path / "in", "--model", model, "--out", out, "--format", "srt", "--force")[0] == 0
    status, document, _ = run(capsys, tmp_path / "in", "--model", model, "--format", "json")
    assert [one["file"] for one in json.loads(document)] == ["a.wav", "deep/b.flac"]


def test_a_transcript_has_the_recordings_name_without_its_ending(tmp_path: Path) -> None:
    names = ["a.flac", "a.wav", "a.wav.mp3", "deep/b.v2.flac", "b.flac", "none"]
    found = {name: path.relative_to(tmp_path).as_posix() for name, path in target_paths(tmp_path, names, "srt").items()}
    assert found == {
        "a.flac": "a.flac.srt",
        "a.wav": "a.wav.srt",
        "a.wav.mp3": "a.wav.mp3.srt",
        "deep/b.v2.flac": "deep/b.v2.srt",
        "b.flac": "b.srt",
        "none": "none.srt",
    }


def test_predict_writes_subtitles(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    speak(tmp_path / "in/a.wav", 1.0)
    speak(tmp_path / "in/b.wav", 1.0)
    one = [str(tmp_path / "in/a.wav"), "--format", "srt"]
    assert main(["predict", str(model), *one]) == 0
    assert " --> " in capsys.readouterr().out
    both = [str(tmp_path / "in"), "--format", "vtt"]
    assert main(["predict", str(model), *both]) == 2
    assert "give a folder with --out" in capsys.readouterr().err
    assert main(["predict", str(model), *both, "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.vtt", "b.vtt"]
    assert main(["predict", str(model), *one[:1], "--out", str(tmp_path / "out")]) == 2
    assert "--out is for subtitles" in capsys.readouterr().err


def test_silence_and_noise(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000 * 65), 16_000)
    status, text, _ = run(capsys, tmp_path / "silence.wav", "--model", model)
    assert (status, text) == (0, "")
    status, document, _ = run(capsys, tmp_path / "silence.wav", "--model", model, "--json")
    assert json.loads(document)["segments"] == []
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 16_000 * 5), 16_000)
    assert run(capsys, tmp_path / "noise.wav", "--model", model)[0] == 0
    soundfile.write(tmp_path / "short.wav", np.full(160, 0.1), 16_000)
    assert run(capsys, tmp_path / "short.wav", "--model", model)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.wav"], "there is no file or folder"),
        (["text.wav"], "is no sound file that can be read"),
        (["cut.flac"], "is (cut off|damaged)"),
        (["empty"], "holds no recordings"),
        (["a.wav", "--language", "xx"], "does not know the language 'xx'"),
        (["a.wav", "--longest", "0.1"], "at least 1 s"),
        (["both", "--format", "vtt"], "give a folder with --out"),
        (["a.wav", "--out", "empty"], "is a folder: give a file"),
        (["both", "--out", "a.wav"], "is a file: give a folder"),
        (["bad"], "none of the 1 recordings could be read"),
        (["a.wav", "--beam", "0"], "a beam has at least 1 hypothesis, not 0"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    speak(tmp_path / "a.wav", 0.3)
    speak(tmp_path / "both/a.wav", 0.3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    for name in ("text.wav", "bad/text.wav"):
        (tmp_path / name).write_text("words", encoding="utf-8")
    whole = speak(tmp_path / "whole.flac", 4.0).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    paths = [str(tmp_path / word) if (tmp_path / word.split("/")[0]).exists() or index == 0 else word
             for index, word in enumerate(arguments)]  # fmt: skip
    status, _, messages = run(capsys, *paths, "--model", model)
    assert status == 2
    assert re.search(message, messages), messages


HOURS_S = 9_000  # 288 MB of samples


def write_hours(path: Path, seconds: int) -> Path:
    """A WAV of 16 bits with a second of noise at its begin, in the middle and at its end, and holes between them."""
    samples = seconds * 16_000
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data",
        2 * samples,
    )  # fmt: skip
    burst = (np.random.default_rng(0).normal(0, 3000, 16_000)).astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(head)
        for begin in (0, samples // 2, samples - 16_000):
            stream.seek(len(head) + 2 * begin)
            stream.write(burst)
    return path


def transcribed_in_a_process(model: Path, audio: Path) -> tuple[dict[str, Any], int]:
    """What `transcribe --json` writes, and the most memory that it took, in bytes."""
    code = (
        "import sys; from microbudget.cli import main; status = main(sys.argv[1:]);"
        "lines = open('/proc/self/status').read().splitlines();"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')), file=sys.stderr); sys.exit(status)"
    )
    arguments = ["transcribe", str(audio), "--model", str(model), "--json", "--threads", "1", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout), 1024 * int(done.stderr.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and wants files with holes")
def test_hours(model: Path, tmp_path: Path) -> None:
    """All of it is transcribed, in the memory of a minute, and silence costs little more than its reading."""
    long = write_hours(tmp_path / "data/long.wav", HOURS_S)
    minute, minute_bytes = transcribed_in_a_process(model, write_hours(tmp_path / "minute.wav", 60))
    whole, whole_bytes = transcribed_in_a_process(model, long)
    assert (minute["seconds"], whole["seconds"]) == (60, HOURS_S)
    assert whole_bytes - minute_bytes < 150e6
    assert [one["text"] for one in whole["segments"]] == [one["text"] for one in minute["segments"]]
    assert whole["segments"][0]["start_s"] == 0
    assert whole["segments"][-1]["end_s"] == pytest.approx(HOURS_S, abs=0.5)

    speak(tmp_path / "data/short.wav", 1.0)
    rows = ["file_name,transcription", "long.wav,noise and noise and noise", "short.wav,noise"]
    (tmp_path / "data/metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    tracemalloc.start()
    task = TranscriptionTask.open(tmp_path / "data", DataOptions(splits=False, cache=tmp_path / "cache"))
    lengths = {example.name: task.seconds(example) for example in task.examples("test")}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == {"long.wav": HOURS_S, "short.wav": 1.0}
    assert peak < 150e6
    (example,) = (each for each in task.examples("test") if each.name == "long.wav")
    assert set(task.collate([example], {})) == {"file"}


def test_another_kind_of_model(capsys: pytest.CaptureFixture[str], onnx_model: Path, tmp_path: Path) -> None:
    status, _, messages = run(capsys, speak(tmp_path / "a.wav", 0.3), "--model", onnx_model)
    assert status == 2
    assert "is no speech model" in messages


def test_time_left_is_reported_in_a_log(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microbudget.kinds.transcription.transcribing.REPORT_EVERY_S", 0.0)
    _, _, messages = run(capsys, speak(tmp_path / "a.wav"), "--model", model)
    assert re.search(r"a\.wav 00:00:0\d of 00:00:07, .* left", messages)


class Terminal(io.StringIO):
    """Both streams of one terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("form", [None, "json"])
def test_text_and_the_live_line_do_not_mix(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str | None
) -> None:
    """Whatever is written begins at the start of an empty line, and nothing of the live line is left at the end."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("microbudget.progress.REDRAWN_S", 0.0)
    extra = ["--format", form] if form else []
    assert main(["transcribe", str(speak(tmp_path / "a.wav")), "--model", str(model), "--threads", "1", *extra]) == 0
    shown = terminal.getvalue()
    assert re.search(r"a\.wav \d/7", shown)
    lines_seen = [line.rsplit("\x1b[2K", 1)[-1] for line in shown.split("\n")]
    assert not [line for line in lines_seen if "a.wav" in line and '"file"' not in line], lines_seen
    assert any(line.strip() for line in lines_seen)


@given(st.floats(0, 400_000))
def test_clock(seconds: float) -> None:
    hours, minutes, rest = clock(seconds, ",").split(":")
    whole, thousandths = rest.split(",")
    assert int(minutes) < 60
    assert int(whole) < 60
    total_s = int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(thousandths) / 1000
    assert total_s == pytest.approx(seconds, abs=0.0006)


def test_subtitles_are_escaped() -> None:
    segments = [Segment(0, 1.5, "a <b> & c --> d")]
    assert "".join(lines(segments, "vtt")) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt;b&gt; &amp; c --&gt; d\n\n"
    )
    assert "".join(lines(segments, "srt")) == "1\n00:00:00,000 --> 00:00:01,500\na <b> & c --> d\n\n"


def test_predict_gives_the_same_text(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = speak(tmp_path / "in" / "a.wav", 3.0), speak(tmp_path / "in" / "b.wav", 2.0)
    status, out, _ = run(capsys, tmp_path / "in", "--model", model, "--format", "json")
    assert status == 0
    expected = [document["text"] for document in json.loads(out)]
    (tmp_path / "in" / "c.wav").write_bytes(b"no sound")
    assert main(["predict", str(model), str(tmp_path / "in"), "--threads", "1", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [row["answer"] for row in found] == expected
    assert [row["input"] for row in found] == [str(one), str(two)]
    assert "c.wav" in printed.err
    assert main(["predict", str(model), str(tmp_path / "in" / "c.wav"), "--threads", "1"]) == 2
