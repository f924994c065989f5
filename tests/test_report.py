"""The report of a run: facts, photos, plots; what is hostile, missing or damaged."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microbudget.errors import BadInput
from microbudget.kinds.image_classification.data import ImageTask
from microbudget.kinds.image_classification.thumbnail import thumbnail
from microbudget.model import Record
from microbudget.report import write_report
from microbudget.report.answers import Answers, group, to_label
from microbudget.report.confusion import confusion
from microbudget.report.contributions import contributions
from microbudget.report.gallery import TO_LABEL
from microbudget.report.outcome import read_outcome
from microbudget.report.page import hash_of, render
from microbudget.report.plots import Limits, Point, front, trade_off
from microbudget.report.steps import steps, words
from microbudget.task import DataOptions
from report_runs import (
    COLOURS,
    FLOAT,
    HOSTILE,
    LABELS,
    PIXELS,
    RECIPE,
    RED,
    SMALL,
    Made,
    Page,
    make_run,
    read,
    write_photo,
    write_result,
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished run. Do not write into it."""
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def page(made: Made) -> Page:
    return made.page()


def test_the_headline_says_what_ships(made, page):
    assert "2.60 MB instead of 9.12 MB (3.5 times smaller)" in page.text
    assert "6.4 times as fast (2.13 ms instead of 13.6 ms)" in page.text
    ours, theirs = made.shrunk.best.test.quality, made.shrunk.reference.test.quality
    assert (
        f"accuracy {ours * 100:.1f} % against {theirs * 100:.1f} % on {made.shrunk.best.test.examples} test"
        in page.text
    )
    assert made.shrunk.best.test_verdict.reason in page.text
    assert "it is 6.3 to 6.5 times as fast (95 %)" in page.text


def test_budget_that_is_met(page):
    assert "The budget (size at most 4.00 MB, loss at most 1pt) is met" in page.text


@pytest.mark.usefixtures("without_plots")
def test_broken_limits_are_listed(tmp_path):
    made = make_run(tmp_path)
    write_result(made, unmet=["size 2.60 MB is above 2.00 MB"])
    page = made.page()
    assert "is not met" in page.text
    assert "size 2.60 MB is above 2.00 MB" in page.text


@pytest.mark.usefixtures("without_plots")
def test_a_loss_beyond_the_limit_by_the_test_is_never_met(tmp_path):
    """Page, card and terminal: by how much, on how many examples, and nothing in green."""
    made = make_run(tmp_path, wrong={0: 1, 1: 2, 2: 0, 3: 1, 4: 0})
    judged = made.shrunk.best
    assert judged.test_verdict.decision == "not shown"
    unmet = judged.broken_on_test(made.shrunk.budget)
    write_result(made, unmet=unmet)
    page = made.page()
    assert {"class": "state broken"} in page.all("span")
    assert "is not met" in page.text
    assert unmet[0] in page.text
    assert "The estimate is beyond 1pt; whether the loss is, is not shown" in page.text
    card = (made.run.best / "README.md").read_text(encoding="utf-8")
    assert f"* **not met**: {unmet[0]}" in card
    assert made.shrunk.as_dict()["met"] is False


def test_table_has_every_candidate_with_its_numbers(page):
    rows = re.findall(r'<tr class="(\w+)"[^>]*>(.*?)</tr>', page.section("candidates"), re.DOTALL)
    assert [kind for kind, _ in rows] == ["reference", "best", "other", "other"]
    assert all(text in rows[1][1] for text in ("2.60 MB", "2.13 ms", "2.07 to 2.22 ms", "6.4×", "7.80 MB", "not shown"))
    assert "failed: no such layer" in rows[3][1]
    assert RECIPE in page.text
    assert "resize(pixels=96)" in page.text


