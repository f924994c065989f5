"""Labelled texts: tables and folders, their columns and splits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.errors import BadData
from microbudget.kinds.text_classification import tables
from microbudget.kinds.text_classification.data import TextTask, open_task
from microbudget.kinds.text_classification.sources import find
from microbudget.progress import Progress
from microbudget.task import TO_JUDGE, TO_TRAIN, Columns, DataOptions
from toy_texts import rows, write_table


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def texts(path: Path, columns: Columns | None = None) -> list[tuple[tuple[str, ...], str | None]]:
    return [(each.texts, each.label) for each in find(path, columns or Columns()).found]


def judged(path: Path, columns: Columns | None = None) -> TextTask:
    return TextTask.open(path, DataOptions(splits=False, columns=columns))


TWO = [(("a good film",), "pos"), (("a bad, bad film",), "neg")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'text,label\na good film,pos\n"a bad, bad film",neg\n'),
        ("t.csv", 'label;sentence\npos;a good film\nneg;"a bad, bad film"\n'),
        ("t.csv", '\ufefftext,label\r\na good film,pos\r\n"a bad, bad film",neg\r\n\r\n'),
        ("t.tsv", "text\tlabel\na good film\tpos\na bad, bad film\tneg\n"),
        ("t.csv", 'id,review,sentiment,stars\n1,a good film,pos,5\n2,"a bad, bad film",neg,1\n'),
        ("t.jsonl", '{"text": "a good film", "label": "pos"}\n\n{"label": "neg", "text": "a bad, bad film"}\n'),
        ("t.csv", 'TEXT , Label\na good film,pos\n"a bad, bad film",neg,,\n'),
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, name: str, text: str) -> None:
    assert texts(write(tmp_path / name, text)) == TWO


def test_columns_are_found_by_their_contents(tmp_path: Path) -> None:
    lines = [f"{number}\t{text}\t{label}" for number, (text, label) in enumerate(rows(40))]
    table = write(tmp_path / "t.tsv", "nr\twas\twie\n" + "\n".join(lines))
    assert texts(table) == [((text,), label) for text, label in rows(40)]


def test_a_table_may_have_no_header(tmp_path: Path) -> None:
    lines = [f'"{1 + (label == "pos")}","{text}","it is said, at length"' for text, label in rows(40)]
    path = write(tmp_path / "news" / "test.csv", "\n".join(lines))
    write(tmp_path / "news" / "classes.txt", "bad\ngood\n")
    task = judged(path.parent)
    assert task.labels == ("bad", "good")  # of the numbers 1 and 2
    assert task.pairs
    assert len(task.examples("test")) == 40
    example = next(each for each in task.examples("test") if each.name == "test.csv:1")
    assert task.text_of(example) == (rows(40)[0][0], "it is said, at length")
    assert task.labels[example.label or 0] == {"pos": "good", "neg": "bad"}[rows(40)[0][1]]


def test_pairs_of_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text1,text2,label\nit rains,it is wet,yes\nit rains,it is dry,no\n")
    assert texts(path) == [(("it rains", "it is wet"), "yes"), (("it rains", "it is dry"), "no")]
    task = judged(path)
    assert task.collate(task.examples("test"), {})["text"].shape == (2, 2)


def test_columns_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "title,body,label,topic\ngood,bad news,1,a\nfine,no news,2,b\n")
    assert texts(path, Columns(("body",), "topic")) == [(("bad news",), "a"), (("no news",), "b")]
    assert texts(path) == [(("good", "bad news"), "1"), (("fine", "no news"), "2")]


def test_quotation_marks_in_a_tsv_are_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"good film\tpos\nso "bad"\tneg\n')
    assert texts(path) == [(('"good film',), "pos"), (('so "bad"',), "neg")]


def test_a_value_of_a_csv_may_have_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'text,label\n"good\nfilm",pos\nbad,neg\n')
    assert texts(path) == [(("good\nfilm",), "pos"), (("bad",), "neg")]


def test_a_folder_of_tables_has_splits(tmp_path: Path) -> None:
    for name, count, seed in (("train.csv", 60, 0), ("dev.csv", 20, 1), ("test.csv", 20, 2)):
        write_table(tmp_path / name, count, seed)
    write(tmp_path / "unlabelled.csv", "text\nwhat a film\n")
    task = open_task(tmp_path, TO_TRAIN)
    counts = {split: len(task.examples(split)) for split in ("train", "validation", "test", "unlabelled")}
    repeated = len(task.duplicates)
    assert sum(counts.values()) == 101 - repeated
    assert (counts["test"], counts["unlabelled"]) == (20, 1)
    assert {each.name.split(":")[0] for each in task.examples("validation")} == {"dev.csv"}


def test_rows_without_a_label_are_unlabelled(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "text,label\n" + "\n".join(f"{t},{c}" for t, c in rows(20)) + "\nwho knows,\n")
    task = judged(path)
    assert [task.text_of(each) for each in task.examples("unlabelled")] == [("who knows",)]
    assert len(task.examples("test")) == 20


def test_class_folders(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(rows(12)):
        write(tmp_path / label / f"{number}.txt", f"{text}\n")
    task = judged(tmp_path)
    assert task.labels == ("neg", "pos")
    assert sorted(task.text_of(each)[0] for each in task.examples("test")) == sorted(text for text, _ in rows(12))


def test_a_text_in_two_splits_stays_in_the_test(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", 40, 0)
    write_table(tmp_path / "test.csv", 40, 0)
    with pytest.raises(BadData, match="no examples to train on"):
        open_task(tmp_path, TO_TRAIN)
    write_table(tmp_path / "train.csv", 80, 0)  # begins with those 40
    task = open_task(tmp_path, TO_TRAIN)
    assert len(task.examples("test")) == 40
    assert any("40 copies between splits" in warning for warning in task.warnings)


def test_a_data_set_of_the_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["neg", "pos"])
    given = rows(30)
    columns = {"text": [text for text, _ in given], "label": [names.str2int(label) for _, label in given]}
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "t.parquet"))
    task = open_task(tmp_path / "t.parquet", TO_JUDGE)
    assert isinstance(task, TextTask)
    assert task.labels == ("neg", "pos")
    found = {(task.text_of(each)[0], task.labels[each.label or 0]) for each in task.examples("test")}
    assert found == set(given)


def test_names_and_order_do_not_change_a_task(tmp_path: Path) -> None:
    one = write_table(tmp_path / "one.csv")
    lines = one.read_text().splitlines()
    other = write(tmp_path / "two.csv", "\n".join([lines[0], *reversed(lines[1:])]))
    assert open_task(one, TO_TRAIN).fingerprint == open_task(other, TO_TRAIN).fingerprint


HEAD = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows(30))


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("t.csv", HEAD, Columns(("words",)), r"no column 'words'; it has text, label"),
        ("t.csv", HEAD, Columns((), "class"), r"no column 'class'"),
        ("t.csv", "text,label\n1,pos\n2.5,neg\n3,pos\n", None, r"'text' .*holds numbers"),
        ("t.csv", "text,label\ngood,pos\nfine,pos\n", None, r"one class only, 'pos'"),
        ("t.csv", "text,label\ngood,Pos\nbad,neg\nfine,pos\n", None, r"'Pos' and 'pos' .* differ by case or space"),
        ("t.csv", "text,label\ngood,a  b\nbad,neg\nfine,a b\n", None, r"differ by case or space"),
        ("t.csv", "text,label\n,pos\n,neg\nfine,pos\n", None, r"2 of 3 rows .*empty text"),
        ("t.csv", "", None, r"has no rows"),
        ("t.csv", "text,label\n", None, r"has no rows"),
        ("t.csv", "text\ngood film\nbad film\n", None, r"no row of .* has a label.*--label-column"),
        ("t.csv", "text,label\ngood,pos,x\nbad,neg,y\n", None, r"not as the others|3 values"),
        ("t.csv", 'text,label\n"good, fine",pos\n"bad, so bad,neg\nx,pos\n', None, r"line 2 has 3 values"),
        ("t.csv", "a,b\n\0good,x\n", None, r"zero bytes"),
        ("t.jsonl", '{"text": "good", "label": 1}\n' * 6 + "{oops\n", None, r"line 7 of .* is not JSON"),
        ("t.jsonl", '[{"text": "good"}]', None, r"one JSON list"),
        ("t.jsonl", '{"text": "good", "label": 1}\n[1]\n', None, r"line 2 of .*not an object"),
        ("t.csv", "text,text,label\na,b,c\n", None, r"the column 'text' twice"),
        ("t.xlsx", "text,label\n", None, r"no table of labelled texts"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str, columns: Columns | None, message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(BadData, match=message) as caught:
        judged(path, columns)
    assert "\n" not in str(caught.value)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\nschön,pos\n".encode("latin-1"))
    with pytest.raises(BadData, match="not UTF-8"):
        judged(path)


def test_tables_without_the_names_of_splits(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv")
    write_table(tmp_path / "b.csv")
    with pytest.raises(BadData, match="name them train, validation and test"):
        judged(tmp_path)


def test_two_files_of_one_split(tmp_path: Path) -> None:
    write_table(tmp_path / "dev.csv")
    write_table(tmp_path / "validation.csv")
    with pytest.raises(BadData, match="all the split validation"):
        judged(tmp_path)


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no file or folder"):
        judged(tmp_path / "none.csv")


def test_long_texts_and_other_scripts(tmp_path: Path) -> None:
    long = "word " * 100_000
    path = write(tmp_path / "t.csv", f"text,label\n{long},a\n🙂 emoji 你好 привет,b\n\u2028 odd\u200b lines,a\n")
    task = judged(path)
    array = task.collate(task.examples("test"), {"max_length": 32})["text"]
    assert max(map(len, array)) <= 64 * 32  # what no model reads is not sent to a worker
    assert any("你好" in text for text in array)
    assert len(task.examples("test")) == 3


def test_what_was_understood_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TextTask.open(write_table(tmp_path / "t.csv"), DataOptions(splits=False, progress=Progress()))
    assert "the texts are the column text, the labels label" in capsys.readouterr().err


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"'), min_size=1).filter(
    lambda text: text == text.strip() and text
)


@settings(max_examples=50)
@given(st.lists(st.tuples(CELL, st.sampled_from(["pos", "neg"])), min_size=4, max_size=12))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, str]]) -> None:
    import csv

    folder = tmp_path_factory.mktemp("rows")
    path = folder / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *given])
    read = [(row["text"], row["label"]) for _, row in tables.read(path).rows]
    assert read == given
    lines = folder / "t.jsonl"
    lines.write_text("\n".join(json.dumps({"text": t, "label": c}) for t, c in given), encoding="utf-8")
    assert [(row["text"], row["label"]) for _, row in tables.read(lines).rows] == given
