import csv
import hashlib
import json
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microbudget.data import folders, metadata, parallel
from microbudget.data.splits import HALVES, WHOLE, complete, divide, keep_apart, shares
from microbudget.errors import BadData
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.machine.processor import thread_count
from microbudget.task import DataOptions, Example

FORMATS = folders.FileFormats(
    "images", frozenset({".jpg", ".png"}), frozenset({".heic", ".svg"}), "convert them to JPEG or PNG"
)


def make(root, *names):
    """Files whose contents are their names: finding them never opens them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return root


def write_csv(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def found(root):
    return {(file.name, file.split, file.label) for file in folders.find(root, FORMATS).files}


class TestClassFolders:
    def test_the_class_is_the_first_folder(self, tmp_path):
        make(tmp_path, "cat/1.jpg", "cat/2020/2.JPG", "dog/1.png", "dog/notes.txt")
        listing = folders.find(tmp_path, FORMATS)
        assert listing.labels == ("cat", "dog")
        assert found(tmp_path) == {
            ("cat/1.jpg", None, "cat"),
            ("cat/2020/2.JPG", None, "cat"),
            ("dog/1.png", None, "dog"),
        }
        assert listing.warnings == ()

    @pytest.mark.parametrize(
        ("names", "splits"),
        [
            (("train", "validation", "test"), {"train", "validation", "test"}),
            (("training", "valid", "test"), {"train", "validation", "test"}),
            (("Train", "val"), {"train", "validation"}),
            (("test",), {"test"}),
        ],
    )
    def test_splits_are_known_by_their_names(self, tmp_path, names, splits):
        for name in names:
            make(tmp_path, f"{name}/a/1.jpg", f"{name}/b/1.jpg")
        assert {file.split for file in folders.find(tmp_path, FORMATS).files} == splits

    def test_a_class_may_be_called_train(self, tmp_path):
        make(tmp_path, "bus/1.jpg", "car/1.jpg", "train/1.jpg")
        assert folders.find(tmp_path, FORMATS).labels == ("bus", "car", "train")

    def test_that_train_is_a_class_is_reported(self, tmp_path):
        make(tmp_path, "bus/1.jpg", "test/1.jpg", "train/1.jpg")
        (warning,) = folders.find(tmp_path, FORMATS).warnings
        assert "test, train" in warning
        assert "read as classes, because of bus" in warning

    @pytest.mark.parametrize("listed", [False, True])
    def test_a_split_that_could_be_a_class_is_refused_with_both_readings(self, tmp_path, listed):
        names = ("bus/1.jpg", "car/1.jpg", "train/steam/1.jpg", "train/electric/1.jpg")
        make(tmp_path, *names)
        if listed:
            rows = [f"{name},{name.split('/')[0]}" for name in names]
            write_csv(tmp_path / "metadata.csv", "\n".join(["file_name,label", *rows]))
        said = (
            r"'train' in .* could be a split or a class.*classes are electric, steam, and bus, car are not used.*class"
        )
        with pytest.raises(BadData, match=said):
            folders.find(tmp_path, FORMATS)

    def test_splits_of_the_same_classes_are_no_question(self, tmp_path):
        make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg", "test/b/2.jpg", "raw/1.jpg", "docs/x.txt")
        listing = folders.find(tmp_path, FORMATS)
        assert {file.split for file in listing.files} == {"train", "test"}
        assert listing.warnings == (f"raw in {tmp_path}: not used, because of the splits test, train",)

    @pytest.mark.parametrize("name", ["blood_test", "train2", "validation-set"])
    def test_only_a_whole_name_is_a_split(self, tmp_path, name):
        make(tmp_path, f"{name}/x/1.jpg", "other/1.jpg")
        assert folders.find(tmp_path, FORMATS).labels == tuple(sorted((name, "other")))

    def test_folders_of_numbers_are_in_the_order_of_numbers(self, tmp_path):
        make(tmp_path, *(f"{number}/1.jpg" for number in range(12)))
        listing = folders.find(tmp_path, FORMATS)
        assert listing.labels == tuple(map(str, range(12)))
        assert "order of numbers" in listing.warnings[0]

    def test_few_numbers_need_no_word(self, tmp_path):
        make(tmp_path, "0/1.jpg", "1/1.jpg")
        assert folders.find(tmp_path, FORMATS).warnings == ()

    def test_photos_directly_in_the_splits_have_no_labels(self, tmp_path):
        make(tmp_path, "train/1.jpg", "test/1.jpg")
        with pytest.raises(BadData, match=r"no labels.*metadata\.csv"):
            folders.find(tmp_path, FORMATS)

    def test_two_folders_for_one_split_are_refused(self, tmp_path):
        make(tmp_path, "val/a/1.jpg", "val/b/1.jpg", "validation/a/1.jpg")
        with pytest.raises(BadData, match="val, validation"):
            folders.find(tmp_path, FORMATS)

    def test_what_stands_beside_the_splits_is_reported(self, tmp_path):
        make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "spare/a/1.jpg")
        listing = folders.find(tmp_path, FORMATS)
        assert len(listing.files) == 2
        assert "spare" in listing.warnings[0]

    def test_hidden_files_and_folders_are_not_seen(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/1.jpg", "a/._1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/a/1.jpg")
        listing = folders.find(tmp_path, FORMATS)
        assert (len(listing.files), listing.labels, listing.warnings) == (2, ("a", "b"), ())

    def test_stray_files_empty_classes_and_foreign_formats_are_reported(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/1.jpg", "cover.png", "a/2.HEIC", "b/3.heic")
        (tmp_path / "c").mkdir()
        stray, empty, foreign = folders.find(tmp_path, FORMATS).warnings
        assert "cover.png" in stray
        assert "c" in empty.split(": ")[1]
        assert "2 .heic" in foreign

    def test_unlabelled_photos_stand_beside(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/1.jpg", "unlabeled/x/9.jpg", "unlabeled/8.jpg")
        assert ("unlabeled/x/9.jpg", "unlabelled", None) in found(tmp_path)
        assert folders.find(tmp_path, FORMATS).labels == ("a", "b")
        assert folders.find(tmp_path, FORMATS).warnings == ()


class TestMetadata:
    def test_csv_in_the_root(self, tmp_path):
        make(tmp_path, "1.jpg", "deep/2.jpg")
        write_csv(tmp_path / "metadata.csv", 'file_name,label\n1.jpg,"rose, red"\ndeep\\2.jpg,iris\n')
        assert found(tmp_path) == {("1.jpg", None, "rose, red"), ("deep/2.jpg", None, "iris")}
        assert folders.find(tmp_path, FORMATS).labels == ("iris", "rose, red")

    def test_jsonl_and_a_byte_order_mark(self, tmp_path):
        make(tmp_path, "ä.jpg", "2.jpg")
        lines = [json.dumps({"file_name": "ä.jpg", "label": 1}), "", json.dumps({"file_name": "2.jpg", "label": "b"})]
        write_csv(tmp_path / "metadata.jsonl", b"\xef\xbb\xbf" + "\n".join(lines).encode())
        assert found(tmp_path) == {("ä.jpg", None, "1"), ("2.jpg", None, "b")}

    def test_each_split_has_its_own(self, tmp_path):
        make(tmp_path, "train/1.jpg", "train/2.jpg", "test/1.jpg")
        write_csv(tmp_path / "train" / "metadata.csv", "file_name,label\n1.jpg,a\n2.jpg,b\n")
        write_csv(tmp_path / "test" / "metadata.csv", "file_name,label\n1.jpg,b\n")
        assert ("test/1.jpg", "test", "b") in found(tmp_path)
        assert ("train/1.jpg", "train", "a") in found(tmp_path)

    def test_one_file_in_the_root_labels_all_splits(self, tmp_path):
        make(tmp_path, "train/1.jpg", "val/1.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label\ntrain/1.jpg,a\nval/1.jpg,b\n")
        assert found(tmp_path) == {("train/1.jpg", "train", "a"), ("val/1.jpg", "validation", "b")}

    def test_metadata_in_one_split_and_class_folders_in_the_other(self, tmp_path):
        make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/1.jpg")
        write_csv(tmp_path / "test" / "metadata.csv", "file_name,label\n1.jpg,b\n")
        assert ("test/1.jpg", "test", "b") in found(tmp_path)

    def test_a_split_without_rows_keeps_its_class_folders(self, tmp_path):
        make(tmp_path, "train/1.jpg", "train/2.jpg", "test/a/1.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label\ntrain/1.jpg,a\ntrain/2.jpg,b\n")
        assert ("test/a/1.jpg", "test", "a") in found(tmp_path)

    def test_numbers_are_ordered_as_numbers_and_named_by_label_name(self, tmp_path):
        make(tmp_path, "1.jpg", "2.jpg", "3.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label,label_name\n1.jpg,10,ape\n2.jpg,9,zebra\n3.jpg,101,cow\n")
        listing = folders.find(tmp_path, FORMATS)
        assert listing.labels == ("zebra", "ape", "cow")
        assert listing.values == ("9", "10", "101")

    def test_numbers_without_names(self, tmp_path):
        """pandas writes 3.0 as soon as one label is missing."""
        make(tmp_path, "1.jpg", "2.jpg", "3.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label\n1.jpg,10.0\n2.jpg,9.0\n3.jpg,\n")
        listing = folders.find(tmp_path, FORMATS)
        assert listing.labels == ("9", "10")
        assert ("3.jpg", "unlabelled", None) in found(tmp_path)

    def test_a_label_of_two_names_is_refused(self, tmp_path):
        make(tmp_path, "1.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label,label_name\n1.jpg,1,a\n2.jpg,1,b\n")
        with pytest.raises(BadData, match="'a' and 'b'"):
            folders.find(tmp_path, FORMATS)

    def test_two_labels_of_one_name_are_reported(self, tmp_path):
        """ImageNet has two classes "crane"."""
        make(tmp_path, "1.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label,label_name\n1.jpg,134,crane\n2.jpg,517,crane\n")
        listing = folders.find(tmp_path, FORMATS)
        assert listing.labels == ("crane", "crane")
        assert "crane" in listing.warnings[0]

    def test_captions_do_not_hide_the_class_folders(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/2.jpg")
        write_csv(tmp_path / "metadata.csv", 'file_name,text\na/1.jpg,"a rose\nand a bee"\n')
        assert folders.find(tmp_path, FORMATS).labels == ("a", "b")

    def test_accents_match_however_they_are_written(self, tmp_path):
        make(tmp_path, "e\u0301.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label\n\u00e9.jpg,a\n2.jpg,b\n")
        assert folders.find(tmp_path, FORMATS).labels == ("a", "b")

    def test_odd_rows_are_reported_and_nothing_is_lost(self, tmp_path):
        make(tmp_path, *(f"{number}.jpg" for number in range(20)))
        rows = [f"{number}.jpg,{'ab'[number % 2]}" for number in range(18)]
        rows += ["18.jpg,", "gone.jpg,a", "3.jpg,b"]
        write_csv(tmp_path / "metadata.csv", "file_name,label\n" + "\n".join(rows))
        listing = folders.find(tmp_path, FORMATS)
        missing, repeated, unlisted, empty = listing.warnings
        assert "gone.jpg" in missing
        assert "3.jpg" in repeated
        assert "19.jpg" in unlisted
        assert "18.jpg" in empty
        assert len(listing.files) == 20
        assert {file.name for file in listing.files if file.split == "unlabelled"} == {"18.jpg", "19.jpg"}

    def test_a_file_with_two_labels_is_kept_under_both(self, tmp_path):
        make(tmp_path, "1.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", "file_name,label\n1.jpg,a\n1.jpg,b\n2.jpg,b\n")
        assert {file.label for file in folders.find(tmp_path, FORMATS).files if file.name == "1.jpg"} == {"a", "b"}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("file_name,label\n1.jpg,a\ngone.jpg,b\n", r"1 of 2 files.*not there.*gone\.jpg"),
            ("file_name,label\n../1.jpg,a\n", r"outside"),
            ("file_name,label\n/etc/passwd,a\n", r"outside"),
            ("name;label\n1.jpg;a\n", r"no column 'file_name', only 'name;label'"),
            ("file_name,label,label\n1.jpg,a,b\n", r"column 'label' twice"),
            ("file_name,label\n1.jpg,a\n2.jpg\n", r"line 3 .* fewer values \(1\) than the 2 columns"),
            ('file_name,label\n1.jpg,"a\n2.jpg,b"\n', r"line 2 .* quotation mark"),
            ('file_name,label\n1.jpg,"a" rose\n', r"line 2 .* quotation mark"),
            ("file_name,label\n1.jpg,a\n".encode("utf-16"), r"is UTF-16: save it again"),
            ("file_name,label\n1.jpg,a\n".encode("utf-16-le"), r"is UTF-16LE: save it again"),
            ("file_name,label\n1.jpg,a\n".encode("utf-32"), r"is UTF-32: save it again"),
            ("file_name,label\n1.jpg,a,b\n", r"line 2 .* more values"),
            ("file_name,label\n,a\n", r"line 2 .* names no file"),
            (b"file_name,label\n1.jpg,a\n2.jpg,caf\xe9\n", r"not UTF-8 \(line 3\)"),
            ('file_name,label\n"1.jpg,a\n', r"not CSV"),
            ("", r"no column 'file_name', only nothing"),
            ("file_name,label\n1.jpg,\n2.jpg,\n", r"none of the 2 files .* has a label"),
        ],
    )
    def test_what_cannot_be_read_is_refused_with_its_place(self, tmp_path, text, said):
        make(tmp_path, "1.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", text)
        with pytest.raises(BadData, match=said):
            folders.find(tmp_path, FORMATS)

    @pytest.mark.parametrize(("text", "said"), [("[1]", "line 1 .* not an object"), ("{}\n{", "line 2 .* not JSON")])
    def test_bad_lines_of_json(self, tmp_path, text, said):
        make(tmp_path, "1.jpg")
        write_csv(tmp_path / "metadata.jsonl", text)
        with pytest.raises(BadData, match=said):
            folders.find(tmp_path, FORMATS)

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_the_dialect_is_found(self, tmp_path, delimiter, end):
        make(tmp_path, "1.jpg", "2.jpg")
        rows = (("file_name", "label"), ("1.jpg", '"rose, ""red""; x|y"'), ("2.jpg", '\u2028iris\u0085 6" \u00b7'))
        write_csv(tmp_path / "metadata.csv", "\ufeff" + end.join(delimiter.join(row) for row in rows))
        assert folders.find(tmp_path, FORMATS).labels == ('iris\x85 6" \u00b7', 'rose, "red"; x|y')

    def test_excels_line_for_the_delimiter_and_empty_columns(self, tmp_path):
        make(tmp_path, "1.jpg", "2.jpg")
        write_csv(tmp_path / "metadata.csv", "sep=;\r\nfile_name;label\r\n1.jpg;a;;\r\n2.jpg;b\r\n")
        assert folders.find(tmp_path, FORMATS).labels == ("a", "b")

    def test_signs_in_names_are_only_signs(self, tmp_path):
        names = ("a#b%20.jpg", "it's; 50%.jpg", "Gro\u0308\u00dfe & <b>.jpg")
        make(tmp_path, *(f"x/{name}" for name in names))
        composed = [unicodedata.normalize("NFC", name) for name in names]
        rows = [f"x\\{name},{at % 2}" for at, name in enumerate(composed)]
        write_csv(tmp_path / "metadata.csv", "\ufeff" + "\r\n".join(["file_name,label", *rows]))
        assert {file.name for file in folders.find(tmp_path, FORMATS).files} == {f"x/{name}" for name in names}

    @pytest.mark.parametrize("label", [["a"], {"id": 3}, []])
    def test_a_label_that_is_no_text_is_refused(self, tmp_path, label):
        """A class used to be called "['a']"."""
        make(tmp_path, "1.jpg", "2.jpg")
        rows = [{"file_name": "1.jpg", "label": "b", "boxes": [[1, 2]]}, {"file_name": "2.jpg", "label": label}]
        write_csv(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
        with pytest.raises(BadData, match=r"line 2 of .*metadata\.jsonl: 'label' is (a list|an object)"):
            folders.find(tmp_path, FORMATS)

    def test_truth_values_are_written_as_json_has_them(self, tmp_path):
        make(tmp_path, "1.jpg", "2.jpg")
        rows = [{"file_name": f"{at}.jpg", "label": at == 1} for at in (1, 2)]
        write_csv(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
        assert folders.find(tmp_path, FORMATS).labels == ("false", "true")

    @given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(str.strip), min_size=1))
    @settings(max_examples=50)
    def test_what_csv_writes_on_a_line_is_read(self, tmp_path_factory, texts):
        path = tmp_path_factory.mktemp("csv") / "metadata.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(
                [("file_name", "text"), *((f"{at}.jpg", text) for at, text in enumerate(texts))]
            )
        assert [row["text"] for row in metadata.read(path, ("text",))] == texts

    def test_two_metadata_files_are_refused(self, tmp_path):
        make(tmp_path, "1.jpg", "metadata.csv", "metadata.jsonl")
        with pytest.raises(BadData, match="both"):
            folders.find(tmp_path, FORMATS)


class Nobody:
    """A folder that is open to all, and a user whom permissions stop: root passes everywhere."""

    def __init__(self, folder):
        self.folder = folder
        self.user = os.geteuid()
        self.closed = []

    def close(self, path, mode):
        path.chmod(mode)
        self.closed.append(path)
        if self.user == 0:
            os.seteuid(65534)

    def restore(self):
        os.seteuid(self.user)
        for path in self.closed:
            path.chmod(0o700)
        shutil.rmtree(self.folder)


@pytest.fixture
def as_nobody():
    if not hasattr(os, "seteuid"):
        pytest.skip("this system has no users to become")
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to others
    folder.chmod(0o755)
    nobody = Nobody(folder)
    yield nobody
    nobody.restore()


class TestBadFolders:
    def test_missing(self, tmp_path):
        with pytest.raises(BadData, match=r"no folder .*nowhere"):
            folders.find(tmp_path / "nowhere", FORMATS)

    def test_a_file(self, tmp_path):
        make(tmp_path, "photos.zip")
        with pytest.raises(BadData, match="is a file"):
            folders.find(tmp_path / "photos.zip", FORMATS)

    def test_empty(self, tmp_path):
        with pytest.raises(BadData, match=r"holds no images \(\.jpg, \.png\)"):
            folders.find(tmp_path, FORMATS)

    def test_only_foreign_formats(self, tmp_path):
        make(tmp_path, "a/1.heic")
        with pytest.raises(BadData, match="convert them"):
            folders.find(tmp_path, FORMATS)

    def test_one_class_only(self, tmp_path):
        make(tmp_path, "a/1.jpg", "a/2.jpg")
        with pytest.raises(BadData, match="one class only, 'a'"):
            folders.find(tmp_path, FORMATS)

    def test_classes_one_folder_deeper(self, tmp_path):
        make(tmp_path, "flowers/a/1.jpg", "flowers/b/2.jpg")
        with pytest.raises(BadData, match="one folder deeper: a, b"):
            folders.find(tmp_path, FORMATS)

    def test_only_unlabelled(self, tmp_path):
        make(tmp_path, "unlabelled/1.jpg")
        with pytest.raises(BadData, match="none of the 1 files"):
            folders.find(tmp_path, FORMATS)

    @pytest.mark.parametrize("closed", ["data", "data/b", "data/train", "data/train/a"])
    @pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])  # 444: its names can be listed, its files not read
    def test_without_permission(self, as_nobody, closed, mode):
        name = "train/{}/1.jpg" if "train" in closed else "{}/1.jpg"
        make(as_nobody.folder / "data", name.format("a"), name.format("b"))
        as_nobody.close(as_nobody.folder / closed, mode)
        with pytest.raises(BadData, match=r"cannot be read.*Permission denied"):
            ImageTask.open(as_nobody.folder / "data", DataOptions(cache=as_nobody.folder / "cache"))

    def test_links_in_a_circle_end(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "a" / "self").symlink_to(tmp_path / "a", target_is_directory=True)
        (tmp_path / "b" / "other").symlink_to(tmp_path / "a", target_is_directory=True)
        names = {file.name for file in folders.find(tmp_path, FORMATS).files}
        assert {"a/1.jpg", "b/1.jpg", "b/other/1.jpg"} == names

    def test_a_broken_link_is_found_to_be_reported(self, tmp_path):
        make(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a" / "2.jpg").symlink_to(tmp_path / "gone.jpg")
        assert "a/2.jpg" in {file.name for file in folders.find(tmp_path, FORMATS).files}


def example(content, label, name=None):
    return Example(hashlib.sha256(str(content).encode()).hexdigest()[:16], label, name or f"{content}.jpg")


def classes(*sizes):
    return [example(f"{label}-{number}", label) for label, size in enumerate(sizes) for number in range(size)]


class TestSplits:
    def test_an_unsplit_folder_is_cut_70_15_15(self):
        done = complete({"train": classes(60, 60, 60)}, seed=0)
        for split, count in (("train", 42), ("validation", 9), ("test", 9)):
            assert [sum(e.label == label for e in done[split]) for label in range(3)] == [count] * 3

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"train": 100}, {"train": 70, "validation": 15, "test": 15}),
            ({"train": 80, "validation": 20}, {"train": 80, "validation": 10, "test": 10}),
            ({"train": 80, "test": 20}, {"train": 64, "validation": 16, "test": 20}),
            ({"train": 60, "validation": 20, "test": 20}, {"train": 60, "validation": 20, "test": 20}),
        ],
    )
    def test_missing_splits(self, given, expected):
        start = {name: [example(f"{name}{i}", i % 2) for i in range(count)] for name, count in given.items()}
        done = complete(start, seed=1)
        assert {name: len(examples) for name, examples in done.items()} == expected
        assert sorted(e.key for part in done.values() for e in part) == sorted(e.key for p in start.values() for e in p)

    def test_nothing_to_train_on(self):
        with pytest.raises(BadData, match="only test, validation"):
            complete({"test": classes(3, 3), "validation": classes(2)}, seed=0)

    def test_too_few(self):
        with pytest.raises(BadData, match="2 different examples are too few"):
            complete({"train": classes(1, 1)}, seed=0)

    def test_a_single_example_is_trained_on(self):
        for seed in range(5):
            done = complete({"train": classes(1, 40, 1)}, seed)
            assert {0, 2} <= {e.label for e in done["train"]}
            assert {e.label for e in done["validation"] + done["test"]} == {1}

    def test_neither_order_nor_names_matter_but_the_seed_does(self):
        one = classes(20, 30)
        renamed = [Example(e.key, 1 - e.label, f"renamed/{e.name}") for e in reversed(one)]
        first, second, other = (complete({"train": e}, seed) for e, seed in ((one, 3), (renamed, 3), (one, 4)))
        assert {e.key for e in first["test"]} == {e.key for e in second["test"]}
        assert {e.key for e in first["test"]} != {e.key for e in other["test"]}

    def test_copies_go_the_same_way(self):
        copies = [example(number // 3, number // 3 % 2, f"{number}.jpg") for number in range(90)]
        parts = divide(copies, WHOLE, seed=0)
        keys = [{e.key for e in part} for part in parts]
        assert sum(len(part) for part in parts) == 90
        assert sum(len(part) for part in keys) == len(set.union(*keys)) == 30

    @given(
        sizes=st.lists(st.integers(1, 200), min_size=1, max_size=30),
        fractions=st.sampled_from([WHOLE, HALVES, (0.8, 0.2)]),
    )
    @settings()
    def test_shares_add_up_and_stay_near_the_fractions(self, sizes, fractions):
        for size, counts in zip(sizes, shares(sizes, fractions), strict=True):
            assert sum(counts) == size
            assert min(counts) >= 0
            if size >= 2 * (len(fractions) - 1):
                assert min(counts) >= 1
            assert abs(counts[0] - fractions[0] * size) <= 1 + 1e-9
            for count, fraction in zip(counts[1:], fractions[1:], strict=True):
                assert abs(count - fraction * size) <= 2 + 1e-9

    def test_rounding_does_not_pile_up(self):
        """100 classes of 3: 0.45 of each, rounded by itself, would leave nothing to validate on."""
        totals = [sum(column) for column in zip(*shares([3] * 100, WHOLE), strict=True)]
        assert totals == [210, 45, 45]


class TestCopies:
    def test_test_stays_clean(self):
        shared, other = example("same", 0, "train/1.jpg"), example("same", 0, "test/9.jpg")
        kept, duplicates = keep_apart({"train": [shared, example("x", 1)], "test": [other], "unlabelled": [shared]})
        assert kept["test"] == [other]
        assert [e.name for e in kept["train"]] == ["x.jpg"]
        assert kept["unlabelled"] == []
        assert {(pair.first, pair.dropped) for pair in duplicates} == {("test/9.jpg", "train/1.jpg")}
        assert "left out of train" in str(duplicates[0])

    def test_validation_goes_before_train(self):
        pair = {"train": [example("same", 0, "t.jpg")], "validation": [example("same", 0, "v.jpg")]}
        kept, duplicates = keep_apart(pair)
        assert (kept["train"], len(kept["validation"]), len(duplicates)) == ([], 1, 1)

    def test_one_photo_under_two_labels_is_reported_and_kept(self):
        pair = [example("same", 0, "a/1.jpg"), example("same", 1, "b/2.jpg")]
        kept, (duplicate,) = keep_apart({"train": pair})
        assert kept["train"] == pair
        assert (duplicate.first, duplicate.second, duplicate.dropped) == ("a/1.jpg", "b/2.jpg", None)
        assert "two labels" in str(duplicate)

    def test_copies_within_a_split_are_kept(self):
        pair = [example("same", 0, "a/1.jpg"), example("same", 0, "a/2.jpg")]
        assert keep_apart({"train": pair}) == ({"train": pair}, [])


def test_threads_keep_the_order_and_stop_with_their_consumer():
    done = []

    def work(number):
        done.append(number)
        return -number

    assert list(parallel.each(work, range(3000), 2)) == [-number for number in range(3000)]
    done.clear()
    stream = parallel.each(work, range(3000), 2)
    assert next(stream) == 0
    stream.close()
    assert len(done) <= parallel.CHUNK


def test_an_error_in_a_thread_arrives():
    def fail(number):
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        list(parallel.each(fail, [0, 1], 2))


def test_threads_default_to_the_cores_of_this_process():
    assert thread_count(3) == 3
    assert 1 <= thread_count(0) <= (os.cpu_count() or 1)