def test_the_expected_change_stands_beside_the_one_on_the_labels(made):
    outcome = read_outcome(made.run.folder)

    def of(extra):
        rows = (replace(row, measurement=row.measurement and replace(row.measurement, extra=extra))
                for row in outcome.candidates)  # fmt: skip
        return render(replace(outcome, candidates=tuple(rows)))

    for sentence in ("with the least <i>expected</i> loss ships", "<small>expected "):
        assert sentence in of({"kl": 0.1})
        assert sentence not in of({})


def test_what_each_step_brings_follows_from_the_rows(made):
    outcome = read_outcome(made.run.folder)
    assert "What each step of the choice brings" not in render(outcome), "no row lacks a step of the choice"
    tiny = next(row for row in outcome.candidates if row.recipe.startswith("resize"))
    (found,) = contributions(replace(outcome, best=tiny))
    assert (found.without, found.row, found.size, found.latency) == ("resize(pixels=96)", "1", "2.60 MB", "2.13 ms")
    assert "What each step of the choice brings" in render(replace(outcome, best=tiny))
    four = replace(tiny, recipe=RECIPE.replace("bits=8", "bits=4"), fingerprint="four")
    (found,) = contributions(replace(outcome, best=four, candidates=(*outcome.candidates, four)))
    assert found.without == "bits=4 of quantize"


def test_candidate_without_latency_has_a_dash_for_it(page):
    tiny = page.section("candidates").split('<tr class="other"')[1]
    assert re.search(r'<td class="number">–<small></small></td>', tiny)


def test_plots_are_inside_the_page_in_its_own_colours(page):
    section = page.section("plots")
    assert section.count("<svg") == 2
    assert "size (MB)" in section
    assert "latency (ms)" in section
    assert "accuracy on validation (%)" in section
    assert "at most 4.00 MB" in section
    assert "1 ships" in section
    assert not re.search(r"#0101\d\d", page.source), "a colour that stands for one of the page was left"


def test_page_refers_to_nothing_outside(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")), value
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not page.all("link")
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "@import" not in page.source
    assert all(name.startswith("#") for name in re.findall(r"url\(([^)]*)\)", page.source))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    script = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert [hash_of(text) for text in script] == re.findall(r"script-src '([^']*)'", policy), (
        "the only one that may run"
    )


@pytest.mark.usefixtures("without_plots")
def test_signs_of_links_and_markup_in_the_names_of_photos_are_text(tmp_path):
    made = make_run(tmp_path)
    for number, path in enumerate(sorted((tmp_path / "data").rglob("*.png"))):
        path.rename(path.with_name(f"R#{number} 100% <b>.png"))  # the same contents: the same data
    page = made.page()
    photos = [image for image in page.all("img") if "R#" in (image["alt"] or "")]
    assert photos
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in photos)
    assert all((image["alt"] or "").endswith(" 100% <b>.png") for image in photos)
    assert "100% &lt;b&gt;.png" in page.source


def test_every_reference_inside_the_page_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [attributes["href"][1:] for _, attributes in page.tags if (attributes.get("href") or "").startswith("#")]
    wanted += re.findall(r"url\(#([^)]*)\)", page.source)
    assert len(wanted) > 10
    assert set(wanted) <= set(ids)


def test_hostile_names_are_text(page):
    assert re.findall(r"<script[^>]*>", page.source) == ['<script type="application/json" id="rows">', "<script>"]
    assert f"no such layer {HOSTILE}" in [
        row["failure"].removeprefix("failed: ") for row in data_of(page)["rows"] if row["failure"]
    ]
    assert page.text.count(f"given {HOSTILE}") >= 1  # the model's name
    assert f"no such layer {HOSTILE}" in page.text
    assert f"conv1 {HOSTILE}" in page.text
    assert f"Imagined {HOSTILE}" in page.text
    assert RED in page.text
    assert not page.open, "a tag was left open"


def data_of(page: Page) -> dict:
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="rows">(.*?)</script>', page.source, re.DOTALL)
    assert not set("<>&'") & set(text)
    return json.loads(text)


