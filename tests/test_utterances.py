"""Recordings with transcripts in every layout that people have, and everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from microbudget.errors import BadData
from microbudget.judge.judging import judging_of
from microbudget.kinds.transcription.data import TranscriptionTask
from microbudget.kinds.transcription.utterances import find
from microbudget.task import DataOptions, open_data

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")


def write(path: Path, seed: int | None = None, seconds: float = 0.1) -> Path:
    """A short noise that no other file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path.as_posix())) % 2**32 if seed is None else seed)
    soundfile.write(path, rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32), 16_000)
    return path


def table(folder: Path, rows: dict[str, str], column: str = "transcription") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"file_name,{column}", *(f'{name},"{text}"' for name, text in rows.items())]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def dataset(root: Path, count: int = 12) -> Path:
    for index in range(count):
        write(root / f"{index:02}.wav", seed=index)
    table(root, {f"{index:02}.wav": f"word {index}" for index in range(count)})
    return root


def texts(root: Path) -> dict[str, tuple[str | None, str | None]]:
    return {file.name: (file.split, file.text) for file in find(root).files}


def test_audiofolder_csv_and_jsonl(tmp_path: Path) -> None:
    write(tmp_path / "train/a.wav")
    table(tmp_path / "train", {"a.wav": "yes, no"})
    write(tmp_path / "test/deep/b.flac")
    line = {"file_name": "deep/b.flac", "text": "up"}
    (tmp_path / "test/metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert texts(tmp_path) == {"train/a.wav": ("train", "yes, no"), "test/deep/b.flac": ("test", "up")}


def test_how_much_a_recording_counts_is_known_before_it_is_transcribed(tmp_path: Path) -> None:
    table(tmp_path, {"a.wav": "One, two; three four!", "b.wav": "five"})
    write(tmp_path / "a.wav")
    write(tmp_path / "b.wav")
    task = TranscriptionTask.open(tmp_path, DataOptions(splits=False))
    examples = sorted(task.examples("test"), key=lambda example: example.name)
    assert judging_of(task).lengths(examples).tolist() == [4, 1]  # type: ignore[union-attr]


def test_librispeech(tmp_path: Path) -> None:
    for split, folder in (("dev-clean", "84/121"), ("train-clean-100", "19/198"), ("train-other-500", "20/205")):
        place = tmp_path / split / folder
        stem = folder.replace("/", "-")
        write(place / f"{stem}-0000.flac")
        (place / f"{stem}.trans.txt").write_text(f"{stem}-0000 GO ON THEN\n", encoding="utf-8")
    assert texts(tmp_path) == {
        "dev-clean/84/121/84-121-0000.flac": ("validation", "GO ON THEN"),
        "train-clean-100/19/198/19-198-0000.flac": ("train", "GO ON THEN"),
        "train-other-500/20/205/20-205-0000.flac": ("train", "GO ON THEN"),
    }


@pytest.mark.parametrize("folder", ["wavs/", ""])
def test_ljspeech(tmp_path: Path, folder: str) -> None:
    write(tmp_path / f"{folder}LJ001-0001.wav")
    write(tmp_path / f"{folder}LJ001-0002.wav")
    rows = 'LJ001-0001|in 1455, "he" said|in fourteen fifty-five, "he" said\nLJ001-0002|modern.|\n'
    (tmp_path / "metadata.csv").write_text(rows, encoding="utf-8")
    assert texts(tmp_path) == {
        f"{folder}LJ001-0001.wav": (None, 'in fourteen fifty-five, "he" said'),
        f"{folder}LJ001-0002.wav": (None, "modern."),
    }


@pytest.mark.parametrize("ending", ["", ".wav", ".WAV", ".mp3"])
@pytest.mark.parametrize("layout", ["audiofolder", "librispeech", "ljspeech"])
def test_names_with_and_without_their_ending(tmp_path: Path, layout: str, ending: str) -> None:
    """In every layout; .mp3 is what many lists name whose files were converted."""
    for stem in ("a.1", "b"):
        write(tmp_path / f"{stem}.wav")
    name, rows = {
        "audiofolder": ("metadata.csv", f"file_name,text\na.1{ending},one\nb{ending},two\n"),
        "librispeech": ("x.trans.txt", f"a.1{ending} one\nb{ending}\ttwo\n"),
        "ljspeech": ("metadata.csv", f"a.1{ending}|one\r\nb{ending}|x|two\r\n"),
    }[layout]
    (tmp_path / name).write_text("\ufeff" + rows, encoding="utf-8")
    assert texts(tmp_path) == {"a.1.wav": (None, "one"), "b.wav": (None, "two")}


def test_files_that_differ_in_their_ending_have_their_own_rows(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "b.wav"):
        write(tmp_path / name)
    table(tmp_path, {"a.wav": "one", "a.flac": "two", "b.mp3": "three"})
    assert {name: text for name, (_, text) in texts(tmp_path).items()} == {
        "a.wav": "one", "a.flac": "two", "b.wav": "three",
    }  # fmt: skip


def test_a_row_that_fits_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write(tmp_path / folder / "a.wav")
    table(tmp_path, {"a.wav": "one"})
    with pytest.raises(BadData, match=r"'a\.wav' fits x/a\.wav, y/a\.wav"):
        find(tmp_path)


def test_a_quotation_mark_swallows_no_rows(tmp_path: Path) -> None:
    for index in range(4):
        write(tmp_path / f"{index}.wav")
    rows = ["file_name,transcription", '0.wav,he said "no"', '1.wav,"yes', "2.wav,go", '3.wav,up"']
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(BadData, match=r"line 3 of .*metadata\.csv is not CSV: a quotation mark"):
        find(tmp_path)


def test_a_transcript_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    row = {"file_name": "a.wav", "transcription": ["go"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(BadData, match=r"line 1 .* 'transcription' is a list"):
        find(tmp_path)


def test_a_line_separator_belongs_to_the_text(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write(tmp_path / f"{stem}.wav")
    (tmp_path / "metadata.csv").write_text("a|one\u2028two\nb|three\x85four\n", encoding="utf-8")
    assert [text for _, text in texts(tmp_path).values()] == ["one\u2028two", "three\x85four"]


def test_two_transcripts_of_a_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,one\na.wav,two\n", encoding="utf-8")
    with pytest.raises(BadData, match=r"two transcripts of 'a\.wav'"):
        find(tmp_path)


def test_a_folder_called_train_beside_others(tmp_path: Path) -> None:
    for folder in ("bus", "train"):
        write(tmp_path / folder / "a.wav")
        table(tmp_path / folder, {"a.wav": "go"})
    with pytest.raises(BadData, match=r"'train' in .* could be a split, or a folder like the others.*bus/a\.wav"):
        find(tmp_path)


def test_only_librispeechs_own_names_are_splits(tmp_path: Path) -> None:
    for folder in ("test-drive", "dev-kit"):
        write(tmp_path / folder / "a.wav")
        table(tmp_path / folder, {"a.wav": "go"})
    assert {split for split, _ in texts(tmp_path).values()} == {None}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_unicode_is_named(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("a|one\n", encoding=encoding)
    with pytest.raises(BadData, match=f"is {encoding.upper()}: save it again"):
        find(tmp_path)


def test_three_quarters_of_the_files_are_missing(tmp_path: Path) -> None:
    dataset(tmp_path)
    for index in range(9):
        (tmp_path / f"{index:02}.wav").unlink()
    with pytest.raises(BadData, match=r"9 of 12 files in the transcripts of .* are not there: 00\.wav"):
        find(tmp_path)


def test_the_real_layouts(assets: Path) -> None:
    libri = find(assets / "speech/librispeech").files
    assert [file.text for file in libri][1] == "STUFF IT INTO YOU HIS BELLY COUNSELLED HIM"
    listed = find(assets / "speech/ljspeech")
    assert sum(file.text is not None for file in listed.files) >= 8
    words = open_data(assets / "speech/words", "transcription")
    assert [len(words.examples(split)) for split in ("train", "validation", "test")] == [240, 40, 40]


def test_what_has_no_transcript_is_unlabelled(tmp_path: Path) -> None:
    dataset(tmp_path)
    write(tmp_path / "more.wav")
    write(tmp_path / "unlabelled/deep.wav")
    table(tmp_path, {**{f"{index:02}.wav": f"word {index}" for index in range(11)}, "11.wav": "  "})
    listing = find(tmp_path)
    assert {file.name for file in listing.files if file.split == "unlabelled"} == {
        "11.wav", "more.wav", "unlabelled/deep.wav",
    }  # fmt: skip
    assert any("1 transcripts are empty (taken as unlabelled): 11.wav" in text for text in listing.warnings)
    assert any("1 recordings have no transcript (taken as unlabelled): more.wav" in text for text in listing.warnings)
    task = TranscriptionTask.open(tmp_path)
    assert {example.name for example in task.examples("unlabelled")} == {"11.wav", "more.wav", "unlabelled/deep.wav"}
    assert all(task.text(example) is None for example in task.examples("unlabelled"))


def test_a_row_without_its_file(tmp_path: Path) -> None:
    dataset(tmp_path)
    (tmp_path / "00.wav").unlink()
    assert "1 transcripts have no file (left out): 00.wav" in find(tmp_path).warnings
    for index in range(1, 5):
        (tmp_path / f"{index:02}.wav").unlink()
    with pytest.raises(BadData, match="5 of 12 files in the transcripts"):
        find(tmp_path)


def test_splits_are_cut_and_stay(tmp_path: Path) -> None:
    dataset(tmp_path, 20)
    task = TranscriptionTask.open(tmp_path)
    sizes = [len(task.examples(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 20
    assert min(sizes) >= 2
    assert TranscriptionTask.open(tmp_path).fingerprint == task.fingerprint
    assert TranscriptionTask.open(tmp_path, DataOptions(seed=1)).examples("test") != task.examples("test")
    judged = TranscriptionTask.open(
        tmp_path, DataOptions(splits=False, leave_out=frozenset({task.examples("train")[0].key}))
    )
    assert len(judged.examples("test")) == 19
    assert judged.left_out == 1


def test_without_transcripts_to_train_on(tmp_path: Path) -> None:
    """distill needs none: what is judged on does."""
    write(tmp_path / "train/a.wav")
    write(tmp_path / "train/b.wav")
    for index in range(4):
        write(tmp_path / f"validation/{index}.wav")
    table(tmp_path / "validation", {f"{index}.wav": "go" for index in range(4)})
    task = TranscriptionTask.open(tmp_path)
    assert {example.name for example in task.examples("train")} == {"train/a.wav", "train/b.wav"}
    assert task.text(task.examples("train")[0]) is None
    with pytest.raises(BadData, match="has no transcript to judge by"):
        task.score(np.array(["x"]), task.examples("train")[:1])


def test_copies_do_not_stand_in_two_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(4):
            write(tmp_path / split / f"{index}.wav", seed=index + (0 if split == "train" else 3))
        table(tmp_path / split, {f"{index}.wav": "go" for index in range(4)})
    task = TranscriptionTask.open(tmp_path)
    names = [example.name for split in ("train", "validation") for example in task.examples(split)]
    assert "train/3.wav" not in names
    assert any("1 copies" in warning for warning in task.warnings)


def test_scores_add_up(tmp_path: Path) -> None:
    task = TranscriptionTask.open(dataset(tmp_path), DataOptions(splits=False))
    examples = task.examples("test")
    texts = [f"Word {int(example.name[:2])}!" for example in examples]
    outputs = np.array(["word word word word word word", *texts[1:]])
    scores = task.score(outputs, examples)
    assert scores.metric == "wer"
    assert not scores.higher_is_better
    assert scores.numerator.tolist() == [5.0] + [0.0] * 11
    assert scores.denominator.tolist() == [2.0] * 12
    extra = task.extra(outputs, examples)
    assert (extra["substitutions"], extra["deletions"], extra["insertions"]) == (1, 0, 4)
    assert (extra["hallucinated"], extra["empty"], extra["normalizer"]) == (1, 0, "basic")
    assert extra["audio_s"] == pytest.approx(1.2)
    assert task.loss(outputs, examples)[0] == 2.5


def test_a_transcript_of_punctuation(tmp_path: Path) -> None:
    dataset(tmp_path)
    table(tmp_path, {**{f"{index:02}.wav": "go" for index in range(11)}, "11.wav": "..."})
    task = TranscriptionTask.open(tmp_path, DataOptions(splits=False))
    assert any("1 transcripts have no word" in warning for warning in task.warnings)
    row = next(example for example in task.examples("test") if example.name == "11.wav")
    scores = task.score(np.array(["made up"]), [row])
    assert (scores.numerator[0], scores.denominator[0]) == (2.0, 0.0)
    table(tmp_path, {f"{index:02}.wav": "?!" for index in range(12)})
    with pytest.raises(BadData, match="no transcript has a word"):
        TranscriptionTask.open(tmp_path)


def test_long_recordings_travel_as_files(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", seconds=61)
    write(tmp_path / "short.wav")
    table(tmp_path, {"long.wav": "go", "short.wav": "go"})
    task = TranscriptionTask.open(tmp_path, DataOptions(splits=False))
    by_name = {example.name: example for example in task.examples("test")}
    assert set(task.collate([by_name["short.wav"]], {})) == {"waveform", "length"}
    assert set(task.collate([by_name["long.wav"], by_name["short.wav"]], {})) == {"file"}


def bad_text(root: Path) -> None:
    (root / "00.wav").write_text("no sound at all", encoding="utf-8")
    (root / "01.wav").write_text("nor this", encoding="utf-8")


def no_metadata(root: Path) -> None:
    (root / "metadata.csv").unlink()


def no_column(root: Path) -> None:
    table(root, {f"{index:02}.wav": "x" for index in range(12)}, column="label")


def no_sound(root: Path) -> None:
    for path in root.glob("*.wav"):
        path.unlink()
    (root / "a.m4a").write_bytes(b"x")


def outside(root: Path) -> None:
    table(root, {"../secret.wav": "x"})


def latin(root: Path) -> None:
    (root / "metadata.csv").write_bytes("file_name,transcription\n00.wav,fünf\n".encode("latin-1"))


def bad_lines(root: Path) -> None:
    (root / "metadata.csv").write_text("a|b|c\nno bar here\n", encoding="utf-8")


def two_tables(root: Path) -> None:
    (root / "metadata.jsonl").write_text("{}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (bad_text, "2 of 12 recordings in .* cannot be read: 00.wav"),
        (no_metadata, "none of the recordings in .* has a transcript"),
        (no_column, "has no column 'transcription'"),
        (no_sound, "holds no recordings .* 1 .m4a; convert them"),
        (outside, "lies outside"),
        (latin, "not UTF-8"),
        (bad_lines, "line 2 of .* has no '|'"),
        (two_tables, "has both metadata.csv and metadata.jsonl"),
    ],
)
def test_bad_folders(tmp_path: Path, damage: object, message: str) -> None:
    dataset(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(BadData, match=message):
        TranscriptionTask.open(tmp_path)


def test_one_bad_file_of_many_is_left_out(tmp_path: Path) -> None:
    dataset(tmp_path, 24)
    path = tmp_path / "00.wav"
    path.write_bytes(b"words")
    task = TranscriptionTask.open(tmp_path)
    assert any("1 of 24 recordings" in warning and "00.wav" in warning for warning in task.warnings)
    assert sum(len(task.examples(split)) for split in ("train", "validation", "test")) == 23


def test_a_file_or_nothing_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        find(tmp_path / "x")
    with pytest.raises(BadData, match="is a file"):
        find(write(tmp_path / "a.wav"))


def test_listened_to_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second opening finds in the index what is known of files that have not changed."""
    import os

    from microbudget.audio import sound

    dataset(tmp_path)
    for path in tmp_path.glob("*.wav"):
        os.utime(path, (1, 1))
    first = TranscriptionTask.open(tmp_path)
    monkeypatch.setattr(sound, "check", lambda path: pytest.fail(f"{path} is decoded again"))
    again = TranscriptionTask.open(tmp_path)
    assert again.fingerprint == first.fingerprint
    assert [again.seconds(example) for example in again.examples("train")] == pytest.approx([0.1] * 8, abs=1e-6)