def test_the_rows_are_in_the_page_as_numbers(made, page):
    found = data_of(page)
    assert [row["name"] for row in found["rows"]] == ["ref", "1", "2", "3"]
    assert [rule["key"] for rule in found["measures"]] == ["size", "latency", "memory", "quality"]
    best = made.shrunk.best.measurement
    assert found["rows"][1]["values"]["size"] == ["2.60 MB", best.size_bytes]
    assert found["rows"][1]["values"]["quality"][1] == best.quality
    assert found["rows"][1]["steps"] == ["finetune", "export", "quantize"]
    assert found["rows"][2]["values"]["latency"] == ["–", None]


def test_points_say_what_they_are_without_a_script(page):
    titles = re.findall(r'data-row="(\w+)"><title>(.*?)</title>', page.section("plots"), re.DOTALL)
    assert [row for row, _ in titles] == ["ref", "1", "2", "ref", "1"]
    assert (
        "1 (ships): finetune &gt; export &gt; quantize\n2.60 MB · 2.13 ms (6.4× the reference's speed)\n"
        in html.unescape(titles[1][1]).replace(">", "&gt;")
    )


def test_confusion_counts_true_classes_by_rows(made, page):
    row = read(made.task, "validation")
    best = np.load(made.run.folder / "answers" / f"{SMALL}.validation.npy").argmax(axis=1)
    expected = {}
    for example, predicted in zip(row, best, strict=True):
        expected[example.label, predicted] = expected.get((example.label, predicted), 0) + 1
    cells = re.findall(r'<td class="(?:right|wrong|zero)"[^>]*>(\d*)</td>', page.section("learning"))
    counts = np.array([int(cell or 0) for cell in cells]).reshape(3, 3)
    assert {(a, b): counts[a, b] for a, b in np.argwhere(counts)} == expected
    wrong = [(truth, predicted) for truth, predicted in expected if truth != predicted]
    assert wrong, "the run has no confusion to show"
    for truth, predicted in wrong:
        total = sum(count for (a, _), count in expected.items() if a == truth)
        text = f"{LABELS[truth]} predicted as {LABELS[predicted]} : {expected[truth, predicted]} of {total}"
        assert text in page.text.replace(" :", " :"), page.text


def test_learning_is_described_and_drawn(page):
    assert "would change accuracy by +2.1 pt (95 %: +0.4 to +5.0)" in page.text
    assert page.section("learning").count("<svg") == 3
    assert "6 epochs, of which number 5 was kept" in page.text


def test_steps_are_shown_whatever_they_reported(page):
    assert "largest difference of logits 1.5e-05" in page.text
    assert "same answers 100 %" in page.text
    assert "0.05 %" in page.section("layers")  # saturation
    assert page.section("layers").count("conv") == 3


def test_the_gain_by_a_teacher_is_listed():
    """`distill(curve=True)`: a table of the shares of the labels, with the difference."""
    cells = [(1.0, 0.95, 0.93), (0.3, 0.9, 0.7), (0.1, 0.5, 0.52)]
    rows = [
        {"labels_share": share, "quality_with_teacher": one, "quality_without_teacher": other,
         "gain_by_teacher": one - other}
        for share, one, other in cells
    ]  # fmt: skip
    (step,) = steps(Record(history={"distill": {"teacher_passes": 20, "with_and_without": rows}}))
    assert step.facts == (("teacher passes", "20"),)
    (listing,) = step.listings
    assert [words(column) for column in listing.columns] == [
        "labels share", "quality with teacher", "quality without teacher", "gain by teacher"
    ]  # fmt: skip
    assert [[cell.text for cell in row] for row in listing.rows] == [
        ["100 %", "95 %", "93 %", "2.0 %"], ["30 %", "90 %", "70 %", "20 %"], ["10 %", "50 %", "52 %", "-2 %"]
    ]  # fmt: skip


def test_bytes_add_up_to_the_shipped_file(made, page):
    section = page.section("bytes")
    assert "classifier.weight" in section
    assert f"{3 * PIXELS * PIXELS * len(LABELS)} parameters of 32.00 bits" in page.text
    shares = [float(share) for share in re.findall(r"\(([\d.]+) %\)", section.split("largest")[0])]
    assert 98 <= sum(shares) <= 102


def test_conditions_of_the_measurement(made, page):
    section = page.text[page.text.index("How it was measured") :]
    splits = ", ".join(f"{len(made.task.examples(split))} {split}" for split in ("train", "validation", "test"))
    for fact in (splits, "Seed 0", "Threads 2", "onnxruntime 1.31.1", "Not measured energy", "2 cores", "read once"):
        assert fact in section


def test_photos_are_grouped_by_which_model_is_right(made, page):
    labels = np.array([example.label for example in read(made.task, "validation")])
    predicted = {
        name: np.load(made.run.folder / "answers" / f"{name}.validation.npy").argmax(axis=1) for name in (FLOAT, SMALL)
    }
    right = {name: answer == labels for name, answer in predicted.items()}
    titles = re.findall(r"<h3>([^<]*)\((\d+)\)</h3>", page.section("photos"))
    assert [int(count) for _, count in titles] == [
        (right[FLOAT] & ~right[SMALL]).sum(),
        (~right[FLOAT] & right[SMALL]).sum(),
        (~right[FLOAT] & ~right[SMALL]).sum(),
        (right[FLOAT] & right[SMALL]).sum(),
    ]
    for row in np.flatnonzero(right[FLOAT] & ~right[SMALL]):
        assert read(made.task, "validation")[row].name in page.text


def test_thumbnails_show_the_photos(page):
    pictures = page.all("img")
    assert pictures
    for picture in pictures:
        data = b64decode(picture["src"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert image.size == (160, 120)  # enlarged from 16 x 12 without smoothing
        assert picture["alt"]


def test_test_photos_stay_unseen(made, page):
    shown = {picture["alt"] for picture in page.all("img")}
    assert shown <= {example.name for example in read(made.task, "validation")}


def test_five_lines_run_as_they_stand(made, page):
    lines = re.findall(r'<pre class="copy">(.*?)</pre>', page.section("use"), re.DOTALL)
    code = html.unescape(lines[0])
    assert len(code.splitlines()) == 4
    photo = made.task.path_of(read(made.task, "validation")[0])
    code = code.replace('"photo.jpg"', repr(str(photo)))
    done = subprocess.run([sys.executable, "-c", code], cwd=made.run.best, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in LABELS


@pytest.mark.usefixtures("without_plots")
def test_five_lines_without_predict_run_too(tmp_path):
    made = make_run(tmp_path)
    (made.run.best / "predict.py").unlink()
    lines = re.findall(r'<pre class="copy">(.*?)</pre>', made.page().section("use"), re.DOTALL)
    code = html.unescape(lines[0])
    assert len(code.splitlines()) == 5
    code += "\nprint(logits.shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=made.run.best, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"(1, {len(LABELS)})"


@pytest.mark.usefixtures("without_plots")
def test_unlabelled_photos_are_what_to_label(tmp_path):
    made = make_run(tmp_path, unlabelled=30, wrong=dict.fromkeys(range(25), 1))
    page = made.page()
    ours, theirs = (np.load(made.run.folder / "answers" / f"{name}.unlabelled.npy") for name in (SMALL, FLOAT))
    names = [example.name for example in read(made.task, "unlabelled")]
    different = {names[row] for row in np.flatnonzero(ours.argmax(axis=1) != theirs.argmax(axis=1))}
    listed = re.findall(r'<pre class="copy">(.*?)</pre>', page.section("label"), re.DOTALL)[0].split()
    assert len(different) > TO_LABEL
    assert len(listed) == TO_LABEL
    assert set(listed) <= different
    assert f"Label these {TO_LABEL}" in page.text


@pytest.mark.usefixtures("without_plots")
def test_killed_run_is_reported_from_its_rows(tmp_path):
    made = make_run(tmp_path)
    (made.run.folder / "result.json").unlink()
    page = made.page()
    assert "This run has not ended" in page.text
    assert "2.60 MB instead of 9.12 MB" in page.text  # what was delivered last
    assert "The budget" not in page.text
    assert read_outcome(made.run.folder).best.fingerprint == SMALL


@pytest.mark.usefixtures("without_plots")
def test_missing_data_are_reported(tmp_path):
    made = make_run(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    page = made.page()
    assert "No photos are shown: the data " in page.text
    assert "are not there" in page.text
    assert not page.all("img")
    assert "2.60 MB instead of 9.12 MB" in page.text
    assert page.section("learning").count("<td class=") >= 9  # the confusion is in the run


@pytest.mark.usefixtures("without_plots")
def test_data_that_changed_are_not_shown_beside_old_answers(tmp_path):
    made = make_run(tmp_path)
    write_photo(tmp_path / "data" / "green" / "later.png", COLOURS[1], np.random.default_rng(9))
    assert "have changed since the run" in made.page().text


@pytest.mark.usefixtures("without_plots")
def test_single_photo_that_is_gone_leaves_a_gap(made, tmp_path):
    assert thumbnail(tmp_path / "nothing.jpg") is None
    (tmp_path / "text.jpg").write_text("no image")
    assert thumbnail(tmp_path / "text.jpg") is None


@pytest.mark.usefixtures("without_plots")
def test_missing_answers_are_reported(tmp_path):
    made = make_run(tmp_path)
    for file in (made.run.folder / "answers").iterdir():
        file.unlink()
    assert "does not hold both models' answers" in made.page().text


def test_without_matplotlib_the_page_says_what_brings_the_plots(tmp_path):
    made = make_run(tmp_path)
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from microbudget.report import write_report\n"
        "write_report(Path(sys.argv[1]))\n"
        "assert not any(name.split('.')[0] in ('torch', 'transformers') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(made.run.folder)], check=True)
    page = Page(made.run.report.read_text(encoding="utf-8"))
    assert "<svg" not in page.source
    assert "pip install 'microbudget[train]'" in page.text
    assert "2.60 MB instead of 9.12 MB" in page.text


@pytest.mark.usefixtures("without_plots")
def test_nothing_to_ship(tmp_path):
    made = make_run(tmp_path)
    write_result(made, best=None, candidates=[made.shrunk.candidates[-1]], unmet=["prune: no such layer"])
    page = made.page()
    assert "Nothing ships" in page.text
    assert "is not met" in page.text


def test_reference_that_ships_itself(tmp_path):
    made = make_run(tmp_path)
    write_result(made, best=made.shrunk.reference, candidates=[made.shrunk.reference])
    page = made.page()
    assert "The reference itself ships: 9.12 MB" in page.text
    assert "reference, ships" in page.section("plots")


@pytest.mark.usefixtures("without_plots")
def test_larger_and_slower_models_are_called_so(tmp_path):
    made = make_run(tmp_path)
    best = made.shrunk.best
    measured = replace(best.measurement, size_bytes=18_240_000, latency_s=0.0272)
    slower = {"speedup": 0.5, "low": 0.48, "high": 0.52, "verdict": "slower"}
    write_result(made, best=replace(best, measurement=measured, speed=slower))
    text = made.page().text
    assert "18.2 MB instead of 9.12 MB (2.0 times larger)" in text
    assert "0.50 times as fast" in text
    write_result(made, best=replace(best, speed=slower | {"verdict": "no difference shown"}))
    assert "no difference in speed shown" in made.page().text


@pytest.mark.usefixtures("without_plots")
def test_many_classes_are_listed_in_words(tmp_path):
    made = make_run(tmp_path)
    counts = np.eye(100, dtype=int) * 9
    counts[7, 3] = 5
    extra = {"confusion": counts.tolist(), "labels": [f"kind{n}" for n in range(100)]}
    write_result(made, best=replace(made.shrunk.best, measurement=replace(made.shrunk.best.measurement, extra=extra)))
    page = made.page()
    assert "kind7 predicted as kind3 : 5 of 14" in page.text.replace(" :", " :")
    assert 'class="confusion"' not in page.source


def test_page_is_small_with_large_photos(tmp_path):
    made = make_run(tmp_path, unlabelled=30, wrong=dict.fromkeys(range(25), 1))
    rng = np.random.default_rng(0)
    for split in ("validation", "unlabelled"):
        for example in made.task.examples(split):  # noise is the worst that JPEG can meet, and none for PNG to pack
            noise = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))
            noise.save(made.task.path_of(example), compress_level=0)
    task = ImageTask.open(tmp_path / "data", DataOptions(cache=tmp_path / "pixels"))
    settings = (made.run.folder / "run.toml").read_text(encoding="utf-8")
    settings = settings.replace(made.task.fingerprint, task.fingerprint)
    (made.run.folder / "run.toml").write_text(settings, encoding="utf-8")
    page = made.page()
    assert len(page.all("img")) > TO_LABEL
    assert made.run.report.stat().st_size < 3_000_000


def test_same_run_gives_the_same_page(made):
    first = write_report(made.run.folder).read_bytes()
    assert write_report(made.run.folder).read_bytes() == first
    assert not list(made.run.folder.glob("*.partial*"))


@pytest.mark.usefixtures("without_plots")
def test_reading_a_run_changes_nothing_else(made):
    before = {path: path.stat().st_mtime_ns for path in made.run.folder.rglob("*") if path.name != "report.html"}
    write_report(made.run.folder)
    after = {path: path.stat().st_mtime_ns for path in made.run.folder.rglob("*") if path.name != "report.html"}
    assert after == before


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"reference": {"recipe": 1}}', '{"reference": 1}'])
def test_what_is_no_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "run.toml").write_text('model = "m"\ndata = "d"\nseed = 0\n', encoding="utf-8")
        (tmp_path / "result.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match="no run.toml" if content is None else "damaged"):
        write_report(tmp_path)


def test_run_without_rows_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text('model = "m"\n', encoding="utf-8")
    with pytest.raises(BadInput, match="no candidates yet"):
        write_report(tmp_path)


def naive_groups(reference, small, labels):
    groups = {"regressions": [], "gains": [], "both_wrong": [], "both_right": []}
    for row, label in enumerate(labels):
        before, after = reference[row].argmax() == label, small[row].argmax() == label
        name = {(True, False): "regressions", (False, True): "gains", (False, False): "both_wrong"}
        groups[name.get((before, after), "both_right")].append(row)
    return groups


@settings(max_examples=50)
@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_every_example_is_in_its_group_and_the_worst_come_first(examples, classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (2, examples, classes)).astype(np.float32)
    labels = rng.integers(0, classes, examples)
    answers = Answers.from_logits(*logits)
    judged = vars(group(answers, labels))
    expected = naive_groups(*logits, labels)
    assert {name: sorted(rows) for name, rows in judged.items()} == expected
    lost = [answers.reference[row, labels[row]] - answers.small[row, labels[row]] for row in judged["regressions"]]
    assert lost == sorted(lost, reverse=True)
    chosen = to_label(answers)
    assert sorted(chosen) == [row for row in range(examples) if logits[0, row].argmax() != logits[1, row].argmax()]
    sure = [min(answers.reference[row].max(), answers.small[row].max()) for row in chosen]
    assert sure == sorted(sure, reverse=True)


def test_regressions_are_ranked_by_lost_probability():
    reference = np.array([[2, 0], [4, 0], [9, 0]], np.float32)
    small = np.array([[0, 2], [0, 4], [0, 1]], np.float32)
    assert group(Answers.from_logits(reference, small), np.zeros(3, int)).regressions == [1, 0, 2]


def dot(cost, quality, name="1", role="other"):
    return Point(name, role, cost, quality, quality - 1, quality + 1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=8), st.booleans())
def test_front_holds_what_no_other_beats(spots, higher):
    points = [dot(cost, quality) for cost, quality in spots]
    sign = 1 if higher else -1

    def beaten(one):
        return any(
            other.cost <= one.cost
            and sign * other.quality >= sign * one.quality
            and (other.cost, other.quality) != (one.cost, one.quality)
            for other in points
        )

    assert {(p.cost, p.quality) for p in front(points, higher)} == {
        (p.cost, p.quality) for p in points if not beaten(p)
    }


@pytest.mark.parametrize("spread", [1, 1000])
def test_plot_of_a_text_that_is_markup(spread):
    pytest.importorskip("matplotlib")
    points = [dot(1, 90, "$x$ <b> & co"), dot(spread, 95, "ref", "reference")]
    limits = Limits(cost=1.5, quality=80, cost_label="<i>")
    page = Page(trade_off("plot", points, limits, "cost (<s>)", "quality ($)"))
    assert not page.open
    assert all(found_text in page.text for found_text in ("$x$ <b> & co", "<i>", "cost (<s>)", "quality ($)"))
    assert not {"b", "i", "s"} & {tag for tag, _ in page.tags}


def test_labels_of_a_crowd_do_not_cover_each_other(monkeypatch):
    """Nine candidates of one size, as smaller inputs give."""
    pytest.importorskip("matplotlib")
    from microbudget.report import plots

    placed = []
    place = plots.place_label
    monkeypatch.setattr(plots, "place_label", lambda *given: placed.append(place(*given)) or placed[-1])
    points = [dot(2.6 + n / 1000, 97 - n / 2, str(n)) for n in range(9)] + [dot(9.1, 97, "reference", "reference")]
    trade_off("plot", points, Limits(4, 96, "at most 4 MB", "loss at most 1pt"), "size (MB)", "accuracy (%)")
    assert len(placed) == len(points)
    for n, one in enumerate(placed):
        for other in placed[:n]:
            assert not one.overlaps(other)


class TestSteps:
    def test_unknown_steps_are_listed_by_their_keys(self):
        record = Record(history={"prune": {"sparsity": 0.5, "saved_bytes": 2_000_000, "took_s": 0.5, "kept": None}})
        (step,) = steps(record)
        assert step.facts == (("sparsity", "50 %"), ("saved", "2.00 MB"), ("took", "500 ms"), ("kept", "–"))

    def test_rows_with_different_keys_share_a_table(self):
        record = Record(history={"quantize": {"layers": [{"name": "a", "error": 0.5}, {"name": "b", "reason": "few"}]}})
        (listing,) = steps(record)[0].listings
        assert listing.columns == ("name", "error", "reason")
        assert [[cell.text for cell in row] for row in listing.rows] == [["a", "0.5", "–"], ["b", "–", "few"]]
        assert listing.rows[0][1].bar == 1.0

    @pytest.mark.parametrize("report", ["done", 3, None, [], {}, {"values": list(range(100))}, {"nan": float("nan")}])
    def test_odd_reports_do_no_harm(self, report):
        for step in steps(Record(history={"odd": report})):
            assert all(isinstance(value, str) for _, value in step.facts)


def test_confusion_of_a_task_without_classes(made):
    assert confusion(replace(made.shrunk.best.measurement, extra={})) is None
    assert confusion(replace(made.shrunk.best.measurement, extra={"confusion": [[1]], "labels": ["a", "b"]})) is None


def test_importing_the_report_is_light():
    code = "import sys, microbudget.report; assert not {'numpy', 'jinja2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
